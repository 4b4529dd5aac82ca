"""Gold: the texts that recordings without transcripts are evaluated against and trained on."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from accelerate import PartialState
from transformers import ProcessorMixin

from hf_components.asr import Heard, Rows
from hf_components.correction.arguments import CorrectionArguments, load_corrector
from hf_components.correction.finetuning.arguments import GoldArguments
from hf_components.correction.finetuning.consensus import Consensus, combine
from hf_components.correction.finetuning.ensemble import Voters
from hf_components.correction.finetuning.expectation import expected_errors, where_unsure
from hf_components.correction.prompt import Guess
from hf_components.correction.record import correct_to_file, summarise
from hf_components.correction.writing import alphabet_of
from hf_components.runtime import UserError, read_json_lines, run_stage, write_json_lines
from hf_components.scoring import disagreement, utterance_errors

CORRECTIONS = "corrections.jsonl"
DECIMALS = 4


@dataclass
class Gold:
    """Gold texts of recordings with their sources.

    Attributes:
        corrections: counts of the LLM's accepted and rejected replies; None without an LLM.
        vote: the vote of the base and the others, and `errors`, the expected errors of each text; None without others.
    """

    texts: list[str]
    sources: list[str]
    corrections: dict | None = None
    vote: Consensus | None = None
    errors: list[float] | None = None


@dataclass
class Corrections:
    """The stage in which an LLM is asked to correct texts.

    Args:
        llm: which LLM, and how it is asked.
        processor: processor of the base, which gives the alphabet of the corrections.
        folder: folder of the stage. Beside it is the record of the LLM's replies, with which another run continues.
        inputs: files and stages with what was heard.
    """

    llm: CorrectionArguments
    processor: ProcessorMixin
    folder: Path
    inputs: Sequence[str | Path]
    resume: bool

    def ask(
        self, corpus: datasets.Dataset, guesses: Sequence[Sequence[str | Guess]], config: object
    ) -> tuple[list[str], list[str], dict]:
        """The corrected text of each row, where it comes from, and counts.

        Args:
            guesses: for each row its guesses, the most likely first.
            config: settings of the stage.
        Raises:
            SystemExit: the LLM cannot be used; the status is 1, and the message says what to do.
        """
        metrics = run_stage(
            self.folder,
            lambda stage: self._correct(corpus, guesses, stage),
            config=config,
            inputs=[*self.inputs, self.llm.llm_model],
            resume=self.resume,
        )
        rows = [row for _, row in read_json_lines(self.folder / CORRECTIONS)]
        return [row["text"] for row in rows], [row["reason"] for row in rows], metrics

    def _correct(self, corpus: datasets.Dataset, guesses: Sequence[Sequence[str | Guess]], stage: Path) -> dict:
        try:
            corrector = load_corrector(self.llm, alphabet_of(self.processor.tokenizer))
        except UserError as error:
            raise SystemExit(
                f"error: {error}\nrecipes/check_llm.py tests only the LLM. Without an LLM, --gold manifest uses the "
                "texts of --truth, and --gold stt --train_on all the recogniser's own texts, which is not ideal"
            ) from error
        corrector.hear(Rows(corpus))
        record = record_of(self.folder)
        corrections = correct_to_file(corrector, corpus["id"][:], guesses, record, self.resume)
        if PartialState().is_main_process:
            shutil.copy(record, stage / CORRECTIONS)
        return summarise(corrections)


def record_of(folder: Path) -> Path:
    """The record of an LLM's replies for the stage `gold`, `gold_2`, ..."""
    return folder.with_name(f"{folder.name.replace('gold', 'corrections')}.jsonl")


def find_gold(args: GoldArguments, corpus: datasets.Dataset, voters: Voters, corrections: Corrections) -> Gold:
    """The gold of each row of a corpus from `dataset_scripts.audio_folder.AudioFolder`.

    Args:
        corrections: the stage in which an LLM is asked, if the gold needs one.
    Raises:
        SystemExit: the LLM cannot be used; the status is 1, and the message says what to do.
    """
    if args.gold == "manifest":
        return Gold(corpus["text"][:], ["manifest"] * len(corpus))
    if args.gold == "stt":
        return Gold([one.text for one in voters.base], ["stt"] * len(corpus))
    if not voters.others:
        return Gold(*corrections.ask(corpus, voters.guesses, corrections.llm))
    vote = combine(voters.lists)
    if args.gold == "consensus":
        return Gold(vote.texts, ["consensus"] * len(corpus), None, vote, vote.errors)
    return corrected_vote(args, corpus, voters, vote, corrections)


