"""Gold: the reference texts for evaluation and training of recordings without transcripts, and their split."""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Literal

import datasets
from accelerate import PartialState
from transformers import ProcessorMixin

from hf_components.asr import Rows
from hf_components.correction.arguments import CorrectionArguments, load_corrector
from hf_components.correction.finetuning.consensus import (
    Consensus,
    Heard,
    combine,
    estimated_wer,
    expected_errors,
    where_unsure,
)
from hf_components.correction.prompt import Guess
from hf_components.correction.record import correct_to_file, summarise
from hf_components.correction.writing import alphabet_of
from hf_components.runtime import SEEDS, NothingToTrainOnError, UserError, first_few, flag, read_json_lines, run_stage
from hf_components.scoring import utterance_errors
from hf_components.speech import hold_out

logger = logging.getLogger(__name__)

CORRECTIONS = "corrections.jsonl"
LABELS = {
    "llm": "the recogniser's text as {llm} corrects it; that favours the recogniser",
    "manifest": "the transcripts of the manifest",
    "consensus": "a vote of this recogniser and {recognisers} on every word",
    "best": "the best, by votes of this recogniser and {recognisers}, of their texts and what {llm} makes of the vote",
    "stt": "the recogniser's OWN TEXT, uncorrected, which is no measure of quality",
}
NAMED = 10  # ids that a message shows
# Sources of gold texts without a rejected reply
BELIEVED = ("manifest", "consensus", "recogniser", "stt", "corrected", "unchanged")


GOLDS = (
    "llm: the recogniser's text, corrected by an LLM; manifest: the texts of --truth; consensus: a vote of the "
    "recogniser and --recognisers on every word; best: for each recording what has the lowest expected WER of the "
    "vote, each recogniser's text and the LLM's; stt: the recogniser's text"
)
ASKED = ("llm", "best")  # what an LLM is asked for
VOTED = ("llm", "consensus", "best")  # what other recognisers can vote on


@dataclass
class GoldArguments:
    """The gold texts, and the recordings for training and evaluation.

    With `evaluate_on_train` nothing is held out, and the table says so.
    """

    gold: Literal["llm", "manifest", "consensus", "best", "stt"] = flag(GOLDS, default="llm")
    recognisers: list[str] = flag(
        "other recognisers that vote on every word of the gold, two or more are best: folders or Hub ids of any "
        "family, pocketsphinx, or JSON lines of transcripts by any other tool. An LLM then gets all their texts, and "
        "may change only what they are not sure of",
        default=[],
        needs={"gold": VOTED},
    )
    sure_word: float = flag(
        "an LLM may not change a word that is right with at least this probability, by the votes of --recognisers",
        default=0.8,
        above=0,
        max=1,
        needs={"gold": ("llm", "best")},
    )
    max_gold_wer: float | None = flag(
        "do not train on a recording if the recognisers disagree so much that its gold is expected to have a higher "
        "WER; default: train on all",
        default=None,
        min=0,
        needs={"gold": VOTED},
    )
    judges: list[str] = flag(
        "recognisers that decide, where no truth is known, whether the trained one became better: folders or Hub ids "
        "of others than those that made the gold",
        default=[],
    )
    rounds: int = flag(
        "rounds of gold and training; in each further one the trained recogniser votes in place of the base, and the "
        "first that is not surely better ends them",
        default=1,
        min=1,
        needs={"gold": VOTED},
    )
    nbest: int = flag(
        "texts per recording that the LLM gets, by beam search (--gold llm or best)",
        default=1,
        min=1,
        needs={"gold": ASKED},
    )
    train_on: Literal["errors", "agreed", "all"] = flag(
        "train where recogniser and gold differ (errors), where they agree, or on all", default="errors"
    )
    eval_ratio: float = flag(
        "share of each condition that is held out", default=0.3, above=0, below=1, needs={"evaluate_on_train": False}
    )
    split_seed: int = flag("seed of the split", default=42, **SEEDS, needs={"evaluate_on_train": False})
    evaluate_on_train: bool = flag("hold nothing out; evaluate on the training recordings", default=False)

    def __post_init__(self):
        if self.gold not in ASKED:
            self.nbest = 1
        if self.gold not in VOTED:  # nobody votes
            self.recognisers = []
            self.max_gold_wer = None
        if self.gold in ("consensus", "best") and not self.recognisers:
            raise UserError(f"--gold {self.gold} is a vote of several: also give --recognisers, best two or more")
        if self.max_gold_wer is not None and not self.recognisers:
            raise UserError("--max_gold_wer needs an estimate of the WER: also give --recognisers")
        if both := set(self.recognisers) & set(self.judges):
            raise UserError(f"{min(both)} cannot judge what it made: give it to --recognisers or to --judges")
        if self.gold == "stt" and self.train_on == "errors":
            raise UserError(
                "--gold stt is the recogniser's own text, so there are no errors to train on; also give --train_on "
                "all, or use another --gold"
            )

    def label(self, llm: str) -> str:
        return LABELS[self.gold].format(llm=llm, recognisers=" and ".join(self.recognisers))


