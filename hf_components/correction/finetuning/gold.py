"""Gold: the texts that recordings without transcripts are judged and trained by, and which of the recordings are for
what."""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import datasets
from accelerate import PartialState
from transformers import ProcessorMixin

from hf_components.correction.arguments import CorrectionArguments, load_corrector
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
    "stt": "the recogniser's OWN TEXT, uncorrected, which is no measure of quality",
}
NAMED = 10  # ids that a message names
BELIEVED = ("manifest", "stt", "corrected", "unchanged")  # sources of a gold text that nothing spoke against


@dataclass
class GoldArguments:
    """What recordings are judged and trained by."""

    gold: Literal["llm", "manifest", "stt"] = flag(
        "llm: the recogniser's text, corrected by an LLM; manifest: the texts of --truth; stt: the recogniser's text",
        default="llm",
    )
    nbest: int = flag(
        "of --gold llm: texts that the LLM is shown of each recording, by beam search; 1: what was heard",
        default=1,
        min=1,
    )
    train_on: Literal["errors", "agreed", "all"] = flag(
        "recordings of the training part to train on: where recogniser and gold differ, where they agree, all",
        default="errors",
    )
    eval_ratio: float = flag(
        "share of the recordings of each condition that is held out", default=0.3, above=0, below=1
    )
    split_seed: int = flag("decides which", default=42, **SEEDS)
    evaluate_on_train: bool = flag(
        "hold nothing out: judge by the recordings that are trained on, which the table then says", default=False
    )

    def __post_init__(self):
        if self.gold != "llm":
            self.nbest = 1
        if self.gold == "stt" and self.train_on == "errors":
            raise UserError(
                "--gold stt is the recogniser's own text, against which it makes no errors to train on; give "
                "--train_on all too, or another --gold"
            )

    def label(self, llm: str) -> str:
        return LABELS[self.gold].format(llm=llm)


@dataclass
class Sample:
    """A recording.

    Args:
        duration: seconds.
        heard: what the recogniser wrote before training.
        source: of `gold`: manifest, stt, or what became of the LLM's reply.
        truth: what was said, None where it is not known.
        held_out: it is not trained on, but judged by.
        finetuned: what the recogniser wrote after training, None if it was not asked.
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


@dataclass
class Gold:
    """Gold texts of recordings and where each is from; of an LLM's replies also how many were accepted, and why others
    not."""

    texts: list[str]
    sources: list[str]
    corrections: dict | None = None


def find_gold(
    args: GoldArguments,
    llm: CorrectionArguments,
    corpus: datasets.Dataset,
    heard: Sequence[Sequence[str]],
    processor: ProcessorMixin,
    work: Path,
    resume: bool,
) -> Gold:
    """The gold of each row.

    Args:
        corpus: rows as `dataset_scripts.audio_folder.AudioFolder` makes them.
        heard: the recogniser's text of each, and further ones that the LLM is to be shown.
        processor: the recogniser's, which says what it can write.
        work: holds the stage `baseline` or `nbest` that `heard` is of; gets the stage `gold` and `corrections.jsonl`,
            what an LLM was asked and said, from which another run goes on.
    Raises:
        SystemExit: with status 1 and what to do, if the LLM cannot be used.
    """
    if args.gold == "manifest":
        return Gold(corpus["text"][:], ["manifest"] * len(corpus))
    if args.gold == "stt":
        return Gold([texts[0] for texts in heard], ["stt"] * len(corpus))
    source = work / ("baseline" if args.nbest == 1 else "nbest")
    metrics = run_stage(
        work / "gold",
        lambda folder: _correct(llm, corpus["id"][:], heard, processor, work, folder, resume),
        config=llm,
        inputs=[source, llm.llm_model],
        resume=resume,
    )
    rows = [row for _, row in read_json_lines(work / "gold" / CORRECTIONS)]
    return Gold([row["text"] for row in rows], [row["reason"] for row in rows], metrics)


def _correct(
    args: CorrectionArguments,
    ids: Sequence[str],
    heard: Sequence[Sequence[str]],
    processor: ProcessorMixin,
    work: Path,
    folder: Path,
    resume: bool,
) -> dict:
    try:
        corrector = load_corrector(args, alphabet_of(processor.tokenizer))
    except UserError as error:
        raise SystemExit(
            f"error: {error}\nrecipes/check_llm.py tries the LLM alone. Without one, --gold manifest takes the "
            "texts of --truth; --gold stt --train_on all the recogniser's own, which is not ideal"
        ) from error
    corrections = correct_to_file(corrector, ids, heard, work / CORRECTIONS, resume)
    if PartialState().is_main_process:
        shutil.copy(work / CORRECTIONS, folder)
    return summarise(corrections)


def make_samples(corpus: datasets.Dataset, heard: Sequence[str], gold: Gold, args: GoldArguments) -> list[Sample]:
    """Recordings with their gold, divided into those to train on and those to judge by, each condition alike.

    On one side are recordings of one name in both conditions, which are one utterance with and without noise, and
    recordings of the same sound.

    Args:
        corpus, gold: as of `find_gold`.
        heard: the recogniser's text of each.
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
            raise UserError(
                f"{len(ids)} recordings are too few to hold {args.eval_ratio:.0%} of them out: give more, or "
                "--evaluate_on_train"
            )
    columns = zip(
        ids, conditions, corpus["duration"], heard, gold.texts, gold.sources, corpus["raw_text"], strict=True
    )
    return [Sample(*row, held_out=i in held_out) for i, row in enumerate(columns)]


