"""Run the pipeline of acoustic units: recordings, segments, units, motifs, a vocoder, its figures, card.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_units_pipeline.py --config recipes/configs/run_units_pipeline/default.yaml \\
    --data data/recordings --model facebook/wav2vec2-large-xlsr-53 --output_dir runs/units
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from dataset_scripts.audio_folder import audio_files
from dataset_scripts.layouts import RECORDINGS, must_prepare
from dataset_scripts.segmented_audio import speakers_of
from hf_components.publishing import PublishVoiceArguments, push
from hf_components.runtime import (
    Pipeline,
    PipelineArguments,
    all_flags,
    flag,
    passed_on_arguments,
    run_recipe,
    same_names,
)
from hf_components.speech import require_splits, summarise_corpus
from hf_components.units import release_units
from hf_components.units.vocoder import AdversarialArguments, require_known_voices, require_voices
from recipes import (
    build_concordance,
    evaluate_vocoder,
    export_annotations,
    learn_motifs,
    learn_units,
    segment_audio,
    train_unit_vocoder,
)

ADVICE = (
    "units are learnt on train, the vocoder is scored on dev; give more recordings, or choose a larger --val_ratio"
)
FIGURES = ("snr", "mcd", "mcd_shuffled_units", "length_ratio", "log_f0_rmse", "bitrate", "cer", "cer_original")
PASSED_ON = {
    segment_audio: same_names(
        "silence_db", "min_silence", "min_segment", "max_segment", "padding", "detector", "val_ratio", "split_by"
    ),
    learn_units: same_names("num_units", "layer", "unit_rate"),
    learn_motifs: same_names("vocab_size"),
    train_unit_vocoder: same_names(
        "head", "speaker_embedding", *all_flags(AdversarialArguments, without=("seed", "num_workers", "report_to"))
    ),
    evaluate_vocoder: same_names("max_samples", "num_bootstrap", "recogniser_model"),
}


@dataclass
class Arguments(PipelineArguments):
    data: str = flag("folder of recordings of any length, or a prepared corpus: folder or Hub id")
    model: str = flag(
        "encoder of the units: wav2vec2, HuBERT, WavLM, w2v-BERT or Whisper (folder or Hub id), or mfcc",
        default="facebook/wav2vec2-large-xlsr-53",
    )
    linguists: bool = flag("also write TextGrid and ELAN tiers, and a page of motifs to listen to", default=True)


ARGUMENTS = (Arguments, PublishVoiceArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    pipeline = Pipeline(__file__, ARGUMENTS, PASSED_ON, argv, __doc__)
    steps = pipeline.follow(take_steps)
    args = pipeline.args
    if args.dry_run:
        return {"steps": list(steps)}
    metrics = {name: step.metrics for name, step in steps.items()}
    results = {
        "corpus": summarise_corpus(str(steps.get("segments", args.data)), shared_speakers=True),
        **{name: metrics.get(name) for name in ("segments", "units", "motifs", "vocoder", "evaluation")},
        **{name: metrics["evaluation"][name] for name in FIGURES},
    }
    inputs = [steps[name] for name in ("units", "motifs", "vocoder", "evaluation")]
    results = pipeline.finish(results, release_units, inputs=inputs)
    push(pipeline.publishing, pipeline.out / "model")
    return results


def take_steps(pipeline: Pipeline) -> None:
    args = pipeline.args
    run = pipeline.run

    # 1 Segments of the recordings, between their pauses
    corpus = args.data
    recordings = None
    has_voices = pipeline.planned("vocoder", "speaker_embedding")  # then train and dev need the same speakers
    if must_prepare(args.data, RECORDINGS):
        if has_voices:
            pipeline.check(check_voices, args.data, pipeline.planned("segments", "split_by"))
        corpus = run(segment_audio, "segments", data_dir=args.data, split_by="recording" if has_voices else None)
        recordings = args.data
    pipeline.check(check_corpus, args.data, str(corpus), has_voices)
    pipeline.everywhere(corpus=corpus)

    # 2 Units: clusters of an encoder's frames of 20 ms
    units = run(learn_units, "units", model=args.model)
    pipeline.everywhere(units_dir=units)

    # 3 Motifs: sequences of units that recur, also as pages for linguists
    motifs = run(learn_motifs, "motifs")
    if args.linguists:
        run(export_annotations, "annotations", recordings_dir=recordings, motifs_dir=motifs)
        run(build_concordance, "concordance", motifs_dir=motifs)

    # 4 Vocoder: speech from units
    vocoder = run(train_unit_vocoder, "vocoder")

    # 5 Segments spoken again from their units, beside the originals
    run(evaluate_vocoder, "evaluation", vocoder_model=vocoder / "model")


def check_voices(recordings: str, split_by: str | None) -> None:
    if files := audio_files(recordings):  # else segment_audio says that there are none
        require_known_voices(set(speakers_of(files)), recordings, split_by)


def check_corpus(data: str, corpus: str, has_voices: bool) -> None:
    require_splits(data, corpus, {"train", "dev"}, ADVICE, shared_speakers=True)
    if has_voices:
        require_voices(corpus)


if __name__ == "__main__":
    run_recipe(main)
