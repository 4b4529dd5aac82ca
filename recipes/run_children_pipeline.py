"""The whole of children's Whisper: manifest, fine-tuning, transcripts and their WER beside zero-shot, submission,
card.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_children_pipeline.py --config recipes/configs/run_children_pipeline/default.yaml \\
    --data data/children --model openai/whisper-small --output_dir runs/children
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that the steps are found as recipes.<step>

from hf_components.asr import check_same_ids, read_submission_format
from hf_components.checkpoints import base_model_id
from hf_components.publishing import PublishModelArguments, push, release_whisper
from hf_components.runtime import (
    PipelineArguments,
    UserError,
    all_flags,
    finish_pipeline,
    parse_arguments,
    parse_pairs,
    passed_on_arguments,
    read_json_lines,
    run_recipe,
    same_names,
    stage_options,
    stage_runner,
    text_field,
)
from hf_components.speech import describe_corpus, is_prepared, load_corpus
from hf_components.training import UNSELECTED, AugmentationArguments, FilterArguments, KlToBaseArguments, LoraArguments
from recipes import average_checkpoints, evaluate_asr, finetune_whisper, pack_submission, prepare_corpus, transcribe

CONFIGS = Path(__file__).parent / "configs"

FOLDERS = {
    "corpus": prepare_corpus,
    "finetuned": finetune_whisper,
    "average": average_checkpoints,
    "zero_shot": transcribe,
    "finetuned_transcripts": transcribe,
    "finetuned_30s": transcribe,
    "test": transcribe,
    "evaluation": evaluate_asr,
    "submission": pack_submission,
}
STAGES = {stage.__name__.rsplit(".", 1)[-1]: stage for stage in FOLDERS.values()}
PASSED_ON = {
    prepare_corpus: same_names(
        "manifest",
        "audio_dirs",
        "val_manifest",
        "split_file",
        "val_ratio",
        "stratify_by",
        "split_seed",
        "fields",
        "external_data",
        "max_samples",
        "license",
    ),
    finetune_whisper: same_names(
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
    )
    | {
        flag: flag
        for kind in (FilterArguments, LoraArguments, KlToBaseArguments, AugmentationArguments)
        for flag in all_flags(kind)
    },
    transcribe: same_names("batch_seconds", "num_beams", "max_new_tokens"),
    evaluate_asr: same_names("num_bootstrap", "worst"),
    pack_submission: same_names("utterances", "hours", "max_megabytes", "max_new_tokens"),
}


@dataclass
class Arguments(PipelineArguments):
    data: str = field(
        metadata={"help": "folder of a JSONL manifest and its audio, or a prepared corpus: folder or Hub id"}
    )
    model: str = field(default="models/whisper-tiny.en", metadata={"help": "base Whisper: folder or Hub id"})
    average: Literal["none", "uniform", "greedy"] = field(
        default="none",
        metadata={"help": "average the checkpoints of training: all of them, or those that lower the WER on dev"},
    )
    test_manifest: str | None = field(
        default=None,
        metadata={"help": "manifest without transcripts, to be transcribed to <output_dir>/submission.jsonl"},
    )
    test_audio_dirs: list[str] | None = field(
        default=None,
        metadata={
            "help": "folders to search for its audio; by default --audio_dirs, or its own folder and those in it"
        },
    )
    submission_format: str | None = field(default=None, metadata={"help": "the order of its lines"})
    language: str = field(default="en", metadata={"help": "language code, for multilingual checkpoints"})

    def __post_init__(self):
        if self.submission_format and not self.test_manifest:
            raise UserError(
                f"--submission_format {self.submission_format} orders the transcripts of a --test_manifest; give "
                "that too"
            )


ARGUMENTS = (Arguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    args, publishing, passed_on = parse_arguments(ARGUMENTS, argv, __doc__)
    out = Path(args.output_dir)
    quick = set(FOLDERS.values()) - {prepare_corpus} if args.mode == "quick" else ()  # all data, less work
    run = stage_runner(
        CONFIGS,
        quick,
        out,
        passed_on,
        PASSED_ON,
        stage_options(args.stage_options, STAGES | FOLDERS),
        resume=args.resume,
        log_file=args.log_file,
        language=args.language,
        seed=args.seed,
        plot=not args.no_plot,
    )
    if args.test_manifest:
        check_test_set(args, parse_pairs("fields", passed_on.fields) or {})
    corpus = prepare(args, passed_on, run)
    finetuned = run(
        finetune_whisper,
        "finetuned",
        corpus=corpus,
        base_model=args.model,
        force_restart=not args.resume,
        dataloader_num_workers=args.num_workers,
        **(UNSELECTED if args.mode == "quick" else {}),
    )
    average = None
    if args.average != "none":
        average = run(
            average_checkpoints, "average", candidates=[out / "finetuned"], corpus=corpus, method=args.average
        )
    model = out / ("finetuned" if average is None else "average") / "model"

    transcripts = out / "transcripts"
    systems = {"zero_shot": (args.model, "full"), "finetuned": (model, None), "finetuned_30s": (model, "full")}
    if finetuned["audio_context"] == "full":
        del systems["finetuned_30s"]  # the same
    speed = {
        name: run(
            transcribe,
            "finetuned_transcripts" if name == "finetuned" else name,
            corpus=corpus,
            model_path=path,
            audio_context=context,
            output_jsonl=transcripts / f"{name}.jsonl",
        )
        for name, (path, context) in systems.items()
    }
    evaluation = run(
        evaluate_asr, "evaluation", corpus=corpus, predictions=[transcripts / f"{name}.jsonl" for name in systems]
    )
    if args.test_manifest:
        speed["test"] = run(
            transcribe,
            "test",
            input_jsonl=args.test_manifest,
            fields=passed_on.fields,
            model_path=model,
            audio_dirs=args.test_audio_dirs or passed_on.audio_dirs,
            output_jsonl=out / "submission.jsonl",
            submission_format=args.submission_format,
        )
    package = run(pack_submission, "submission", model_path=model, corpus=corpus, output=out / "submission.zip")

    results = {
        "mode": args.mode,
        "seed": args.seed,
        "language": args.language,
        "license": publishing.model_license,
        "base_model": base_model_id(args.model),
        "corpus": describe_corpus(corpus),
        "training": finetuned,
        "average": average,
        "evaluation": evaluation,
        "transcription": speed,
        "package": package,
        "selected_on": next(
            (stage["selected_on"] for stage in (average, finetuned) if stage and stage["selected_on"]), None
        ),
    }
    results = finish_pipeline(
        out,
        results,
        release_whisper,
        config=(args, passed_on),
        resume=args.resume,
        inputs=[model, out / "evaluation"],
        seconds=sum(figures["seconds"] for figures in speed.values()),
    )
    push(publishing, out / "model")
    return results


def check_test_set(args: Arguments, fields: dict[str, str]) -> None:
    """Tell now what would else be told after hours of training. Raises UserError."""
    name = fields.get("utterance_id", "utterance_id")
    ids = [text_field(row, name, args.test_manifest, line) for line, row in read_json_lines(args.test_manifest)]
    if args.submission_format:
        check_same_ids(read_submission_format(args.submission_format), args.submission_format, ids, args.test_manifest)


def prepare(args: Arguments, passed_on, run) -> str:
    """The prepared corpus: the one given, or made from a manifest."""
    prepared = is_prepared(args.data)
    given = [
        flag
        for flag in PASSED_ON[prepare_corpus]
        if getattr(passed_on, flag) is not None and flag not in ("val_ratio", "stratify_by")
    ]  # which configurations name
    if prepared and given:
        raise UserError(
            f"--{given[0]} is for a manifest, but {args.data} is prepared and divided already; leave it out"
        )
    corpus = args.data if prepared else str(Path(args.output_dir) / "corpus")
    if not prepared:
        run(prepare_corpus, "corpus", builder="jsonl_manifest", data_dir=args.data)
    splits = load_corpus(corpus).keys()
    if missing := {"train", "dev"} - splits:
        raise UserError(
            f"{args.data} has no split {' and no split '.join(sorted(missing))}: a model is trained on some "
            "children and judged on others; raise --val_ratio, take --stratify_by none if no age has two "
            "children, or give a --val_manifest"
        )
    return corpus


if __name__ == "__main__":
    run_recipe(main)
