"""Fine-tune any recogniser: all of it, only its encoder or decoder, or a LoRA, on a prepared corpus or a manifest.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/finetune_asr.py --config recipes/configs/finetune_asr/default.yaml \\
    --train_manifest data/train_word_transcripts.jsonl --audio_dirs data/audio_0 data/audio_1 data/audio_2 \\
    --model Qwen/Qwen3-ASR-1.7B --output_dir runs/qwen3-asr

Whisper, Moonshine and other encoder-decoders, wav2vec2, Parakeet and other CTC models, transducers, and language
models that hear, such as Qwen3-ASR: hf_components/asr has a file for each family.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from accelerate.utils import set_seed

from dataset_scripts.jsonl_manifest import STRATA, JsonlManifest, JsonlManifestConfig
from dataset_scripts.prepared import write_corpus
from hf_components.asr import Whisper, family_of
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    SEEDS,
    UserError,
    flag,
    parse_arguments,
    parse_pairs,
    run_as_stage,
    run_recipe,
    run_stage,
    write_json_lines,
)
from hf_components.speech import WORDS, TargetArguments, at_most_rows, count_from_words, sample_rows
from hf_components.training import (
    FilterArguments,
    FinetuningArguments,
    FinetuningSettings,
    FinetuningTrainingArguments,
    KlToBaseArguments,
    LoraArguments,
    RecogniserArguments,
    filtered,
    finetune,
    keep_learnable,
    load_to_train,
    load_training_rows,
    outcome,
    plot_training,
    warn_of_learning_rate,
)

TITLE = "Fine-tuning"
DEBUG_SAMPLES = {"train": 100, "validation": 20}


@dataclass(kw_only=True)
class Arguments(RecogniserArguments):
    corpus: str | None = flag("prepared corpus: folder or Hub id", default=None)
    max_samples: int | None = flag("most utterances of each split, drawn at random; default: all", default=None, min=1)
    debug_run: bool = flag(
        f"one epoch on {DEBUG_SAMPLES['train']} utterances, validated on {DEBUG_SAMPLES['validation']}, into "
        "<output_dir>_debug",
        default=False,
        aliases=["--debug"],
    )

    def __post_init__(self):
        super().__post_init__()
        self.data_config_override = at_most_rows(self.data_config_override, self.max_samples)


@dataclass
class ManifestArguments:
    """A corpus that is not prepared yet. The run prepares it in <output_dir>_corpus."""

    train_manifest: str | None = flag("JSONL manifest, instead of --corpus", default=None)
    audio_dirs: list[str] = flag(
        "folders to search for its audio; default: its folder and sub-folders", default=[], needs="train_manifest"
    )
    val_manifest: str | None = flag(
        "JSONL manifest of validation data, with other speakers", default=None, needs="train_manifest"
    )
    val_ratio: float = flag(
        "share of the rows for validation, without val_manifest",
        default=0.1,
        min=0,
        below=1,
        needs={"train_manifest": True, "val_manifest": False, "split_file": False},
    )
    stratify_by: str = flag(
        "age_bucket: equal shares of every age; or none",
        default="age_bucket",
        choices=STRATA,
        needs={"train_manifest": True, "val_manifest": False, "split_file": False},
    )
    split_seed: int = flag(
        "seed of the division into training and validation",
        default=42,
        **SEEDS,
        needs={"train_manifest": True, "val_manifest": False, "split_file": False},
    )
    split_file: str | None = flag(
        "splits.json of a corpus, to divide the children in the same way", default=None, needs="train_manifest"
    )
    fields: list[str] | None = flag(
        "OURS=THEIRS for every field that has another name in the manifest", default=None, needs="train_manifest"
    )
    external_data: list[str] | None = flag(
        "names of external data in the manifest, for the corpus card", default=None, needs="train_manifest"
    )


class Flags(NamedTuple):
    """All flags of this recipe."""

    args: Arguments
    target: TargetArguments
    manifest: ManifestArguments
    publishing: PublishModelArguments
    finetuning: FinetuningArguments
    filters: FilterArguments
    lora: LoraArguments
    kl: KlToBaseArguments
    training: FinetuningTrainingArguments


ARGUMENTS = tuple(Flags.__annotations__.values())


def main(argv: list[str] | None = None) -> dict:
    return run(Flags(*parse_arguments(ARGUMENTS, argv, __doc__)))


def run(flags: Flags) -> dict:
    """What `main` does with its flags."""
    args, target, manifest, publishing, finetuning, filters, lora, kl, training = flags
    check(flags)
    warn_of_learning_rate(training, finetuning.finetuning)
    if args.debug_run:  # beside the real result, which it must not replace
        training.num_train_epochs = 1
        training.output_dir = f"{training.output_dir.rstrip('/')}_debug"
    if args.audio_context == "full":
        training.full_context_fraction = 1.0
    if target.target != WORDS and training.metric_for_best_model == "wer":
        training.metric_for_best_model = "cer"
    if manifest.train_manifest:
        args.corpus = prepare(args, manifest, training.output_dir)
    result = run_as_stage(
        produce,
        *(args, target, finetuning, filters, lora, kl, training),
        inputs=[args.corpus, args.model, filters.filter_transcripts, training.noise_dir],
        derive={"plot": plot_training(TITLE)},
    )
    push(publishing, Path(training.output_dir) / ("adapter" if finetuning.finetuning == "lora" else "model"))
    return result


def check(flags: Flags) -> None:
    """Raise UserError for flags that contradict each other."""
    corpus = flags.args.corpus
    manifest = flags.manifest
    if (corpus is None) == (manifest.train_manifest is None):
        raise UserError(f"give either --corpus or --train_manifest, got {corpus} and {manifest.train_manifest}")
    if corpus and (given := manifest.audio_dirs or manifest.val_manifest or manifest.split_file):
        raise UserError(f"{given} belongs to a --train_manifest; {corpus} is prepared and divided already")
    if not flags.training.output_dir:
        raise UserError("--output_dir is required: the folder of the result")
    if flags.args.head == "ctc":
        if flags.finetuning.finetuning == "lora":
            raise UserError(
                "--head ctc is new and must be trained, but --finetuning lora trains a LoRA only; take full"
            )
        if flags.kl.kl_to_base_coef or flags.training.l2_to_start:
            raise UserError("--head ctc has no base to stay close to; leave out --kl_to_base_coef and --l2_to_start")


def prepare(args: Arguments, manifest: ManifestArguments, output_dir: str) -> str:
    """Prepare the manifest's corpus, or keep that of an earlier run if nothing has changed; return its folder."""
    folder = f"{output_dir.rstrip('/')}_corpus"
    options = {
        **asdict(manifest),
        "manifest": manifest.train_manifest,
        "audio_dirs": manifest.audio_dirs or None,
        "fields": parse_pairs("fields", manifest.fields),
        "max_samples": DEBUG_SAMPLES["train"] if args.debug_run else None,
    }
    del options["train_manifest"]
    name = Path(manifest.train_manifest).stem
    source = JsonlManifestConfig(**options)
    run_stage(
        folder,
        lambda work: write_corpus(
            JsonlManifest,
            work,
            options,
            num_proc=os.cpu_count(),
            name=name,
            source="jsonl_manifest",
            language=args.language,
        ),
        config=(options, source.recordings()),
        inputs=source.inputs(),
        resume=args.resume,
        alone=True,
    )
    return folder


