"""Speech recognition with any recogniser of the collection, and with each expert of a MoE-Whisper alone."""

import functools
import json
from typing import NamedTuple

import numpy as np
import torch
from checkpoints import IS_INSTALLED, NOT_LOADABLE, fetch, read_fields, what_failed
from peft import PeftModel
from transformers import (
    AutoModelForCTC,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NOT_ROUTED = ("merge", "choose")  # mixtures that transcribe with the plain model; their router may be untrained


class Recogniser(NamedTuple):
    model: PreTrainedModel
    processor: ProcessorMixin
    is_ctc: bool
    num_experts: int | None  # None without a router


class Heard(NamedTuple):
    """Result of a recognition.

    Args:
        weights: weights of the router, one per expert; empty where no router is asked.
        by_expert: transcript of each expert alone.
        remark: which experts wrote the transcript, or what the checkpoint cannot do.
    """

    transcript: str
    weights: list[float]
    by_expert: list[str]
    remark: str


@functools.lru_cache(maxsize=2)
def load_recogniser(name: str) -> Recogniser:
    """Load a recogniser by folder or Hub id: MoE-Whisper, Whisper, a CTC model such as wav2vec2, or a LoRA of one.

    Raises:
        ValueError: there is no checkpoint of that name, or it is no recogniser.
    """
    folder = fetch(name)
    adapter = folder if (folder / "adapter_config.json").exists() else None
    if adapter:
        base = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        try:
            folder = fetch(base)
        except ValueError as error:
            raise ValueError(f"{name} adapts {base}, which must be there too. {error}") from error
    fields = read_fields(folder, name)
    is_ctc = any(architecture.endswith("ForCTC") for architecture in fields.get("architectures") or ())
    if fields["model_type"] == "acoustic_units":
        raise ValueError(f"{name} turns speech into units and writes no text; choose it on the other tab.")
    if not is_ctc and fields["model_type"] != "whisper":
        raise ValueError(
            f"{name} is of the type {fields['model_type']}; a Whisper, a MoE-Whisper, a CTC model or an adapter "
            "of one is needed."
        )
    kind = AutoModelForCTC if is_ctc else AutoModelForSpeechSeq2Seq
    try:
        # The base of an adapter was named by the adapter, and not by who started the demo: its code does not run.
        trusted = adapter is None and not IS_INSTALLED
        model = kind.from_pretrained(folder, trust_remote_code=trusted, dtype=torch.float32)
        if adapter:
            model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
        processor = AutoProcessor.from_pretrained(folder)
    except NOT_LOADABLE as error:
        raise ValueError(f"{name} cannot be loaded: {what_failed(error)}") from error
    return Recogniser(model.to(DEVICE).eval(), processor, is_ctc, fields.get("num_experts"))


@torch.inference_mode()
def recognise(name: str, waveform: np.ndarray) -> Heard:
    """Transcribe with the experts that the router chooses, and with each expert alone.

    Args:
        waveform: (samples,) at 16 kHz, 30 s at most.
    Raises:
        ValueError: the same as in `load_recogniser`.
    """
    model, processor, is_ctc, num_experts = load_recogniser(name)
    inputs = processor(waveform, sampling_rate=16_000, return_tensors="pt").to(DEVICE)
    if is_ctc:
        transcript = processor.batch_decode(model(**inputs).logits.argmax(-1))[0]
        return Heard(transcript, [], [], f"`{name}` is a CTC model: it has no router and no experts.")
    features = inputs.input_features
    (transcript,) = processor.batch_decode(model.generate(features), skip_special_tokens=True)
    if num_experts is None:
        return Heard(transcript.strip(), [], [], f"`{name}` is a plain Whisper: it has no router and no experts.")
    is_routed = model.config.mixture not in NOT_ROUTED
    weights = model.route(features)[0].tolist() if is_routed else []
    with model.override(mixture="weights"):  # a single expert needs no mixing
        alone = model.generate(
            features.expand(num_experts, -1, -1), expert_weights=torch.eye(num_experts, device=DEVICE)
        )
    by_expert = [text.strip() for text in processor.batch_decode(alone, skip_special_tokens=True)]
    remark = _chosen_by_router(model.config, weights) if is_routed else _without_router(model.config)
    return Heard(transcript.strip(), weights, by_expert, remark)


def _chosen_by_router(config: PreTrainedConfig, weights: list[float]) -> str:
    """A remark that names the experts that wrote the transcript."""
    by_weight = sorted(range(len(weights)), key=lambda expert: -weights[expert])
    writing = by_weight if config.routing == "soft" else by_weight[: config.experts_per_utterance]
    if config.routing == "hard":
        remark = f"Expert {by_weight[0]} wrote the transcript, as its weight is the largest (`hard` routing)."
    else:
        experts = ", ".join(map(str, sorted(writing)))
        remark = f"Experts {experts} wrote the transcript together (`{config.routing}` routing)."
    if config.mixture == "weights" and config.beta < 1:
        remark += f" The router's choice counts {config.beta:g}; {_plain(config)} has the rest."
    return remark


def _without_router(config: PreTrainedConfig) -> str:
    """A remark on a mixture that transcribes whatever its router says."""
    remark = f"{_plain(config).capitalize()} wrote the transcript"
    if config.mixture == "choose":
        remark += "; where it was not sure, all experts were asked, and the text of least risk was taken"
    return f"{remark} (`{config.mixture}`). The router has no say."


def _plain(config: PreTrainedConfig) -> str:
    """What transcribes if no expert is chosen."""
    return "the shared expert" if config.shared_expert else "the mean of all experts"
