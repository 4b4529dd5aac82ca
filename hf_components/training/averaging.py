"""Averages of trained candidates: scored by what they transcribe, chosen, and saved."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr import family_of, load_asr, transcribe
from hf_components.checkpoints import (
    Candidates,
    average_into,
    averaged,
    greedy_soup,
    language_of,
    load_model,
    merge_adapter,
    save_average_adapter,
)
from hf_components.scoring import compare, word_error_rate

logger = logging.getLogger(__name__)


@dataclass
class Averages:
    """Averages of some candidates, by the indices of these.

    Args:
        candidates: what is averaged.
        model: recogniser that takes the averages, see `load_recipient`.
        rank: rank of averaged adapters; None keeps the sum of their ranks, which is exact.
        language: language code of a multilingual model; None for the one saved with it.
    Attributes:
        texts: transcripts of each average that was scored.
        wer: its word error rate.
    """

    candidates: Candidates
    model: PreTrainedModel
    processor: ProcessorMixin
    rank: int | None = None
    language: str | None = None
    texts: dict[tuple[int, ...], list[str]] = field(default_factory=dict, init=False)
    wer: dict[tuple[int, ...], float] = field(default_factory=dict, init=False)

    @property
    def names(self) -> list[str]:
        return list(self.candidates.folders)

    def name(self, members: list[int]) -> str:
        return " + ".join(self.names[i] for i in members)

    @property
    def scored_language(self) -> str | None:
        return self.language or language_of(self.model)

    def score(self, members: list[int], corpus: datasets.Dataset, *, batch_size: int, max_new_tokens: int) -> float:
        """Word error rate of an average on rows of a prepared corpus, by greedy search."""
        with averaged(self.model, self.candidates, members, self.rank if len(members) > 1 else None):
            texts = transcribe(
                self.model,
                self.processor,
                corpus,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                language=self.language,
                num_beams=1,
                description=self.name(members),
            )
        wer = word_error_rate(texts, corpus["text"][:], self.scored_language)
        self.texts[tuple(members)] = texts
        self.wer[tuple(members)] = wer
        return wer

    def greedy(self, corpus: datasets.Dataset, **decoding: int) -> list[int]:
        """The candidates of a greedy soup, see `greedy_soup`; `decoding` are the options of `score`."""

        def error_of(members: list[int]) -> float:
            return self.score(members, corpus, **decoding)

        return greedy_soup(len(self.names), error_of).members

    def uniform(self, corpus: datasets.Dataset | None, **decoding: int) -> list[int]:
        """All candidates; the last one and their average are scored, if there are rows."""
        members = list(range(len(self.names)))
        if corpus is not None:
            for scored in (members[-1:], members):
                self.score(scored, corpus, **decoding)
        return members

    def compare_with_last(self, members: list[int], corpus: datasets.Dataset) -> dict:
        """The word error rates of an average and of single candidates, as far as they were scored.

        Returns:
            `candidate_wer`, `wer`, and `against_last`: the paired comparison with the last candidate.
        """
        last = (len(self.names) - 1,)
        chosen = tuple(members)
        rates = (100 * self.wer[chosen], 100 * self.wer[last])
        logger.info("%s: WER %.1f %% against %.1f %% of %s", self.name(members), *rates, self.names[-1])
        references = corpus["text"][:]
        speakers = corpus["speaker_id"][:]
        return {
            "candidate_wer": {name: self.wer[i,] for i, name in enumerate(self.names) if (i,) in self.wer},
            "wer": self.wer[chosen],
            "against_last": compare(
                self.texts[last], self.texts[chosen], references, speakers, language=self.scored_language
            ),
        }

    def save(self, members: list[int], folder: Path) -> None:
        """Write an average to `model`; of adapters also to `adapter`. Only the main process writes."""
        if not PartialState().is_main_process:
            return
        model = self.model
        chosen = self.candidates.of(members)
        if self.candidates.adapter is None:
            average_into(model, chosen)
        else:
            save_average_adapter(folder / "adapter", chosen, self.candidates.adapter, self.rank)
            model = merge_adapter(model, str(folder / "adapter"))
        family_of(model).save(model, self.processor, folder / "model")


def load_recipient(candidates: Candidates, language: str | None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The recogniser that takes averages of the candidates, and its processor."""
    model, processor = load_asr(candidates.model, language)
    if candidates.base is not None:
        model.load_state_dict(load_model(type(model), candidates.base).state_dict())
    return model, processor
