"""Which Whisper is exported, and how the export is checked: the same for every format."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import datasets
from transformers import WhisperProcessor

from hf_components.asr import compare_with_export, load_asr, load_voices
from hf_components.checkpoints import load_whisper, read_config
from hf_components.moe.merging import load_expert
from hf_components.runtime import RecipeArguments, SeedArguments, UserError, flag
from hf_components.speech import language_flag, load_corpus, sample_rows
from hf_components.whisper import DynamicContextWhisper

logger = logging.getLogger(__name__)


@dataclass
class ExportArguments(RecipeArguments, SeedArguments):
    model: str = flag("Whisper or MoE-Whisper checkpoint: folder or Hub id")
    expert: int | None = flag("expert of a MoE-Whisper, counted from 0", default=None, min=0)
    voice: str | None = flag(
        "voice of one person over the model, merged into it: output of personalise_whisper", default=None
    )
    language: str | None = language_flag()
    corpus: str | None = flag("prepared corpus to check the export on: folder or Hub id", default=None)
    split: str = flag("split from which clips are drawn", default="dev", needs="corpus")
    max_samples: int = flag(
        "clips that export and original transcribe", default=4, aliases=["--check_clips"], min=0, needs="corpus"
    )
    max_new_tokens: int = flag("longest transcript in tokens", default=200, min=1, needs="corpus")


def load_to_export(args: ExportArguments) -> tuple[DynamicContextWhisper, WhisperProcessor]:
    """A plain Whisper and its processor: as it is, with a voice merged into it, or an expert of a mixture.

    Raises:
        UserError: there is no such expert, or an expert and a voice are asked for at once.
    """
    if args.voice is not None:
        if args.expert is not None:
            raise UserError(f"the voice {args.voice} weighs the experts itself; leave --expert out")
        base, processor = load_asr(args.model, args.language)
        model = load_voices(base, [args.voice]).merged(args.voice)
        model.set_audio_context(base.audio_context, base.min_audio_context)
        return model, processor
    experts = read_config(args.model).get("num_experts")
    if experts is not None:
        return load_expert(args.model, args.expert, experts, args.language)
    if args.expert is not None:
        raise UserError(f"{args.model} has no experts; leave --expert out")
    return load_whisper(args.model, args.language)


def check_export(
    args: ExportArguments,
    model: DynamicContextWhisper,
    processor: WhisperProcessor,
    exports: Mapping[str, Callable[[datasets.Dataset], list[str]]],
) -> dict[str, dict | None]:
    """What `compare_with_export` finds on rows of the corpus for each name; without a corpus a warning, and None."""
    if args.corpus is None:
        text = "the export is not checked; give --corpus to compare its transcripts with those of %s"
        logger.warning(text, args.model)
        return dict.fromkeys(exports)
    corpus = sample_rows(load_corpus(args.corpus, args.split), args.max_samples, args.seed)
    return compare_with_export(model, processor, corpus, exports, max_new_tokens=args.max_new_tokens)
