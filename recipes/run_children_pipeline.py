"""Run the pipeline of children's speech: manifest, fine-tuning, transcripts, WER beside zero-shot, submission, card.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_children_pipeline.py --config recipes/configs/run_children_pipeline/default.yaml \\
    --data data/children --model openai/whisper-small --output_dir runs/children
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from dataset_scripts.layouts import MANIFEST, must_prepare
from hf_components.asr import can_be_packed, check_same_ids, read_submission_format
from hf_components.checkpoints import base_model_id, read_config
from hf_components.publishing import PublishModelArguments, push, release_recogniser
from hf_components.runtime import (
    Pipeline,
    PipelineArguments,
    UserError,
    all_flags,
    flag,
    parse_pairs,
    passed_on_arguments,
    read_by_id,
    run_recipe,
    same_names,
)
from hf_components.speech import is_prepared, language_code, require_splits, summarise_corpus
from hf_components.training import UNSELECTED, AugmentationArguments, FilterArguments, KlToBaseArguments, LoraArguments
from recipes import (
    average_checkpoints,
    evaluate_asr,
    finetune_asr,
    finetune_whisper,
    pack_submission,
    prepare_corpus,
    transcribe,
)

logger = logging.getLogger(__name__)

TRANSCRIBED = {  # transcripts of each system: folder of the step
    "zero_shot": "zero_shot",
    "finetuned": "finetuned_transcripts",
    "finetuned_30s": "finetuned_30s",
    "test": "test",
}
DEBUG_SAMPLES = 100
ADVICE = (
    "a model is trained on some children and scored on others; raise --val_ratio, take --stratify_by none if no age "
    "has two children, or give a --val_manifest"
)
TRAINING = (
    same_names(
        "finetuning",
        "freeze_encoder",
        "audio_context",
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
        "max_new_tokens",
        "gradient_checkpointing",
    )
    | all_flags(FilterArguments)
    | all_flags(LoraArguments)
    | all_flags(KlToBaseArguments)
    | all_flags(AugmentationArguments)
)
PASSED_ON = {
    prepare_corpus: same_names(*prepare_corpus.OF_MANIFESTS),
    finetune_whisper: TRAINING,
    finetune_asr: TRAINING,
    transcribe: same_names("batch_seconds", "num_beams", "max_new_tokens"),
    evaluate_asr: same_names("num_bootstrap", "worst"),
    pack_submission: same_names("test_utterances", "hours", "max_megabytes", "max_new_tokens"),
}


@dataclass
class Arguments(PipelineArguments):
    data: str = flag("folder of a JSONL manifest and its audio, or a prepared corpus: folder or Hub id")
    model: str = flag(
        "base model, a Whisper or any other recogniser that can be trained: folder or Hub id",
        default="models/whisper-tiny.en",
    )
    average: Literal["none", "uniform", "greedy"] = flag(
        "average the checkpoints of training: all of them, or those that lower the WER on dev", default="none"
    )
    test_manifest: str | None = flag("manifest to transcribe to <output_dir>/submission.jsonl", default=None)
    test_audio_dirs: list[str] | None = flag(
        "folders to search for its audio; default: --audio_dirs, or its own folder and sub-folders",
        default=None,
        needs="test_manifest",
    )
    submission_format: str | None = flag("submission_format.jsonl: gives the order of its lines", default=None)
    language: str = flag("language code of a multilingual model", default="en", read=language_code)
    debug: bool = flag(
        f"smoke test: mode quick, one epoch, {DEBUG_SAMPLES} utterances per split, into <output_dir>_debug",
        default=False,
        aliases=["--debug_run"],
    )

    def __post_init__(self):
        if self.debug:  # beside the real result, which it must not replace
            self.mode = "quick"
            self.output_dir = f"{self.output_dir.rstrip('/')}_debug"
        if self.submission_format and not self.test_manifest:
            raise UserError(
                f"--submission_format {self.submission_format} orders the transcripts of a --test_manifest; give "
                "that too"
            )


ARGUMENTS = (Arguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    pipeline = Pipeline(Path(__file__).parent / "configs", ARGUMENTS, PASSED_ON, argv, __doc__)
    check_inputs(pipeline.args, pipeline.passed_on)
    steps = pipeline.follow(take_steps)
    args = pipeline.args
    if args.dry_run:
        return {"steps": list(steps)}
    metrics = {name: step.metrics for name, step in steps.items()}
    transcribed = {system: metrics[folder] for system, folder in TRANSCRIBED.items() if folder in metrics}
    trainings = [metrics[name] for name in ("average", "finetuned") if name in metrics]
    results = {
        "mode": args.mode,
        "seed": args.seed,
        "language": args.language,
        "license": pipeline.publishing.model_license,
        "base_model": base_model_id(args.model),
        "corpus": summarise_corpus(str(steps.get("corpus", args.data))),
        "training": metrics["finetuned"],
        "average": metrics.get("average"),
        "evaluation": metrics["evaluation"],
        "transcription": transcribed,
        "package": metrics.get("submission"),
        "selected_on": next((training["selected_on"] for training in trainings if training["selected_on"]), None),
    }
    results = pipeline.finish(
        results,
        release_recogniser,
        inputs=[steps.get("average", steps["finetuned"]) / "model", steps["evaluation"]],
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
        few = DEBUG_SAMPLES if args.debug else None
        corpus = run(
            prepare_corpus, "corpus", size="default", builder="jsonl_manifest", data_dir=args.data, max_samples=few
        )
    pipeline.check(require_splits, args.data, str(corpus), {"train", "dev"}, ADVICE)
    pipeline.everywhere(corpus=corpus)

    # 2 Fine-tuning; then, if asked for, the mean of its checkpoints
    unselected = UNSELECTED if args.mode == "quick" else {}
    short = (
        {"num_train_epochs": 1, "data_config_override": f'{{"max_samples": {DEBUG_SAMPLES}}}'} if args.debug else {}
    )
    train = finetune_whisper if model_type_of(args.model) == "whisper" else finetune_asr
    trained = run(train, "finetuned", model=args.model, **unselected, **short)
    audio_context = trained["audio_context"]
    if args.average != "none":
        trained = run(average_checkpoints, "average", candidates=[trained.folder], method=args.average)
    model = trained / "model"

    # 3 Transcripts of the base model and of the trained one; a Whisper in its own audio context and at 30 s
    stock_context = "full" if train is finetune_whisper else None
    systems = {"zero_shot": (args.model, stock_context), "finetuned": (model, None)}
    if audio_context == "dynamic":
        systems["finetuned_30s"] = (model, stock_context)
    files = {name: pipeline.out / "transcripts" / f"{name}.jsonl" for name in systems}
    for name, (checkpoint, context) in systems.items():
        run(transcribe, TRANSCRIBED[name], model=checkpoint, audio_context=context, output_jsonl=files[name])

    # 4 Word error rates side by side
    run(evaluate_asr, "evaluation", predictions=list(files.values()))

    # 5 Transcripts of the test set
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
    if can_be_packed(model_type_of(args.model)):
        run(pack_submission, "submission", model=model, output=pipeline.out / "submission.zip")
    else:
        logger.warning("%s needs more than transformers, so that there will be no submission.zip", args.model)


def model_type_of(model: str) -> str:
    """The type of a checkpoint; "whisper" if it cannot be read here, since the training says what is wrong with it."""
    try:
        return read_config(model)["model_type"]
    except UserError:
        return "whisper"


def check_inputs(args: Arguments, passed_on) -> None:
    """Raise `UserError` now for mistakes that would else appear after hours of training."""
    # Flags that the configurations set are no mistake of the user.
    flags = [name for name in PASSED_ON[prepare_corpus] if name not in ("val_ratio", "stratify_by")]
    given = [name for name in flags if getattr(passed_on, name) is not None]
    if given and is_prepared(args.data):
        raise UserError(
            f"--{given[0]} is for a manifest, but {args.data} is prepared and divided already; leave it out"
        )
    if args.test_manifest:
        name = (parse_pairs("fields", passed_on.fields) or {}).get("utterance_id", "utterance_id")
        ids = [found for _, found, _ in read_by_id(args.test_manifest, name)]
        if args.submission_format:
            expected = read_submission_format(args.submission_format)
            check_same_ids(expected, args.submission_format, ids, args.test_manifest)


if __name__ == "__main__":
    run_recipe(main)