def corrected_vote(
    args: GoldArguments, corpus: datasets.Dataset, voters: Voters, vote: Consensus, corrections: Corrections
) -> Gold:
    """What an LLM makes of a vote where it is not sure; for "best" the text with the fewest expected errors."""
    of_all = guesses_of_all(vote, voters.lists, args.sure_word)
    guesses = [[*told, *own[1:]] for told, own in zip(of_all, voters.guesses, strict=True)]
    config = (corrections.llm, {"recognisers": args.recognisers, "sure_word": args.sure_word})
    texts, sources, metrics = corrections.ask(corpus, guesses, config)
    texts = [where_unsure(places, text, args.sure_word) for places, text in zip(vote.places, texts, strict=True)]
    if args.gold == "best":
        texts, sources = _least_errors(vote, voters.lists, texts, sources)
    errors = [expected_errors(places, text) for places, text in zip(vote.places, texts, strict=True)]
    return Gold(texts, sources, metrics, vote, errors)


def _least_errors(
    vote: Consensus, lists: Sequence[Sequence[Heard]], corrected: Sequence[str], reasons: Sequence[str]
) -> tuple[list[str], list[str]]:
    """For each recording the text with the fewest expected errors, the vote before others, and its source."""
    texts = []
    sources = []
    for places, voted, heard, text, reason in zip(vote.places, vote.texts, lists, corrected, reasons, strict=True):
        choices = [("consensus", voted), *(("recogniser", one.text) for one in heard if one.text), (reason, text)]
        source, best = min(choices, key=lambda choice: expected_errors(places, choice[1]))
        texts.append(best)
        sources.append(source)
    return texts, sources


def guesses_of_all(vote: Consensus, lists: Sequence[Sequence[Heard]], sure: float) -> list[list[Guess]]:
    """For each recording the guesses that an LLM gets: the vote, then what each voter heard, the best one first.

    Words that are right with less than the probability `sure` have it beside them: by all votes in the vote, by the
    voter's own calibrated confidence elsewhere.
    """
    by_accuracy = sorted(range(len(vote.accuracy)), key=lambda i: -vote.accuracy[i])

    def doubts(confidences: Sequence[float]) -> tuple[float | None, ...]:
        return tuple(None if told >= sure else round(told, 2) for told in confidences)

    found = []
    for i, (text, heard) in enumerate(zip(vote.texts, lists, strict=True)):
        guesses = [Guess(text, doubts(vote.confidences(i)))]
        guesses += [Guess(heard[who].text, doubts(vote.own[i][who])) for who in by_accuracy]
        found.append(list({guess.text: guess for guess in reversed(guesses)}.values())[::-1])
    return found


def write_gold(
    file: Path, ids: Sequence[str], names: Sequence[str], heard: Sequence[Sequence[Heard]], gold: Gold
) -> None:
    """One line of JSON per recording: what each voter heard, the gold, and how far they agree with it.

    Args:
        names: names of the voters, in the order of `heard`.
    """
    for_words = utterance_errors(gold.texts, gold.texts)["reference_words"]
    rows = (
        {
            "id": name,
            "heard": {who: one.text for who, one in zip(names, heard[i], strict=True)},
            "gold": gold.texts[i],
            "consensus": [
                [place.word, round(1 - place.wrong, DECIMALS)] for place in gold.vote.places[i] if place.word
            ],
            "estimated_wer": round(gold.errors[i] / for_words[i], DECIMALS) if for_words[i] else None,
            "disagreement": round(disagreement([[one.text] for one in heard[i]]), DECIMALS),
        }
        for i, name in enumerate(ids)
    )
    write_json_lines(file, rows)
