"""Flags of learning a voice."""

from dataclasses import dataclass

from hf_components.checkpoints import WAYS
from hf_components.runtime import UserError, flag
from hf_components.voices.lora import LoraSettings

ALL_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass
class VoiceArguments:
    """How a voice is learned and which way is taken."""

    voice_rank: int = flag("rank of the voice's LoRA", default=8, min=1)
    voice_layers: list[str] = flag("linear layers with a LoRA", default=list(ALL_LAYERS), choices=ALL_LAYERS)
    voice_in: str = flag(
        "part of the model with a LoRA: encoder, decoder, both",
        default="encoder",
        choices=("encoder", "decoder", "both"),
    )
    first_layer: int = flag("first encoder layer with a LoRA", default=1, min=1)
    voice_learning_rate: float = flag("step size of Adam", default=1e-3, above=0, max=1e-2)
    voice_l2_to_start: float = flag("pull of the LoRA towards no change", default=0.0, min=0)
    voice_marks: list[int] = flag("numbers of training steps to choose from", default=[4, 10, 20, 40], min=1)
    voice_scales: list[float] = flag("strengths of the LoRA to choose from", default=[0.5, 1.0], above=0, max=1)
    ways: list[str] = flag("ways to try, beside no change", default=list(WAYS[1:]), choices=WAYS[1:])
    max_folds: int = flag("folds over the sentences, by which the way is chosen", default=3, min=2)
    min_gain: float = flag("least gain of weights or LoRA over a cheaper way, nats per token", default=0.01, min=0)
    certainty: float = flag("the same in standard errors over sentences", default=1.0, min=0)
    max_examples: int = flag(
        "examples of the voice that are kept; each is one more transcription",
        default=5,
        min=1,
        needs={"ways": "context"},
    )
    context_certainty: float = flag(
        "least gain of an example, in standard errors of the held-out errors",
        default=0.0,
        min=0,
        needs={"ways": "context"},
    )
    budget_seconds: float = flag("time of training to plan for on two cores, per voice", default=40.0, above=0)

    def settings(self, encoder_layers: int) -> LoraSettings:
        """Settings of the LoRA. Raises UserError if the first layer does not exist."""
        if self.voice_in != "decoder" and self.first_layer >= encoder_layers:
            raise UserError(
                f"first_layer must lie in [1, {encoder_layers - 1}] with this model, got {self.first_layer}"
            )
        return LoraSettings(
            rank=self.voice_rank,
            target_modules=tuple(self.voice_layers),
            first_layer=encoder_layers if self.voice_in == "decoder" else self.first_layer,
            in_decoder=self.voice_in != "encoder",
            learning_rate=self.voice_learning_rate,
            l2_to_start=self.voice_l2_to_start,
        )