def produce(
    args: Arguments,
    target: TargetArguments,
    finetuning: FinetuningArguments,
    filters: FilterArguments,
    lora: LoraArguments,
    kl: KlToBaseArguments,
    training: FinetuningTrainingArguments,
    folder: Path,
) -> dict:
    set_seed(training.seed)
    train, evaluated = load_training_rows(args, training, folder, target=target.target, g2p=target.g2p)
    train, dropped = filtered(train, filters, args.language)
    if args.debug_run:
        train = sample_rows(train, DEBUG_SAMPLES["train"], training.seed)
        evaluated = evaluated and sample_rows(evaluated, DEBUG_SAMPLES["validation"], training.seed)
    model, processor = load_to_train(args, target.target, train["text"])
    family = family_of(model)
    family.check_savable(model, processor)
    train = keep_learnable(train, model, processor, max(training.speed_factors, default=1.0))
    settings = FinetuningSettings(
        finetuning, training, lora, kl, language=args.language, head_learning_rate=args.own_head_learning_rate
    )
    finetuned = finetune(model, processor, train, evaluated, settings, folder, resume=args.resume)
    finetuned.save(folder, TITLE, args.plot)
    trainer = finetuned.trainer
    if filters.filter_transcripts and trainer.is_world_process_zero():
        write_json_lines(folder / "filtered.jsonl", dropped)
    return {
        "family": family.name,
        "finetuning": finetuning.finetuning,
        "audio_context": args.audio_context if family.name == Whisper.name else None,
        **outcome(trainer, args.eval_split),
        "target": target.target,
        "g2p": target.g2p,
        "ipa_from_words": count_from_words(train, target.target),
        f"best_{training.metric_for_best_model}": trainer.state.best_metric,
        "utterances": len(train),
        "filtered": len(dropped),
        "trained_parameters": finetuned.trained_parameters,
    }


if __name__ == "__main__":
    run_recipe(main)
