"""The systems that can be compared, and where each is loaded from."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr import load_asr
from hf_components.checkpoints import (
    base_model_id,
    load_moe_whisper,
    load_whisper,
    lora_folder,
    merge_adapter,
    read_config,
)
from hf_components.moe.experts import load_trained_experts
from hf_components.runtime import UserError
from hf_components.whisper import MoeWhisperConfig

logger = logging.getLogger(__name__)

# Systems in the order of the rows, each with the flag of its folder.
FLAGS = {
    "zero_shot": "base_model",
    "single_lora": "single_lora_model",
    "single_lora_wide": "single_lora_wide_model",
    "full": "full_model",
    "merge": "merge_model",
    "choose": "choose_model",
    "soup": "soup_model",
    "moe": "moe_model",
}
MIXTURES = ("moe", "soup")
ON_BASE = ("zero_shot", "single_lora", "single_lora_wide", "merge")


def choose_systems(models: str | None, folders: Mapping[str, str | None]) -> list[str]:
    """The systems to run, in the order of the rows; further checkpoints come last.

    Args:
        models: names separated by commas, and folders or Hub ids of any recogniser; None for all systems whose folder
            is given.
        folders: folder or Hub id of each system's checkpoint.
    Raises:
        UserError: a system does not exist, or its folder is not given.
    """
    if models is None:
        return [name for name in FLAGS if folders[name]]
    asked = [name.strip() for name in models.split(",")]
    others = [name for name in asked if name not in FLAGS and name and ("/" in name or Path(name).is_dir())]
    titles = [row_title(name) for name in asked]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise UserError(f"--models has two rows called {twice}; rename a folder, or leave one out")
    for name in asked:
        if name not in others:
            _require_system(name, folders)
    return [name for name in FLAGS if name in asked] + others


def _require_system(name: str, folders: Mapping[str, str | None]) -> None:
    if name not in FLAGS:
        nearest = difflib.get_close_matches(name, FLAGS, n=1)
        raise UserError(
            f"--models takes some of {','.join(FLAGS)}, and folders and Hub ids of recognisers, got {name!r}"
            + (f"; did you mean {nearest[0]}?" if nearest else "")
        )
    if not folders[name]:
        raise UserError(f"--models {name} needs --{FLAGS[name]}; give its folder, or leave {name} out")


def row_title(name: str) -> str:
    """The row of a system of `FLAGS`, or of another checkpoint: its last part, or that before `model`."""
    path = Path(name)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def mixture_config(
    folders: Mapping[str, str | None], names: list[str], experts_per_utterance: int
) -> MoeWhisperConfig | None:
    """Configuration of the given mixture, else of the given soup, else None.

    It is read before anything is transcribed, so that mistakes are reported at once.

    Raises:
        UserError: a folder holds no mixture, the mixture adapts another base model than the other rows, or it has
            fewer than `experts_per_utterance` experts.
    """
    configs = {name: _read_config(folders[name]) for name in MIXTURES if folders[name]}
    given = base_model_id(folders["zero_shot"])
    for name, config in configs.items():
        adapted = config.base_model_name_or_path
        if name in names and adapted and Path(adapted).name != Path(given).name and not set(names).isdisjoint(ON_BASE):
            raise UserError(
                f"{folders[name]} adapts {adapted}, not --base_model {given}; the zero-shot row must be its base"
            )
    if "moe" in names and not 1 <= experts_per_utterance <= configs["moe"].num_experts:
        raise UserError(
            f"experts_per_utterance must lie in [1, num_experts = {configs['moe'].num_experts}], "
            f"got {experts_per_utterance}"
        )
    return next(iter(configs.values()), None)


def load_system(
    name: str, folders: Mapping[str, str | None], language: str | None, mixture: MoeWhisperConfig | None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a system and its processor.

    Zero-shot and fully fine-tuned Whisper use 30 s, as stock Whisper does: on shorter input, weights that were not
    trained on it repeat themselves. A LoRA, or a merge of several, uses the mixture's audio context, so that only the
    adaptation differs; without a mixture it uses its own. A soup takes the best expert. The others, and further
    checkpoints of any family, are as saved.

    Raises:
        UserError: the folder does not hold that system.
    """
    if name not in FLAGS:
        return load_asr(name, language)
    if name in ("moe", "choose"):
        return load_moe_whisper(folders[name])
    if name == "soup":
        model, processor = load_moe_whisper(folders[name])
        model.config.routing = "hard"
        return model, processor
    if name == "full":
        model, processor = load_whisper(folders[name], language)
        model.set_audio_context("full")
        return model, processor
    base, processor = load_whisper(folders["zero_shot"], language)
    if name == "zero_shot":
        base.set_audio_context("full")
        return base, processor
    context = (
        {}
        if mixture is None
        else {"audio_context": mixture.audio_context, "min_audio_context": mixture.min_audio_context}
    )
    if name == "merge":
        merged = merge_adapter(base, str(lora_folder(folders[name])))
        if context:
            merged.set_audio_context(**context)
        return merged.eval(), processor
    lora = load_trained_experts(base, folders[name], **context)
    if lora.config.num_experts != 1:
        raise UserError(
            f"--{FLAGS[name]} must hold one LoRA, {folders[name]} holds {lora.config.num_experts}; run "
            "pretrain_experts without --labels_dir"
        )
    if name == "single_lora_wide" and mixture is not None:
        _check_width(lora.config.lora_rank, mixture)
    return lora.to(base.device), processor


def _read_config(name_or_path: str) -> MoeWhisperConfig:
    fields = read_config(name_or_path)
    if "num_experts" not in fields:
        raise UserError(f"{name_or_path} is not a checkpoint of MoeWhisper: its configuration names no num_experts")
    return MoeWhisperConfig.from_dict(fields)


def _check_width(rank: int, mixture: MoeWhisperConfig) -> None:
    expected = mixture.num_experts * mixture.lora_rank
    if rank != expected:
        logger.warning(
            "the wide single LoRA has rank %d, the mixture's %d experts have %d together; train it with "
            "pretrain_experts --lora_rank %d",
            rank,
            mixture.num_experts,
            expected,
            expected,
        )
