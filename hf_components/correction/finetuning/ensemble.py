"""The recognisers of a run, and what they hear of its recordings.

The *base* is fine-tuned. The *others* vote with it on every word of the gold; these are the *voters*. In a later round
the recogniser that was trained in the round before it votes in place of the base. The *judges* decide, where no truth
is known, whether the trained recogniser is better; they do not vote.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from hf_components.asr import Heard, load_recogniser
from hf_components.correction.finetuning.listening import listeners
from hf_components.correction.finetuning.transcribing import read_heard, transcribe_as_stage
from hf_components.runtime import NothingToTrainOnError

logger = logging.getLogger(__name__)


@dataclass
class Ensemble:
    """The recognisers of a run: checkpoints of any family, and for others and judges also files of transcripts.

    What a checkpoint hears is a stage: `recogniser_<number>` of the others, `judge_<number>` of the judges. Each is
    loaded when the one before it is done.

    Args:
        corpus: the recordings.
        folder: folder of these stages, with the stage `corpus`.
        batch_seconds: seconds of audio per batch.
    """

    base: str
    others: list[str]
    judges: list[str]
    corpus: datasets.Dataset
    folder: Path
    batch_seconds: float
    resume: bool

    def hear_others(self, base: Sequence[str]) -> tuple[dict[str, list[Heard]], list[str]]:
        """What the others hear, by name, and the names of those that do not hear these recordings.

        Args:
            base: text of the base for each recording.
        Raises:
            NothingToTrainOnError: none of them hears them.
        """
        heard = self._hear(self.others, self.corpus, "recogniser")
        texts = [base, *([one.text for one in said] for said in heard.values())]
        kept = {list(heard)[i - 1] for i in listeners(texts) if i}
        left_out = [name for name in heard if name not in kept]
        if heard and not kept:
            raise NothingToTrainOnError(
                f"nobody can vote with {self.base}: what {' and '.join(left_out)} wrote of a recording is "
                "no more like its text than what they wrote of others; give other --recognisers, or check that they "
                "know the language, and that their texts belong to these recordings"
            )
        for name in left_out:
            logger.warning(
                "%s does not hear these recordings and has no vote: its text of a recording is no more like those of "
                "others than its texts of other recordings are",
                name,
            )
        return {name: said for name, said in heard.items() if name in kept}, left_out

    def hear_judges(self, rows: Sequence[int]) -> dict[str, list[str]]:
        """What the judges hear in these rows of the corpus, by name."""
        heard = self._hear(self.judges, self.corpus.select(rows), "judge")
        return {name: [one.text for one in said] for name, said in heard.items()}

    def sources_of_others(self) -> list[str | Path]:
        """Where it is read what the others heard: their files and stages."""
        return [
            name if name.endswith(".jsonl") else self.folder / f"recogniser_{number}"
            for number, name in enumerate(self.others)
        ]

    def _hear(self, names: Iterable[str], corpus: datasets.Dataset, stem: str) -> dict[str, list[Heard]]:
        heard = {}
        for number, name in enumerate(names):
            if name.endswith(".jsonl"):
                heard[name] = read_heard(Path(name), corpus["id"][:])
                continue
            recogniser = load_recogniser(name, batch_seconds=self.batch_seconds, word_confidences=True)
            heard[name] = transcribe_as_stage(
                recogniser,
                corpus,
                self.folder / f"{stem}_{number}",
                inputs=[self.folder / "corpus", name],
                resume=self.resume,
            )
        return heard


@dataclass
class Voters:
    """What those who vote on the gold of a round heard.

    Args:
        base: what the base heard in each recording, or in a later round the recogniser of the round before it.
        guesses: its texts for an LLM: the best one, then alternatives.
        others: what the others heard, by name.
    """

    base: Sequence[Heard]
    guesses: Sequence[Sequence[str]]
    others: Mapping[str, Sequence[Heard]] = field(default_factory=dict)

    @property
    def lists(self) -> list[tuple[Heard, ...]]:
        """What each of them heard in each recording, the base first."""
        return list(zip(self.base, *self.others.values(), strict=True))
