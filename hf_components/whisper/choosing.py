"""`mixture="choose"`: every expert writes its texts, all experts judge each, and the best one is taken.

It needs no training. All experts decode in one batch, on one pass of the layers below them. Where the processor has
no room for a larger batch, that takes as long as one run for each, and judging comes on top.
"""

import copy

import torch
from torch import nn

from .audio_context import audio_mask


class ChoosingMixin:
    """The part of `generate` that chooses among the texts of all experts, and of the plain model."""

    def _generate_and_choose(self, input_features, attention_mask, generation_config, kwargs) -> torch.LongTensor:
        """Token ids without the prompt, `(batch, tokens)`, filled up with the padding token."""
        rows = len(input_features)
        experts = torch.eye(self.config.num_experts, device=input_features.device)
        judges = torch.cat([experts, experts.new_tensor([self.config.plain_weights])])
        fitted, mask = self.fit_inputs(input_features, attention_mask)
        encoded = self._encode_for(judges, fitted, mask)
        heard = audio_mask(fitted) if mask is None else mask
        written = self.generate(
            encoder_outputs=copy.copy(encoded),  # stock repeats its entries for the beams
            attention_mask=heard.repeat_interleave(len(judges), dim=0),
            generation_config=generation_config,
            return_dict_in_generate=True,
            **kwargs,
        )["sequences"]
        different = [texts.unique(dim=0) for texts in written.unflatten(0, (rows, -1))]
        owners = torch.arange(rows, device=written.device).repeat_interleave(
            torch.tensor([len(texts) for texts in different], device=written.device)
        )
        texts = torch.cat(different)
        scores = self._judge(encoded, len(judges), texts, owners).mean(1)
        best = [int(scores.masked_fill(owners != row, -torch.inf).argmax()) for row in range(rows)]
        prompt = int((texts[0] > self.config.eos_token_id).long().cumprod(0).sum())
        chosen = texts[best, prompt:]
        longest = int((chosen != self.generation_config.pad_token_id).sum(1).max()) + 1  # with an end token
        return chosen[:, :longest]

    @torch.no_grad()
    def _encode_for(self, judges: torch.Tensor, input_features: torch.Tensor, attention_mask: torch.Tensor | None):
        """Encoder outputs of each utterance with each row of weights, `(batch * judges, positions, d_model)`."""
        encoder = self.model.encoder
        trunk = encoder.trunk(input_features)
        repeat = {"repeats": len(judges), "dim": 0}
        return encoder(
            input_features.repeat_interleave(**repeat),
            attention_mask=None if attention_mask is None else attention_mask.repeat_interleave(**repeat),
            expert_weights=judges.repeat(len(input_features), 1),
            trunk_states=trunk.repeat_interleave(**repeat),
        )

    @torch.no_grad()
    def _judge(self, encoded, judges: int, texts: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        """Log-probability of each text with each row of expert weights, `(texts, judges)`.

        Args:
            encoded: encoder outputs of `_encode_for`.
            texts: token ids with their prompt, `(texts, tokens)`.
            owners: utterance of each text, `(texts,)`.
        """
        end = self.config.eos_token_id
        targets = texts[:, 1:]
        is_text = targets <= end  # the prompt's tokens come after all others
        ended = (targets == end).long().cumsum(1) - (targets == end).long() > 0
        counts = is_text & ~ended
        columns = []
        for judge in range(judges):
            chosen = type(encoded)(
                **{
                    name: value[owners * judges + judge]
                    for name, value in encoded.items()
                    if isinstance(value, torch.Tensor)
                }
            )
            logits = self(encoder_outputs=chosen, decoder_input_ids=texts[:, :-1], use_cache=False).logits
            losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
            columns.append(-(losses * counts).sum(1))
        return torch.stack(columns, dim=1)
