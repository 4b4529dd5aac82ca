"""Export a Whisper, an expert of a MoE-Whisper or a voice to CTranslate2, for faster-whisper, and check the export.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/export_ctranslate2.py --config recipes/configs/export_ctranslate2/default.yaml \\
    --model runs/moe/joint/model --expert 0 --corpus data/prepared --output_dir runs/moe/export

Writes the export to <output_dir>/model. recipes/merge_moe_whisper.py merges several experts into one Whisper.
With --audio_context dynamic clips are heard at their own length: recipes/transcribe.py --engine ctranslate2 runs that.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import datasets
from accelerate import PartialState
from transformers import WhisperProcessor

from hf_components.asr import load_asr, load_voices, transcribe
from hf_components.checkpoints import (
    ExportedWhisper,
    export_whisper,
    language_of,
    load_moe_whisper,
    load_whisper,
    prompt_language,
    read_config,
    transcribe_exported,
)
from hf_components.moe import merge_experts
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import (
    RecipeArguments,
    SeedArguments,
    UserError,
    flag,
    parse_arguments,
    run_as_stage,
    run_recipe,
)
from hf_components.scoring import score
from hf_components.speech import language_code, load_corpus, log_mel, sample_rows, waveforms
from hf_components.training import FULL_CONTEXT_FRAMES
from hf_components.whisper import DynamicContextWhisper

logger = logging.getLogger(__name__)

LEAST_UNTRAINED = 600  # mel frames; see "Short context in CTranslate2" in docs/results.md


@dataclass
class Arguments(RecipeArguments, SeedArguments):
    model: str = flag("Whisper or MoE-Whisper checkpoint: folder or Hub id")
    expert: int | None = flag("expert of a MoE-Whisper, counted from 0", default=None, min=0)
    voice: str | None = flag(
        "voice of one person over the model, merged into it: output of personalise_whisper", default=None
    )
    quantization: Literal[
        "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"
    ] = flag("type of the stored weights; faster-whisper converts it to its compute_type", default="float16")
    audio_context: Literal["full", "dynamic"] = flag(
        "full: 30 s, for faster-whisper; dynamic: as long as the clip, for transcribe --engine ctranslate2",
        default="full",
    )
    min_audio_context: int | None = flag(
        "shortest dynamic context in mel frames of 10 ms; default: the one saved with the model, else 1000",
        default=None,
        min=2,
        max=3000,
        needs={"audio_context": "dynamic"},
    )
    language: str | None = flag(
        "language code of a multilingual model; default: the one saved with it", default=None, read=language_code
    )
    corpus: str | None = flag("prepared corpus to check the export on: folder or Hub id", default=None)
    split: str = flag("split from which clips are drawn", default="dev", needs="corpus")
    max_samples: int = flag(
        "clips that export and original transcribe", default=4, aliases=["--check_clips"], min=0, needs="corpus"
    )
    max_new_tokens: int = flag("longest transcript in tokens", default=200, min=1, needs="corpus")


ARGUMENTS = (Arguments, PublishModelArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing = parse_arguments(ARGUMENTS, argv, __doc__)
    result = run_as_stage(produce, args, inputs=[args.model, args.voice, args.corpus])
    push(publishing, Path(args.output_dir) / "model")
    return result


def produce(args: Arguments, folder: Path) -> dict:
    model, processor = with_voice(args) if args.voice is not None else without_voice(args)
    corpus = sample_rows(load_corpus(args.corpus, args.split), args.max_samples, args.seed) if args.corpus else None
    trained_short = model.audio_context == "dynamic"
    model.set_audio_context(args.audio_context, args.min_audio_context or model.min_audio_context)
    if args.audio_context == "dynamic" and not trained_short and model.min_audio_context < LEAST_UNTRAINED:
        text = "%s was not trained on short audio, and makes more errors below --min_audio_context %d; got %d"
        logger.warning(text, args.model, LEAST_UNTRAINED, model.min_audio_context)
    context = {"audio_context": model.audio_context, "min_audio_context": model.min_audio_context}
    is_main = PartialState().is_main_process
    if is_main:
        export_whisper(model, processor, folder / "model", args.quantization, **context)
    if corpus is None:
        logger.warning(
            "the export is not checked; give --corpus to compare its transcripts with those of %s", args.model
        )
        return {"quantization": args.quantization, **context, "check": None}

    # All processes share this; the rest is done by the main process.
    texts = transcribe(
        model, processor, corpus, max_new_tokens=args.max_new_tokens, num_beams=1, description="original"
    )
    if not is_main:
        return {}
    exported = texts_of_export(folder / "model", processor, corpus, args)
    references = corpus["text"][:]
    scored = {"num_bootstrap": 0, "language": language_of(model)}
    check = {
        "clips": len(corpus),
        "equal": sum(a == b for a, b in zip(texts, exported, strict=True)),
        "wer_original": score(texts, references, **scored)["wer"],
        "wer_export": score(exported, references, **scored)["wer"],
        "wer_between": score(exported, texts, **scored)["wer"],
    }
    if check["equal"] < len(corpus):
        logger.warning(
            "%d of %d clips are transcribed differently by the export (%s), %.1f %% of the words",
            len(corpus) - check["equal"],
            len(corpus),
            args.quantization,
            100 * check["wer_between"],
        )
    return {"quantization": args.quantization, **context, "check": check}


def without_voice(args: Arguments) -> tuple[DynamicContextWhisper, WhisperProcessor]:
    experts = read_config(args.model).get("num_experts")
    if experts is None:
        if args.expert is not None:
            raise UserError(f"{args.model} has no experts; leave --expert out")
        return load_whisper(args.model, args.language)
    if args.expert is None or not 0 <= args.expert < experts:
        raise UserError(
            f"{args.model} mixes {experts} experts: give --expert 0 to {experts - 1}, got {args.expert}; or "
            "merge them with recipes/merge_moe_whisper.py"
        )
    mixture, processor = load_moe_whisper(args.model)
    prompt_language(mixture, processor, args.language)
    model = merge_experts(mixture, [float(i == args.expert) for i in range(experts)])
    model.set_audio_context(mixture.audio_context, mixture.min_audio_context)
    return model, processor


def with_voice(args: Arguments) -> tuple[DynamicContextWhisper, WhisperProcessor]:
    if args.expert is not None:
        raise UserError(f"the voice {args.voice} weighs the experts itself; leave --expert out")
    base, processor = load_asr(args.model, args.language)
    model = load_voices(base, [args.voice]).merged(args.voice)
    model.set_audio_context(base.audio_context, base.min_audio_context)
    return model, processor


def texts_of_export(folder: Path, processor: WhisperProcessor, corpus: datasets.Dataset, args: Arguments) -> list[str]:
    if args.audio_context == "dynamic":
        return transcribe(
            ExportedWhisper(folder, args.language),
            processor,
            corpus,
            max_new_tokens=args.max_new_tokens,
            num_beams=1,
            description="export",
        )
    features = log_mel(processor.feature_extractor, waveforms(corpus), FULL_CONTEXT_FRAMES)
    return transcribe_exported(folder, processor, features, args.max_new_tokens)


if __name__ == "__main__":
    run_recipe(main)
