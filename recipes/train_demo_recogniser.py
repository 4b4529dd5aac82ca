"""Train a small wav2vec2 from scratch on speech of eSpeak NG: a recogniser for machines without the Hub.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/train_demo_recogniser.py --config recipes/configs/train_demo_recogniser/default.yaml
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import soxr
from accelerate import PartialState
from accelerate.utils import set_seed

from dataset_scripts.demo_recordings import CONDITIONS, heard_utterances, new_utterances
from hf_components.asr import NetworkArguments, build_wav2vec2, family_of
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    SEEDS,
    PlotArguments,
    Progress,
    ResumeArguments,
    flag,
    parse_arguments,
    run_as_stage,
    run_recipe,
)
from hf_components.speech import SAMPLING_RATE, encode_flac
from hf_components.training import CtcTrainingArguments, SpeechTrainer, keep_learnable, plot_training, save_history

logger = logging.getLogger(__name__)
TITLE = "Demo recogniser"


@dataclass
class Arguments(ResumeArguments, PlotArguments):
    train_speakers: int = flag("synthetic speakers to train on", default=24, min=1)
    utterances_per_speaker: int = flag("utterances of each of them, about 2 s each", default=120, min=1)
    dev_speakers: int = flag("speakers to score on, none of them trained on", default=4, min=1)
    dev_utterances: int = flag("utterances of each of them, once clean and once in babble", default=20, min=1)
    speech_seed: int = flag("seed of voices, sentences and noise", default=0, **SEEDS)


ARGUMENTS = (Arguments, NetworkArguments, PublishModelArguments, CtcTrainingArguments)


def main(argv: list[str] | None = None) -> dict:
    args, network, publishing, training_args = parse_arguments(ARGUMENTS, argv, __doc__)
    output_dir = training_args.output_dir
    metrics = run_as_stage(produce, args, network, training_args, derive={"plot": plot_training(TITLE)})
    logger.info("%s: %s", output_dir, ", ".join(f"{key} {value}" for key, value in metrics.items()))
    push(publishing, output_dir)
    return metrics


def produce(args: Arguments, network: NetworkArguments, training_args: CtcTrainingArguments, folder: Path) -> dict:
    set_seed(training_args.seed)
    train = spoken_rows("heard", heard_utterances(args.train_speakers, args.utterances_per_speaker, args.speech_seed))
    dev = datasets.concatenate_datasets(
        [
            spoken_rows(condition, new_utterances(condition, args.dev_speakers, args.dev_utterances, args.speech_seed))
            for condition in CONDITIONS
        ]
    )
    model, processor = build_wav2vec2(network)
    family_of(model).prepare_for_training(model, from_scratch=True)
    train = keep_learnable(train, model, processor, max(training_args.speed_factors, default=1.0))

    training_args.output_dir = str(folder / "checkpoints")
    trainer = SpeechTrainer(model, training_args, processor, train, dev)
    trainer.train(resume_from_checkpoint=args.resume)
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        save_history(trainer, folder, TITLE, args.plot)
    return {
        "parameters": model.num_parameters(),
        "utterances": len(train),
        "hours": round(sum(train["duration"]) / 3600, 2),
        "train_loss": trainer.last_loss,
        **{f"wer_{name}": metrics[f"eval_wer_{name}"] for name in CONDITIONS},
    }


def spoken_rows(group: str, spoken: Iterable[tuple]) -> datasets.Dataset:
    """Rows of the data contract from (speaker, text, int16 samples, sample rate)."""
    rows = []
    for speaker, text, samples, sample_rate in Progress(
        list(spoken), desc=f"encoding {group}", disable=not PartialState().is_main_process
    ):
        waveform = soxr.resample(samples.astype(np.float32) / 32768, sample_rate, SAMPLING_RATE)
        rows.append(
            {
                "id": f"{group}-{len(rows)}",
                "audio": {"bytes": encode_flac(waveform), "path": None},
                "text": text,
                "speaker_id": speaker.id,
                "group": group,
                "duration": len(waveform) / SAMPLING_RATE,
            }
        )
    return datasets.Dataset.from_list(rows)


if __name__ == "__main__":
    run_recipe(main)
