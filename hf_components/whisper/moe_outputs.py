"""What encoder and models of MoE-Whisper return: stock Whisper's outputs, and the routing."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput, Seq2SeqModelOutput

from .silence import DynamicContextOutput


@dataclass
class MoeEncoderOutput(DynamicContextOutput):
    """Encoder states and their routing, which the decoder uses too.

    With `mixture="logits"` and k active experts, states are `(batch, k, positions, d_model)`; hidden states and
    attentions are the mean over the experts by their mixture weights.

    Args:
        expert_weights: weights of each row, `(batch, experts)`, or one-hot `(batch, k, experts)` under "logits".
        mixture_weights: weights of the k active experts under "logits", `(batch, k)`; None otherwise.
        router_logits: `(batch, experts)`.
        gates: softmax of the router's logits before any selection, `(batch, experts)`.
    """

    expert_weights: torch.FloatTensor | None = None
    mixture_weights: torch.FloatTensor | None = None
    router_logits: torch.FloatTensor | None = None
    gates: torch.FloatTensor | None = None


@dataclass
class MoeSeq2SeqModelOutput(Seq2SeqModelOutput):
    """Stock output, plus that of the encoder with its routing.

    With `mixture="logits"` and k active experts, decoder states are `(batch * k, tokens, d_model)`, k neighbouring
    rows for an utterance.
    """

    encoder_outputs: MoeEncoderOutput | None = None


@dataclass
class MoeSeq2SeqLMOutput(Seq2SeqLMOutput):
    """Stock output, plus the routing.

    Args:
        router_logits, gates: `(batch, experts)`, see [`MoeEncoderOutput`].
        expert_weights: weights over experts that made this output, `(batch, experts)`.
        expert_losses: mean token loss of each active expert, `(batch, k)`, under `mixture="logits"` with labels.
    """

    router_logits: torch.FloatTensor | None = None
    gates: torch.FloatTensor | None = None
    expert_weights: torch.FloatTensor | None = None
    expert_losses: torch.FloatTensor | None = None
