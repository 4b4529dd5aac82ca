"""`mixture="choose"`: of the texts of all experts, judged by all of them, the one with the least risk.

It needs no training. The plain model transcribes first. Where it is not sure of its text, every expert writes a list
of texts, all experts judge all texts, and the mean of their probabilities decides, see `least_risk`. All experts
decode in one batch, on one pass of the layers below them.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import GenerationMixin

from .least_risk import choose_least_risk
from .mel_frames import audio_mask

# Where the plain model gives its best text at least this probability, no other text is looked for. On real speech all
# values from 0.1 to 1 made the same errors; at 0.2 the experts are asked about a quarter of the utterances. See the
# entry "Least risk" in docs/log.md.
SURE = 0.2
IN_THE_PROMPT = ("language", "task", "return_timestamps", "is_multilingual", "least_risk")


@dataclass
class Texts:
    """Texts of several utterances, each with the logarithm of its probability.

    Attributes:
        tokens: token ids with the prompt, `(texts, tokens)`, filled up with the padding token.
        owners: utterance of each text, `(texts,)`.
        log_probs: logarithm of the sum of the probabilities that the judges give, `(texts,)`.
    """

    tokens: torch.Tensor
    owners: torch.Tensor
    log_probs: torch.Tensor


class ChoosingMixin:
    """The part of `generate` that chooses among the texts of all experts, and of the plain model.

    Attributes:
        utterances_chosen: utterances transcribed so far.
        experts_asked: how many of them the experts were asked about.
    """

    utterances_chosen: int = 0
    experts_asked: int = 0

    @torch.no_grad()
    def _generate_and_choose(self, input_features, attention_mask, generation_config, kwargs) -> torch.LongTensor:
        """Token ids without the prompt, `(batch, tokens)`, filled up with the padding token."""
        features, mask = self.fit_inputs(input_features, attention_mask)
        audio = audio_mask(features) if mask is None else mask
        trunk = self.model.encoder.trunk(features)
        plain = features.new_tensor([self.config.plain_weights], dtype=torch.float32)
        experts = torch.eye(self.config.num_experts, device=features.device)
        heard = self._encode_for(plain, features, mask, trunk)
        lists = self._search(heard, audio, generation_config, kwargs)
        first = self._judge_all(heard, 1, lists)
        rows = range(len(features))
        texts = {row: (first, row) for row in rows}
        unsure = [row for row in rows if first.log_probs[first.owners == row].max().exp() < SURE]
        if unsure:
            judges = torch.cat([experts, plain])
            mask = None if mask is None else mask[unsure]
            heard = self._encode_for(judges, features[unsure], mask, trunk[unsure])
            of_experts = [row for row in range(len(unsure) * len(judges)) if (row + 1) % len(judges)]
            repeated = audio[unsure].repeat_interleave(len(experts), dim=0)
            more = self._search(_rows_of(heard, of_experts), repeated, generation_config, kwargs)
            second = self._judge_all(heard, len(judges), self._join([lists[row] for row in unsure], more))
            texts |= {row: (second, i) for i, row in enumerate(unsure)}
        self.utterances_chosen += len(rows)
        self.experts_asked += len(unsure)
        chosen = [self._choose(*texts[row]) for row in rows]
        return nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=self.generation_config.pad_token_id)

    def _choose(self, texts: Texts, owner: int) -> torch.Tensor:
        """The text of an utterance with the least risk, without prompt and padding, `(tokens,)`."""
        own = texts.owners == owner
        end = self.config.eos_token_id
        found = [text[text <= end] for text in texts.tokens[own]]  # the prompt's tokens come after all others
        found = [text[: int((text != end).long().cumprod(0).sum()) + 1] for text in found]
        return found[choose_least_risk([text.tolist() for text in found], texts.log_probs[own])]

    def _search(self, heard, audio: torch.Tensor, generation_config, kwargs) -> list[torch.Tensor]:
        """The texts with their prompt that a beam search finds for each row of encoder outputs, `(beams, tokens)`."""
        begun = self.generate(
            encoder_outputs=copy.copy(heard),  # stock repeats its entries for the beams
            attention_mask=audio,
            generation_config=generation_config,
            return_dict_in_generate=True,
            **{**kwargs, "max_new_tokens": 1, "num_beams": 1},
        )["sequences"]
        prompt = int((begun[0] > self.config.eos_token_id).long().cumprod(0).sum())
        config = generation_config or self.generation_config
        # Whisper's own `generate` returns a single text per clip.
        beams = kwargs.get("num_beams") or config.num_beams or 1
        written = GenerationMixin.generate(
            self,
            encoder_outputs=copy.copy(heard),
            attention_mask=audio,
            generation_config=generation_config,
            decoder_input_ids=begun[:, :prompt],
            num_return_sequences=beams,
            **{name: value for name, value in kwargs.items() if name not in IN_THE_PROMPT},
        )
        return list(written.unflatten(0, (-1, beams)))

    def _join(self, lists: list[torch.Tensor], more: list[torch.Tensor]) -> list[torch.Tensor]:
        """The lists of the utterances with those of their experts, `(texts, tokens)` each."""
        experts = self.config.num_experts
        longest = max(lists[0].shape[1], more[0].shape[1])
        pad = self.generation_config.pad_token_id

        def filled(texts: torch.Tensor) -> torch.Tensor:
            return nn.functional.pad(texts, (0, longest - texts.shape[1]), value=pad)

        return [
            torch.cat([filled(part) for part in (own, *more[i * experts : (i + 1) * experts])])
            for i, own in enumerate(lists)
        ]

    def _judge_all(self, heard, judges: int, lists: list[torch.Tensor]) -> Texts:
        """The different texts of each utterance, with what all judges say of them."""
        different = [texts.unique(dim=0) for texts in lists]
        counts = torch.tensor([len(texts) for texts in different], device=different[0].device)
        owners = torch.arange(len(different), device=counts.device).repeat_interleave(counts)
        tokens = torch.cat(different)
        return Texts(tokens, owners, self._judge(heard, judges, tokens, owners).logsumexp(1))

    def _encode_for(self, writers: torch.Tensor, features, mask, trunk):
        """Encoder outputs of each utterance with each row of weights, `(batch * writers, positions, d_model)`."""
        repeat = {"repeats": len(writers), "dim": 0}
        return self.model.encoder(
            features.repeat_interleave(**repeat),
            attention_mask=None if mask is None else mask.repeat_interleave(**repeat),
            expert_weights=writers.repeat(len(features), 1),
            trunk_states=trunk.repeat_interleave(**repeat),
        )

    def _judge(self, heard, judges: int, texts: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        """Log-probability of each text with each row of expert weights, `(texts, judges)`.

        Args:
            heard: encoder outputs of `_encode_for`.
            texts: token ids with their prompt, `(texts, tokens)`.
            owners: utterance of each text, `(texts,)`.
        """
        end = self.config.eos_token_id
        targets = texts[:, 1:]
        is_text = targets <= end
        ended = (targets == end).long().cumsum(1) - (targets == end).long() > 0
        counts = is_text & ~ended
        columns = []
        for judge in range(judges):
            outputs = _rows_of(heard, owners * judges + judge)
            logits = self(encoder_outputs=outputs, decoder_input_ids=texts[:, :-1], use_cache=False).logits
            losses = nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
            columns.append(-(losses * counts).sum(1))
        return torch.stack(columns, dim=1)


def _rows_of(heard, rows):
    """Some rows of encoder outputs."""
    return type(heard)(**{name: value[rows] for name, value in heard.items() if isinstance(value, torch.Tensor)})