def has_errors(samples: Sequence[Sample]) -> list[bool]:
    """Of each recording, whether what was heard differs from the gold after the normaliser of the WER."""
    return (utterance_errors([row.heard for row in samples], [row.gold for row in samples])["errors"] > 0).tolist()


def choose_for_training(samples: Sequence[Sample], train_on: str, longest_seconds: float) -> list[Sample]:
    """The recordings of the training part to train on.

    Left out, with a warning, are those without a word in their gold, and those longer than `longest_seconds`, whose
    text belongs to no part of them. To agree, a reply of an LLM must have passed its gate: a text that was kept
    because the reply was refused is one that the two disagree about.

    Raises:
        NothingToTrainOnError: none is left.
    """
    candidates = [(row, wrong) for row, wrong in zip(samples, has_errors(samples), strict=True) if not row.held_out]
    chosen = [
        row
        for row, wrong in candidates
        if train_on == "all" or (wrong if train_on == "errors" else not wrong and row.source in BELIEVED)
    ]
    silent = [row.id for row in chosen if not row.gold.strip()]
    long = [row.id for row in chosen if row.gold.strip() and row.duration > longest_seconds]
    for names, what in ((silent, "have no word in their gold"), (long, f"are longer than {longest_seconds:g} s")):
        if names:
            logger.warning(
                "%d of %d recordings %s and are not trained on: %s",
                len(names),
                len(chosen),
                what,
                first_few(names, NAMED),
            )
    chosen = [row for row in chosen if row.id not in {*silent, *long}]
    if not chosen:
        wrong = sum(is_wrong for _, is_wrong in candidates)
        raise NothingToTrainOnError(
            f"there is nothing to train on: {wrong} of {len(candidates)} recordings have errors "
            f"against the gold, and --train_on is {train_on}; choose another"
        )
    return chosen


def training_rows(corpus: datasets.Dataset, chosen: Sequence[Sample]) -> datasets.Dataset:
    """Their rows of the corpus, the gold as text."""
    index = {name: i for i, name in enumerate(corpus["id"])}
    rows = corpus.select([index[row.id] for row in chosen])
    return rows.remove_columns("text").add_column("text", [row.gold for row in chosen])


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in samples]
    path.write_text("".join(lines), encoding="utf-8")