@dataclass
class Sample:
    """A recording.

    Args:
        duration: length in seconds.
        heard: text of the recogniser before training.
        source: source of `gold`: manifest, stt, consensus, recogniser, or the `reason` of the LLM's correction.
        truth: true text; None if it is not known.
        held_out: whether it is for evaluation and not for training.
        finetuned: text of the recogniser after training; None if it was not transcribed.
        estimated_wer: expected WER of the gold, see `combine`; None if nobody else heard the recording.
    """

    id: str
    condition: str
    duration: float
    heard: str
    gold: str
    source: str
    truth: str | None
    held_out: bool
    trained_on: bool = False
    finetuned: str | None = None
    estimated_wer: float | None = None


@dataclass
class Gold:
    """Gold texts of recordings with their sources.

    Attributes:
        corrections: counts of the LLM's accepted and rejected replies; None without an LLM.
        vote: votes of several recognisers, and `errors`, the expected errors of each text; None without them.
    """

    texts: list[str]
    sources: list[str]
    corrections: dict | None = None
    vote: Consensus | None = None
    errors: list[float] | None = None


def find_gold(
    args: GoldArguments,
    llm: CorrectionArguments,
    corpus: datasets.Dataset,
    heard: Sequence[Heard],
    guesses: Sequence[Sequence[str | Guess]],
    processor: ProcessorMixin,
    folder: Path,
    *,
    inputs: Sequence[str | Path],
    resume: bool,
    others: Mapping[str, Sequence[Heard]] = MappingProxyType({}),
) -> Gold:
    """The gold of each row.

    Args:
        corpus: rows from `dataset_scripts.audio_folder.AudioFolder`.
        heard: what the recogniser heard in each row.
        guesses: its texts for the LLM: the best one, then alternatives.
        processor: processor of the recogniser, which gives its alphabet.
        folder: folder of the stage in which the LLM is asked. Beside it is the record of its replies, with which
            another run continues.
        inputs: files and stages with what was heard.
        others: what further recognisers heard, by name.
    Raises:
        SystemExit: the LLM cannot be used; the status is 1, and the message says what to do.
    """
    if args.gold == "manifest":
        return Gold(corpus["text"][:], ["manifest"] * len(corpus))
    if args.gold == "stt":
        return Gold([one.text for one in heard], ["stt"] * len(corpus))
    lists = list(zip(heard, *others.values(), strict=True))
    vote = combine(lists) if others else None
    if args.gold == "consensus":
        return Gold(vote.texts, ["consensus"] * len(lists), None, vote, vote.errors)
    if vote is not None:
        guesses = [
            [*told, *own[1:]] for told, own in zip(guesses_of_all(vote, lists, args.sure_word), guesses, strict=True)
        ]
    metrics = run_stage(
        folder,
        lambda stage: _correct(llm, corpus, guesses, processor, record_of(folder), stage, resume),
        config=(llm, {"recognisers": args.recognisers, "sure_word": args.sure_word}) if others else llm,
        inputs=[*inputs, llm.llm_model],
        resume=resume,
    )
    rows = [row for _, row in read_json_lines(folder / CORRECTIONS)]
    texts = [row["text"] for row in rows]
    sources = [row["reason"] for row in rows]
    if vote is None:
        return Gold(texts, sources, metrics)
    texts = [where_unsure(places, text, args.sure_word) for places, text in zip(vote.places, texts, strict=True)]
    if args.gold == "best":
        texts, sources = _least_errors(vote, lists, texts, sources)
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
    """For each recording the guesses that an LLM gets: the vote, then what each recogniser heard, the best one first.

    Words that are right with less than the probability `sure` have it beside them: by all votes in the vote, by the
    recogniser's own calibrated confidence elsewhere.
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


def record_of(folder: Path) -> Path:
    """The record of an LLM's replies for the stage `gold`, `gold_2`, ..."""
    return folder.with_name(f"{folder.name.replace('gold', 'corrections')}.jsonl")


def _correct(
    args: CorrectionArguments,
    corpus: datasets.Dataset,
    heard: Sequence[Sequence[str | Guess]],
    processor: ProcessorMixin,
    record: Path,
    folder: Path,
    resume: bool,
) -> dict:
    try:
        corrector = load_corrector(args, alphabet_of(processor.tokenizer))
    except UserError as error:
        raise SystemExit(
            f"error: {error}\nrecipes/check_llm.py tests only the LLM. Without an LLM, --gold manifest uses the texts "
            "of --truth, and --gold stt --train_on all the recogniser's own texts, which is not ideal"
        ) from error
    corrector.hear(Rows(corpus))
    corrections = correct_to_file(corrector, corpus["id"][:], heard, record, resume)
    if PartialState().is_main_process:
        shutil.copy(record, folder / CORRECTIONS)
    return summarise(corrections)


