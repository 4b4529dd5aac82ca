"""Run the pipeline of sounds: manifest, a recogniser that writes IPA, its error rate beside words in IPA, submission.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_phonetic_pipeline.py --config recipes/configs/run_phonetic_pipeline/default.yaml \\
    --data data/children --model openai/whisper-small --output_dir runs/phonetic

Rows with `phonetic_text` are used as they are. For those with words alone eSpeak NG says how the words should sound.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from dataset_scripts.layouts import MANIFEST, must_prepare
from hf_components.asr import can_be_packed
from hf_components.checkpoints import base_model_id, read_config
from hf_components.publishing import PublishModelArguments, push, release_phonetic
from hf_components.runtime import (
    PHONETIC,
    Pipeline,
    PipelineArguments,
    UserError,
    all_flags,
    flag,
    passed_on_arguments,
    run_recipe,
    same_names,
)
from hf_components.speech import language_code, require_splits, summarise_corpus
from hf_components.training import UNSELECTED, AugmentationArguments
from recipes import evaluate_asr, finetune_asr, finetune_whisper, pack_submission, prepare_corpus, transcribe

logger = logging.getLogger(__name__)

TRANSCRIBED = {"zero_shot": "zero_shot", "words": "words_transcripts", "finetuned": "finetuned_transcripts"}
ADVICE = (
    "a model is trained on some people and scored on others; raise --val_ratio, take --stratify_by none if no age "
    "has two people, or give a --val_manifest"
)
PASSED_ON = {
    prepare_corpus: same_names(*prepare_corpus.OF_MANIFESTS),
    finetune_asr: same_names(
        "head",
        "head_learning_rate",
        "freeze_encoder",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "warmup_steps",
        "full_context_fraction",
        "eval_strategy",
        "early_stopping_patience",
        "fp16",
        "no_fp16",
        "bf16",
        "gradient_checkpointing",
    )
    | all_flags(AugmentationArguments),
    transcribe: same_names("batch_seconds", "num_beams", "max_new_tokens"),
    evaluate_asr: same_names("num_bootstrap", "worst"),
    pack_submission: same_names("test_utterances", "hours", "max_megabytes"),
}


@dataclass
class Arguments(PipelineArguments):
    data: str = flag("folder of a JSONL manifest and its audio, or a prepared corpus: folder or Hub id")
    model: str = flag(
        "base model, a Whisper or any other recogniser that can be trained: folder or Hub id",
        default="models/whisper-tiny.en",
    )
    g2p: str | None = flag(
        "voice of eSpeak NG that turns words into IPA, where there is none and for the zero-shot row",
        default="en-us",
        needs={"target": PHONETIC},  # always so here
    )
    compare_words: bool = flag(
        "also fine-tune the base, a Whisper, on words, and turn what that writes into IPA: a row beside the others",
        default=False,
    )
    language: str = flag("language code of a multilingual model", default="en", read=language_code)
    test_manifest: str | None = flag("manifest to write IPA of, to <output_dir>/submission.jsonl", default=None)
    test_audio_dirs: list[str] | None = flag(
        "folders to search for its audio; default: --audio_dirs, or its own folder and sub-folders",
        default=None,
        needs="test_manifest",
    )
    submission_format: str | None = flag("submission_format.jsonl: gives the order of its lines", default=None)

    def __post_init__(self):
        if self.submission_format and not self.test_manifest:
            raise UserError(f"--submission_format {self.submission_format} is for a --test_manifest; give that too")


ARGUMENTS = (Arguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    pipeline = Pipeline(Path(__file__).parent / "configs", ARGUMENTS, PASSED_ON, argv, __doc__)
    steps = pipeline.follow(take_steps)
    args = pipeline.args
    if args.dry_run:
        return {"steps": list(steps)}
    metrics = {name: step.metrics for name, step in steps.items()}
    transcribed = {name: metrics[folder] for name, folder in TRANSCRIBED.items() if folder in metrics}
    results = {
        "mode": args.mode,
        "seed": args.seed,
        "language": args.language,
        "license": pipeline.publishing.model_license,
        "base_model": base_model_id(args.model),
        "g2p": args.g2p,
        "corpus": summarise_corpus(str(steps.get("corpus", args.data))),
        "training": metrics["finetuned"],
        "evaluation": metrics["evaluation"],
        "ipa_cer": {name: figures["cer"] for name, figures in metrics["evaluation"]["systems"].items()},
        "transcription": transcribed,
        "package": metrics.get("submission"),
        "selected_on": metrics["finetuned"]["selected_on"],
    }
    results = pipeline.finish(
        results,
        release_phonetic,
        inputs=[steps["finetuned"] / "model", steps["evaluation"]],
        seconds=sum(figures["seconds"] for figures in transcribed.values()),
    )
    push(pipeline.publishing, pipeline.out / "model")
    return results


def take_steps(pipeline: Pipeline) -> None:
    args = pipeline.args
    passed_on = pipeline.passed_on
    run = pipeline.run
    pipeline.everywhere(language=args.language)

    # 1 Corpus, divided by child
    corpus = args.data
    if passed_on.manifest or must_prepare(args.data, MANIFEST):
        corpus = run(prepare_corpus, "corpus", size="default", builder="jsonl_manifest", data_dir=args.data)
    pipeline.check(require_splits, args.data, str(corpus), {"train", "dev"}, ADVICE)
    pipeline.everywhere(corpus=corpus)
    ipa = {"target": PHONETIC, "g2p": args.g2p}

    # 2 A recogniser that writes sounds
    unselected = UNSELECTED if args.mode == "quick" else {}
    trained = run(finetune_asr, "finetuned", model=args.model, **ipa, **unselected)
    model = trained / "model"

    # 3 What the base model writes, which are words; so does one that is trained on words; and what this one writes
    systems = {"zero_shot": args.model, "finetuned": model}
    if args.compare_words:
        words = run(finetune_whisper, "words", model=args.model, **unselected)
        systems = {"zero_shot": args.model, "words": words / "model", "finetuned": model}
    files = {name: pipeline.out / "transcripts" / f"{name}.jsonl" for name in systems}
    for name, checkpoint in systems.items():
        run(transcribe, TRANSCRIBED[name], model=checkpoint, output_jsonl=files[name])

    # 4 Character error rates of IPA side by side
    run(evaluate_asr, "evaluation", predictions=list(files.values()), **ipa)

    # 5 IPA of the test set
    if args.test_manifest:
        run(
            transcribe,
            "test",
            corpus=None,
            input_jsonl=args.test_manifest,
            fields=passed_on.fields,
            audio_dirs=args.test_audio_dirs or passed_on.audio_dirs,
            model=model,
            output_jsonl=pipeline.out / "submission.jsonl",
            submission_format=args.submission_format,
        )

    # 6 The zip that a competition runs
    if passed_on.head == "ctc" or can_be_packed(read_config(args.model)["model_type"]):
        run(pack_submission, "submission", model=model, track="phonetic", output=pipeline.out / "submission.zip")
    else:
        logger.warning("%s needs more than transformers, so that there will be no submission.zip", args.model)


if __name__ == "__main__":
    run_recipe(main)
