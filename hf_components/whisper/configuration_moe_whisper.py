"""Configuration of MoE-Whisper: stock Whisper's fields, and those of the router and its LoRA experts."""

from typing import TYPE_CHECKING

from transformers import WhisperConfig

if TYPE_CHECKING:
    # Not for type checkers: transformers tells the code of two checkpoints apart by the files that the configuration
    # imports. With this import the code of the model counts too, and none stands in for that of another version.
    from .modeling_moe_whisper import MoeWhisperModel  # noqa: F401

ROUTINGS = ("hard", "top_k", "soft")
MIXTURES = ("weights", "merge", "logits", "choose")
AUDIO_CONTEXTS = ("dynamic", "full")
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


class MoeWhisperConfig(WhisperConfig):
    r"""Configuration of [`MoeWhisperForConditionalGeneration`].

    `model_type` stays `"whisper"`: `pipeline` chooses the sequence-to-sequence decoder by it.

    Args:
        num_experts (`int`): LoRA experts that the router chooses from.
        experts_per_utterance (`int`): active experts with `routing="top_k"`, 1 to `num_experts` (default 2, or 1 with
            a single expert).
        routing (`str`): `"hard"` (the best expert), `"top_k"` (the best `experts_per_utterance`, renormalised) or
            `"soft"` (all).
        mixture (`str`): `"weights"` decodes once with the merged LoRA; `"merge"` too, but with the plain model
            whatever the router says: the shared expert alone, or without one the mean of all experts; `"logits"`
            decodes once per active expert and mixes the probabilities; `"choose"` asks all experts where the plain
            model is not sure, and takes the text of the least risk by what all say.
        beta (`float`): with `"weights"`, the experts get `beta` times the router's choice plus `(1 - beta)` times
            their weights in the plain model, 0 to 1 (default 1, the choice alone).
        router_layer (`int`): the router reads the encoder after this many layers, 1 to `encoder_layers` (default:
            half of them); the experts are in the layers above and in the decoder.
        router_hidden_size (`int`): width of the router's hidden layer.
        router_temperature (`float`): divisor of the router's logits.
        router_noise_std (`float`): standard deviation of Gaussian noise on the router's logits, in training only.
        min_expert_usage_fraction (`float`): floor f of every gate in training with soft routing, f < 1 / num_experts.
        lora_rank, lora_alpha, lora_dropout: size, scale (`lora_alpha / lora_rank`) and dropout of each expert.
        target_modules: names of the linear layers that get experts.
        shared_expert (`bool`): one more LoRA that every utterance uses with weight 1.
        folded_weights (`list[float]`): weight of each expert (the shared one last) that the plain weights already
            contain. `save_pretrained` folds experts into them, so that stock Whisper reads an adapted model.
        base_model_name_or_path (`str`): the Whisper that the experts adapt, also named by their PEFT adapters.
        audio_context (`str`): with `"dynamic"`, `generate` cuts each segment to its speech; `"full"` keeps 30 s.
        min_audio_context (`int`): least mel frames of a dynamic context (default 1000, or the window if that is
            shorter). Weights that were not trained on short input repeat themselves below about 1000.
    """

    num_experts: int = 4
    experts_per_utterance: int | None = None
    routing: str = "hard"
    mixture: str = "weights"
    beta: float | int = 1.0
    router_layer: int | None = None
    router_hidden_size: int = 128
    router_temperature: float | int = 1.0
    router_noise_std: float | int = 0.0
    min_expert_usage_fraction: float | int = 0.0
    lora_rank: int = 8
    lora_alpha: float | int = 16
    lora_dropout: float | int = 0.0
    target_modules: list[str] | tuple[str, ...] = TARGETS
    shared_expert: bool = False
    folded_weights: list[float] | None = None
    base_model_name_or_path: str | None = None
    audio_context: str = "full"
    min_audio_context: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.target_modules = list(self.target_modules)
        if self.experts_per_utterance is None:
            self.experts_per_utterance = min(2, self.num_experts)
        if self.router_layer is None:
            self.router_layer = max(1, self.encoder_layers // 2)
        if self.min_audio_context is None:
            self.min_audio_context = min(1000, 2 * self.max_source_positions)
        self.check()

    @property
    def plain_weights(self) -> list[float]:
        """Weights of the experts in the plain model: none beside a shared expert, else their mean."""
        return [0.0 if self.shared_expert else 1 / self.num_experts] * self.num_experts

    def check(self) -> None:
        """Check every field.

        Raises:
            ValueError: the message names the field, the rule and the value.
        """
        _in_range("num_experts", self.num_experts, 1, None)
        _in_range("experts_per_utterance", self.experts_per_utterance, 1, self.num_experts)
        _in_range("router_layer", self.router_layer, 1, self.encoder_layers)
        _in_range("lora_rank", self.lora_rank, 1, None)
        _in_range("min_audio_context", self.min_audio_context, 2, 2 * self.max_source_positions)
        _one_of("routing", self.routing, ROUTINGS)
        _one_of("mixture", self.mixture, MIXTURES)
        _one_of("audio_context", self.audio_context, AUDIO_CONTEXTS)
        if not 0 <= self.beta <= 1:
            raise ValueError(f"`beta` must lie in [0, 1], got {self.beta}.")
        slots = self.num_experts + self.shared_expert
        if self.folded_weights is not None and len(self.folded_weights) != slots:
            raise ValueError(
                f"`folded_weights` must have one number for each of {slots} experts, the shared one with them, "
                f"got {len(self.folded_weights)}."
            )
        unknown = [name for name in self.target_modules if name not in TARGETS]
        if unknown or not self.target_modules:
            raise ValueError(
                f"`target_modules` must be some of {', '.join(TARGETS)}, got {', '.join(unknown) or 'none'}."
            )
        if self.router_temperature <= 0:
            raise ValueError(f"`router_temperature` must be positive, got {self.router_temperature}.")
        if self.router_noise_std < 0:
            raise ValueError(f"`router_noise_std` must not be negative, got {self.router_noise_std}.")
        if not 0 <= self.min_expert_usage_fraction * self.num_experts < 1:
            raise ValueError(
                f"`min_expert_usage_fraction` must lie in [0, 1 / num_experts = {1 / self.num_experts:.3g}), "
                f"got {self.min_expert_usage_fraction}."
            )
        if self.encoder_layerdrop or self.decoder_layerdrop:
            raise ValueError("LayerDrop would drop experts: `encoder_layerdrop` and `decoder_layerdrop` must be 0.")


def _in_range(name: str, value: int, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        raise ValueError(f"`{name}` must lie in [{low}, {'inf' if high is None else high}], got {value}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")


MoeWhisperConfig.register_for_auto_class()