def make_samples(corpus: datasets.Dataset, heard: Sequence[str], gold: Gold, args: GoldArguments) -> list[Sample]:
    """Recordings with their gold, divided into training and evaluation, in the same way for each condition.

    Recordings stay on the same side if they have the same name in both conditions (one utterance with and without
    noise), or the same sound.

    Args:
        corpus, gold: see `find_gold`.
        heard: text of the recogniser for each row.
    Raises:
        UserError: there are too few recordings to hold any out.
    """
    ids = corpus["id"][:]
    conditions = corpus["group"][:]
    held_out: set[int] = set()
    if not args.evaluate_on_train:
        names = [
            str(PurePath(name.removeprefix(f"{condition}/")).with_suffix(""))
            for name, condition in zip(ids, conditions, strict=True)
        ]
        sounds = [hashlib.sha256(row["audio"]["bytes"]).hexdigest() for row in corpus.select_columns(["audio"])]
        held_out = hold_out(ids, conditions, args.eval_ratio, args.split_seed, names, sounds)
        if len(held_out) == len(ids):
            share = f"{args.eval_ratio:.0%}"
            raise UserError(
                f"{len(ids)} recordings are too few to hold out {share}: give more, or --evaluate_on_train"
            )
    truth = [None if raw is None else text for raw, text in zip(corpus["raw_text"], corpus["text"], strict=True)]
    columns = (ids, conditions, corpus["duration"], heard, gold.texts, gold.sources, truth)
    samples = [Sample(*row, held_out=i in held_out) for i, row in enumerate(zip(*columns, strict=True))]
    for sample, errors in zip(samples, gold.errors or (), strict=bool(gold.errors)):
        sample.estimated_wer = estimated_wer([errors], [sample.gold])
    return samples


def estimates(samples: Sequence[Sample], gold: Gold) -> dict:
    """The expected WER of the gold, of all recordings and of each condition; None without votes.

    Returns:
        `estimated_wer`, `estimated_wer_per_condition`, and `accuracy`: the expected share of right words of this
        recogniser and of the others, in their order.
    """
    if gold.vote is None:
        return {"estimated_wer": None, "estimated_wer_per_condition": {}, "accuracy": []}
    rows: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        rows.setdefault(sample.condition, []).append(i)
    per_condition = {
        name: estimated_wer([gold.errors[i] for i in of], [gold.texts[i] for i in of])
        for name, of in sorted(rows.items())
    }
    overall = estimated_wer(gold.errors, gold.texts)
    return {"estimated_wer": overall, "estimated_wer_per_condition": per_condition, "accuracy": gold.vote.accuracy}


def has_errors(samples: Sequence[Sample]) -> list[bool]:
    """For each recording, whether the recogniser's text differs from the gold after the WER's normaliser."""
    return (utterance_errors([row.heard for row in samples], [row.gold for row in samples])["errors"] > 0).tolist()


def choose_for_training(
    samples: Sequence[Sample], train_on: str, longest_seconds: float, max_gold_wer: float | None = None
) -> list[Sample]:
    """Choose the recordings to train on from the training part.

    Recordings without a word in their gold are left out with a warning, and so are those longer than
    `longest_seconds`, because it is not known which part of the text belongs to which part of the recording. If the
    gate rejected the LLM's reply, recogniser and LLM do not agree, although the gold is the recogniser's text.
    Recordings whose gold is expected to have a WER above `max_gold_wer` are left out too.

    Raises:
        NothingToTrainOnError: no recording is left.
    """
    candidates = [(row, wrong) for row, wrong in zip(samples, has_errors(samples), strict=True) if not row.held_out]
    chosen = [
        row
        for row, wrong in candidates
        if train_on == "all" or (wrong if train_on == "errors" else not wrong and row.source in BELIEVED)
    ]
    silent = [row.id for row in chosen if not row.gold.strip()]
    long = [row.id for row in chosen if row.gold.strip() and row.duration > longest_seconds]
    doubtful = [row.id for row in chosen if max_gold_wer is not None and (row.estimated_wer or 0) > max_gold_wer]
    for names, what in (
        (silent, "have no word in their gold"),
        (long, f"are longer than {longest_seconds:g} s"),
        (doubtful, f"have gold with an expected WER above {max_gold_wer}"),
    ):
        if names:
            text = "%d of %d recordings %s and are not trained on: %s"
            logger.warning(text, len(names), len(chosen), what, first_few(names, NAMED))
    chosen = [row for row in chosen if row.id not in {*silent, *long, *doubtful}]
    if not chosen:
        wrong = sum(is_wrong for _, is_wrong in candidates)
        raise NothingToTrainOnError(
            f"there is nothing to train on: {wrong} of {len(candidates)} recordings have errors against the gold, and "
            f"--train_on is {train_on}; choose another"
        )
    return chosen


def training_rows(corpus: datasets.Dataset, chosen: Sequence[Sample]) -> datasets.Dataset:
    """The corpus rows of the chosen recordings, with the gold as text."""
    index = {name: i for i, name in enumerate(corpus["id"])}
    rows = corpus.select([index[row.id] for row in chosen])
    return rows.remove_columns("text").add_column("text", [row.gold for row in chosen])


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in samples]
    path.write_text("".join(lines), encoding="utf-8")
