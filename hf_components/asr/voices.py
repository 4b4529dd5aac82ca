"""Voices over one recogniser: they are experts of a mixture, so that a batch may hold utterances of several."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_components.checkpoints import Voice, find_voices, read_voice, require_same_base, voice_folder
from hf_components.runtime import UserError, first_few
from hf_components.speech import SAMPLING_RATE
from hf_components.whisper import DynamicContextWhisper, MoeWhisperConfig, MoeWhisperForConditionalGeneration
from hf_components.whisper.dynamic_generation import DynamicContextGenerationMixin
from hf_components.whisper.routed_lora import RoutedLinear


def with_slots(
    model: PreTrainedModel, slots: int, rank: int, target_modules: Sequence[str], first_layer: int
) -> MoeWhisperForConditionalGeneration:
    """A mixture of the experts of a Whisper, if it has any, and of `slots` fresh LoRAs, which change nothing.

    It computes with one merged LoRA per row, by `expert_weights (rows, experts + slots)`, which must be given. The
    plain weights are those of `model`, not copies.

    Args:
        model: `DynamicContextWhisper`, or a mixture.
        rank: rank of the slots; experts of a greater rank decide for all.
        target_modules: names of the linear layers with a LoRA.
        first_layer: index of the first encoder layer with a LoRA, 1 to the number of layers.
    """
    fields = {
        "num_experts": slots,
        "lora_rank": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "shared_expert": False,
        "router_layer": first_layer,
        "router_hidden_size": 1,
        "experts_per_utterance": 1,
        "mixture": "weights",
        "routing": "hard",
        "beta": 1.0,
        "folded_weights": None,
        "audio_context": model.audio_context,
        "min_audio_context": model.min_audio_context,
        "target_modules": list(target_modules),
    }
    if isinstance(model.config, MoeWhisperConfig):
        fields |= _beside_experts(model.config, slots, rank, target_modules)
    inherited = model.config.to_dict()
    for name in ("architectures", "auto_map"):
        inherited.pop(name, None)
    extended = MoeWhisperForConditionalGeneration(MoeWhisperConfig(**{**inherited, **fields}))
    extended = extended.to(model.device, model.dtype)
    _share_plain_weights(extended, model)
    if isinstance(model.config, MoeWhisperConfig):
        _copy_experts(extended, model, model.config.num_experts)
    extended.generation_config = copy.deepcopy(model.generation_config)
    extended.name_or_path = model.name_or_path
    for part in (extended.model.encoder, extended.model.decoder):
        part.state.by_row = True
    return extended.eval()


def _beside_experts(
    config: MoeWhisperConfig, slots: int, rank: int, target_modules: Sequence[str]
) -> dict[str, object]:
    """Fields of a configuration with the experts of this one, and then so many slots."""
    experts = config.num_experts
    folded = config.folded_weights
    if folded is not None:
        folded = [*folded[:experts], *[0.0] * slots, *folded[experts:]]  # the shared expert is the last
    most = max(rank, config.lora_rank)
    return {
        "num_experts": experts + slots,
        "lora_rank": most,
        "lora_alpha": config.lora_alpha / config.lora_rank * most,
        "shared_expert": config.shared_expert,
        "router_layer": config.router_layer,
        "target_modules": sorted({*config.target_modules, *target_modules}),
        "folded_weights": folded,
    }


PAUSE = np.zeros(SAMPLING_RATE * 3 // 10, np.float32)  # between an example and a recording
Example = tuple[np.ndarray, str]  # a sentence of that person: sound and text


class Reading(NamedTuple):
    """One of the texts that a voice asks for: behind an example or alone, with its LoRA or without."""

    example: Example | None
    with_lora: bool


class Voices:
    """Voices over one base model, by name.

    Args:
        model: the base, a Whisper or a mixture. It transcribes for voices that are "no change".
        voices: name -> voice.
        places: name -> where the voice was read from, for messages.
    Raises:
        UserError: the model is no Whisper, or a voice was learned over another one.
    """

    def __init__(self, model: PreTrainedModel, voices: Mapping[str, Voice], places: Mapping[str, str | Path]):
        if not isinstance(model, DynamicContextGenerationMixin):
            raise UserError(f"a voice is for a Whisper, and {model.name_or_path} is not one; leave voice out")
        for name, voice in voices.items():
            require_same_base(voice, model, places[name])
        self.base = model
        self.names = list(voices)
        self.experts = model.config.num_experts if isinstance(model.config, MoeWhisperConfig) else 0
        self.changing = [name for name, voice in voices.items() if voice.lora is not None]
        self.model = None
        self._rows: dict[str, torch.Tensor | None] = dict.fromkeys(voices)  # without the voice's LoRA
        if any(voice.expert_weights is not None or voice.lora is not None for voice in voices.values()):
            try:
                self._add(voices)
            except ValueError as error:
                read = ", ".join(str(place) for place in places.values())
                problem = str(error).rstrip(".")
                raise UserError(
                    f"{read} does not fit {model.name_or_path}: {problem}; learn the voice again"
                ) from error
        self.examples = {
            name: [
                (np.concatenate([example, PAUSE]), text)
                for example, text in zip(voice.examples, voice.example_texts, strict=True)
            ]
            for name, voice in voices.items()
        }

    def readings(self, name: str) -> list[Reading]:
        """The texts that a voice asks for of each clip."""
        changes = name in self.changing
        if not self.examples[name]:
            return [Reading(None, changes)]
        alone = [Reading(example, False) for example in (None, *self.examples[name])]
        return [*alone, Reading(None, True)] if changes else alone

    def longest_example(self, name: str) -> float:
        """Seconds of the longest example of a voice, with the pause after it."""
        return max((len(example) for example, _ in self.examples[name]), default=0) / SAMPLING_RATE

    def weights_of(self, names: Sequence[str], with_lora: Sequence[bool] | None = None) -> torch.Tensor:
        """Weights over experts and voices for utterances of these voices, `(utterances, experts + voices)`.

        A row is NaN if the base transcribes it as it is.

        Args:
            with_lora: for each utterance whether the LoRA of its voice is used, if it has one; by default it is.
        Raises:
            UserError: there is no such voice.
        """
        if unknown := [name for name in names if name not in self._rows]:
            raise UserError(f"there is no voice {unknown[0]!r}; there are {first_few(self.names)}")
        width = self.experts + max(1, len(self.changing))
        nothing = torch.full((width,), torch.nan)
        weights = torch.stack([nothing if self._rows[name] is None else self._rows[name] for name in names])
        for row, name in enumerate(names):
            if name in self.changing and (with_lora is None or with_lora[row]):
                weights[row, self.experts + self.changing.index(name)] = 1.0
        return weights

    def merged(self, place: str | Path) -> DynamicContextWhisper:
        """The only voice and its base as one plain Whisper, in a context of 30 s.

        Args:
            place: where the voice was read from, for messages.
        Raises:
            UserError: there are several voices, or this one is no change of weights.
        """
        if len(self.names) > 1:
            raise UserError(f"{place} holds {len(self.names)} voices, such as {self.names[0]}; give one of them")
        if self.examples[self.names[0]]:
            raise UserError(f"{place} puts examples before each recording, which no weights can replace")
        weights = self.weights_of(self.names)[0]
        if self.model is None or weights.isnan().any():
            raise UserError(f"{place} changes nothing; leave the voice out")
        return self.model.plain_whisper(weights.tolist())

    @torch.no_grad()
    def _add(self, voices: Mapping[str, Voice]) -> None:
        loras = [voices[name] for name in self.changing]
        targets = sorted({module.rsplit(".", 1)[-1] for voice in loras for module in voice.lora})
        slots = max(1, len(loras))
        self.model = with_slots(
            self.base,
            slots,
            max((voice.rank for voice in loras), default=1),
            targets or ["q_proj"],
            min((voice.first_layer for voice in loras), default=self.base.config.encoder_layers),
        )
        layers = self.model.routed_layers()
        for number, voice in enumerate(loras):
            if strangers := voice.lora.keys() - layers.keys():
                raise UserError(
                    f"the voice of {voice.name} changes {min(strangers)}, which lies below the experts of "
                    f"{self.base.name_or_path}; learn the voice again over this model"
                )
            for module, (a, b) in voice.lora.items():
                set_slot(layers[module], self.experts + number, a, b)
        for name, voice in voices.items():
            if voice.lora is None and voice.expert_weights is None and self.experts:
                continue  # a router chooses
            row = torch.zeros(self.experts + slots)
            if self.experts:  # else zeros change nothing
                row[: self.experts] = torch.tensor(voice.expert_weights)
            self._rows[name] = row


def load_voices(model: PreTrainedModel, folders: Sequence[str | Path]) -> Voices:
    """Read voices over a model: each folder is one voice, or holds several; a name will do, see `voice_folder`.

    Raises:
        UserError: there is no voice, one was learned over another model, or two have the same name.
    """
    places: dict[str, Path] = {}
    for folder in folders:
        for name, place in find_voices(voice_folder(folder, model.name_or_path)).items():
            if name in places:
                raise UserError(f"two voices have the name {name}: {places[name]} and {place}; leave one of them out")
            places[name] = place
    return Voices(model, {name: read_voice(place) for name, place in places.items()}, places)


@torch.no_grad()
def set_slot(layer: RoutedLinear, slot: int, a: torch.Tensor, b: torch.Tensor) -> None:
    """Set one LoRA of a routed layer: A `(rank, in)` and B `(out, rank)` with a scaling of 1; the rest are zeros."""
    layer.lora_a[slot].zero_()
    layer.lora_b[slot].zero_()
    layer.lora_a[slot, : len(a)] = a.to(layer.lora_a)
    layer.lora_b[slot, :, : b.shape[1]] = b.to(layer.lora_b) / layer.scaling


def _share_plain_weights(extended: MoeWhisperForConditionalGeneration, model: PreTrainedModel) -> None:
    """Let the extended model use the parameters of `model` that are no experts, so that they are there once."""
    own = dict(extended.named_parameters())
    for name, value in list(model.named_parameters()):
        if ".lora_" in name or ".router." in name:
            continue
        candidates = (name, _inside_routed(name))
        found = next(one for one in candidates if one in own)
        parent, _, leaf = found.rpartition(".")
        setattr(extended.get_submodule(parent), leaf, value)
    extended.proj_out.weight = extended.model.decoder.embed_tokens.weight


def _inside_routed(name: str) -> str:
    parent, _, leaf = name.rpartition(".")
    return f"{parent}.linear.{leaf}"


@torch.no_grad()
def _copy_experts(extended: MoeWhisperForConditionalGeneration, model: PreTrainedModel, experts: int) -> None:
    layers = extended.routed_layers()
    for name, layer in model.routed_layers().items():
        places = [*range(experts), *([layers[name].num_experts - 1] if model.config.shared_expert else [])]
        for slot, place in enumerate(places):
            set_slot(layers[name], place, layer.lora_a[slot], layer.lora_b[slot] * layer.scaling)
    for name in layers.keys() - model.routed_layers().keys():
        layers[name].lora_b.zero_()
