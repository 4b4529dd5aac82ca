"""Flags of learning a voice."""

from dataclasses import dataclass

from hf_components.checkpoints import CONTEXT, LORA, WEIGHTS
from hf_components.runtime import UserError, flag
from hf_components.voices.lora import LoraSettings

TRIED = (WEIGHTS, CONTEXT, LORA)
ALL_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@dataclass
class VoiceArguments:
    """How a voice is learned, and how the way is chosen.

    The ways of `TRIED` are tried on sentences that were held out. "No change" stays unless one helps, or unless
    examples and a LoRA can vote with the model as it is.
    """

    voice_rank: int = flag("rank of the LoRA that is trained for a voice", default=8, min=1)
    voice_layers: list[str] = flag("linear layers that get this LoRA", default=list(ALL_LAYERS), choices=ALL_LAYERS)
    voice_in: str = flag(
        "part of the model that gets this LoRA", default="encoder", choices=("encoder", "decoder", "both")
    )
    first_layer: int = flag(
        "first layer of the encoder that gets this LoRA, counted from 0; those below stay as they are",
        default=1,
        min=1,
    )
    voice_learning_rate: float = flag("learning rate of this LoRA, trained by Adam", default=1e-3, above=0, max=1e-2)
    voice_l2_to_start: float = flag(
        "strength of an L2 penalty that keeps this LoRA near zero, where it changes nothing", default=0.0, min=0
    )
    voice_marks: list[int] = flag(
        "numbers of training steps that are tried; the best on held-out sentences is taken",
        default=[4, 10, 20, 40],
        min=1,
    )
    voice_scales: list[float] = flag(
        "factors by which the trained LoRA is multiplied; the best on held-out sentences is taken",
        default=[0.5, 1.0],
        above=0,
        max=1,
    )
    ways: list[str] = flag(
        "ways that are tried. weights: fixed weights over the experts of a mixture; context: some of the person's "
        "sentences are put before each recording; lora: a LoRA is trained. If the model makes mistakes, it votes with "
        "context and lora; if none helps, it stays as it is",
        default=list(TRIED),
        choices=TRIED,
    )
    max_folds: int = flag(
        "most folds of the cross-validation over the person's sentences, which chooses the way", default=3, min=2
    )
    min_gain: float = flag(
        "weights or lora is chosen only if it lowers the loss of held-out sentences by at least this, in nats per "
        "token, compared with a simpler way",
        default=0.01,
        min=0,
    )
    certainty: float = flag(
        "weights or lora is chosen only if it lowers this loss by at least this number of standard errors; 0: "
        "--min_gain alone decides",
        default=1.0,
        min=0,
    )
    max_examples: int = flag(
        "most sentences that are put before a recording, one at a time; each costs one more transcription",
        default=5,
        min=1,
        needs={"ways": "context"},
    )
    context_certainty: float = flag(
        "context is chosen only if it lowers the word errors of held-out sentences by at least this number of "
        "standard errors; 0: it is also chosen if there are as many errors as before",
        default=0.0,
        min=0,
        needs={"ways": "context"},
    )
    budget_seconds: float = flag(
        "time to train the LoRA of one voice, in seconds on two CPU cores; if the training is estimated to take "
        "longer, it has fewer steps",
        default=40.0,
        above=0,
    )

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
