"""Load a prepared corpus (see `recipes/prepare_corpus.py`) and decode its audio."""

import contextlib
import errno
import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from datasets import Audio, Dataset, DatasetDict, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import DatasetCard
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from yaml import YAMLError

from hf_components.runtime import (
    UserError,
    broken_link,
    causes,
    check_stage,
    file_digest,
    files_below,
    read_json_lines,
    read_record,
    require_there,
    text_field,
    want_of_space,
)
from hf_components.speech.audio import SAMPLING_RATE, decode
from hf_components.speech.contract import check_contract, check_seconds, kind_of
from hf_components.speech.folds import divide
from hf_components.speech.sampling import Sampling
from hf_components.speech.speakers import UNKNOWN, describe_dev, known_speakers
from hf_components.speech.splits import DEV, LONG, TRAIN
from hf_components.speech.targets import with_target

SEGMENT = re.compile(r"-\d{8,}-\d{8,}$")  # milliseconds at the end of the id of a segment
COUNTED = re.compile(r"(.*-)\d+-of-(\d+)(\..*)")  # name of a file that says how many there are
SHARD = re.compile(r"-\d{5}-of-\d{5}\.parquet$")
CONTENT = re.compile(r"^ *description: content ([0-9a-f]{16})$", re.MULTILINE)


def load_corpus(
    path_or_hub_id: str | Path,
    split: str | None = None,
    data_config_override: str | None = None,
    *,
    shared_speakers: bool = False,
    target: str | None = None,
    g2p: str | None = None,
) -> DatasetDict | Dataset:
    """Load a prepared corpus without decoding its audio (`Audio(decode=False)`: bytes and path; see `waveforms`).

    Args:
        path_or_hub_id: folder that `prepare_corpus` wrote, or a data set of that form on the Hub.
        split: name of one split; all splits by default.
        data_config_override: part of each split to take, see `Sampling.parse`.
        shared_speakers: whether a known speaker may be in several splits, for recipes that need no new voices in dev.
            Segments of recordings may always share theirs.
        target, g2p: only the rows that have this text, under `text`, see `with_target`; by default all, as they are.
    Raises:
        UserError: the corpus does not exist or is not a prepared one, its files were changed after it was written, the
            split or a required column is missing, a cell is empty, an id is there twice, or a speaker is in several
            splits and may not be; or durations are in milliseconds.
    """
    corpus = _load(path_or_hub_id)
    for name, rows in corpus.items():
        check_contract(rows, f"{path_or_hub_id}, split {name},")
    corpus = DatasetDict({name: _name_unknown(rows) for name, rows in corpus.items()})
    if not shared_speakers and not _holds_segments(corpus):
        _check_speakers(corpus, path_or_hub_id)
    sampling = Sampling.parse(data_config_override)
    corpus = divide(corpus, sampling)
    if split is not None:
        if split not in corpus:
            raise UserError(f"{path_or_hub_id} has no split {split!r}; it has {', '.join(corpus)}")
        corpus = DatasetDict({split: corpus[split]})
    if target is not None:
        corpus = DatasetDict(
            {name: with_target(rows, target, g2p, f"{path_or_hub_id}, split {name}") for name, rows in corpus.items()}
        )
    corpus = corpus.cast_column("audio", Audio(sampling_rate=SAMPLING_RATE, decode=False))
    for name, rows in corpus.items():
        check_seconds(rows, f"{path_or_hub_id}, split {name}")
    if split is None:
        return DatasetDict({name: sampling.of(rows) for name, rows in corpus.items()})
    return sampling.of(corpus[split])


def _check_speakers(corpus: DatasetDict, where: str | Path) -> None:
    """Raise UserError if a known speaker is in several splits; a split and its long recordings count as one."""
    first: dict[str, str] = {}
    shared: dict[str, str] = {}
    for name, rows in corpus.items():
        part = name.removesuffix(LONG)
        for speaker in known_speakers(rows.unique("speaker_id")):
            if first.setdefault(speaker, part) != part:
                shared.setdefault(speaker, part)
    if shared:
        speaker = min(shared)
        raise UserError(
            f"speaker {speaker} of {where} is in the splits {first[speaker]} and {shared[speaker]}; splits must not "
            "share a speaker: give each speaker to one split and prepare the corpus again"
        )


def require_splits(
    data: str | Path, corpus: str | Path, needed: set[str], advice: str, *, shared_speakers: bool = False
) -> list[str]:
    """The splits of a prepared corpus, checked now and not after hours of training.

    Args:
        data: path or Hub id that the user gave, for the message; the corpus was made from it, or is the same.
        needed: splits that must exist.
        advice: why they are needed, and what to do.
        shared_speakers: whether the splits may share a speaker, see `load_corpus`.
    Raises:
        UserError: a needed split is missing.
    """
    splits = list(load_corpus(corpus, shared_speakers=shared_speakers))
    if missing := needed - set(splits):
        raise UserError(f"{data} has no split {' and no split '.join(sorted(missing))}: {advice}")
    return splits


def is_prepared(data: str | Path) -> bool:
    """Whether `data` is a prepared corpus, on this disk or the Hub, and not a folder to prepare one from."""
    return any(Path(data).glob("data/*.parquet")) or not Path(data).is_dir()


def waveforms(
    rows: Iterable[dict[str, Any]], sampling_rate: int = SAMPLING_RATE, is_ours: bool = True
) -> list[np.ndarray]:
    """Decode the audio of rows from `load_corpus`: float32 (samples,) each. Raises AudioError with the row's id.

    This process does so, since prepare_corpus has decoded every recording in a process apart, and encoded it itself.
    """
    audio = [(row["id"], row["audio"]["bytes"] or row["audio"]["path"]) for row in rows]
    return [decode(source, sampling_rate, name=name, is_ours=is_ours) for name, source in audio]


def sample_rows(corpus: Dataset, size: int, seed: int) -> Dataset:
    """At most `size` rows, drawn at random by `seed`, in the order of the corpus."""
    return Sampling(max_samples=size, seed=seed).of(corpus)


def summarise_corpus(
    path_or_hub_id: str | Path, data_config_override: str | None = None, *, shared_speakers: bool = False
) -> dict:
    """Name, rows per split, total hours, and in words what is held out in dev (None without train and dev).

    For a corpus on the Hub also id and revision; for one on this disk the number of rejected rows per reason, and the
    names of the external data in it (None if no record exists).
    """
    corpus = load_corpus(path_or_hub_id, data_config_override=data_config_override, shared_speakers=shared_speakers)
    folder = Path(path_or_hub_id)
    card, rejected, provenance = (folder / name for name in ("README.md", "rejected.jsonl", "provenance.json"))
    reasons = _reasons(rejected) if rejected.exists() else []
    given_name = DatasetCard.load(card).data.pretty_name if card.exists() else None
    is_here = folder.exists()
    return {
        "name": given_name or folder.name,
        "hub_id": None if is_here else str(path_or_hub_id),
        # `datasets` caches data from the Hub under their commit.
        "revision": None if is_here else load_dataset_builder(str(path_or_hub_id)).hash,
        "rows": {name: len(rows) for name, rows in corpus.items()},
        "hours": sum(sum(rows["duration"]) for rows in corpus.values()) / 3600,
        "held_out": _held_out(corpus),
        "rejected": dict(Counter(reasons)),
        "external_data": _external_data(provenance) if provenance.exists() else None,
    }


def _reasons(rejected: Path) -> list[str]:
    return [text_field(row, "reason", rejected, line) for line, row in read_json_lines(rejected)]


def _external_data(provenance: Path) -> list[str]:
    return read_record(provenance, {"external_data": [str]}, "prepare the corpus again")["external_data"]


def _held_out(corpus: DatasetDict) -> str | None:
    """What is held out in dev, in words, see `describe_dev`; None if there is no train or no dev."""
    if not {TRAIN, DEV} <= set(corpus):
        return None
    both = [corpus[TRAIN], corpus[DEV]]
    files = [set(rows.unique("source_file")) for rows in both] if _holds_segments(corpus) else [set(), set()]
    return describe_dev(*(rows.unique("speaker_id") for rows in both), last_part=bool(files[0] & files[1]))


def _name_unknown(rows: Dataset) -> Dataset:
    """The rows with "unknown" for a `speaker_id` that is missing, or is the name of a segment's recording.

    Earlier versions of `SegmentedAudio` put that name where nobody said who speaks.
    """
    names = rows["speaker_id"][:]
    recordings = [None] * len(names)
    if {"start", "end"} <= set(rows.column_names):
        recordings = [SEGMENT.sub("", name) for name in rows["id"]]
    known = [UNKNOWN if name in (None, recording) else name for name, recording in zip(names, recordings, strict=True)]
    if known == names:
        return rows
    return rows.remove_columns("speaker_id").add_column("speaker_id", known)


def _holds_segments(corpus: DatasetDict) -> bool:
    """Whether all rows are segments of recordings, which may be divided by recording."""
    return all({"start", "source_file"} <= set(rows.column_names) for rows in corpus.values())


def content_digest(folder: Path) -> str:
    """SHA-256 of the files of a folder. The card of a corpus has it, as `description: content <digest>`.

    `load_dataset` keys its cache of a folder by the metadata of its card, not by the files. Without the digest in the
    card, it would serve old rows after a corpus was prepared again in the same place.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()[:16]


def _check_files(folder: Path, tables: Sequence[Path]) -> dict[str, str]:
    """Make sure that the tables of a corpus are those that were written, and alike; returns options of `load_dataset`.

    Raises:
        UserError: a table was changed, exchanged or cut short, or has other columns than the others of its split.
    """
    is_recorded = check_stage(folder)
    card = folder / "README.md"
    promised = CONTENT.search(card.read_text(encoding="utf-8", errors="replace")) if card.exists() else None
    is_promise = promised is not None and not is_recorded and (folder / "data").is_dir()
    if is_promise and content_digest(folder / "data") != promised[1]:
        raise UserError(
            f"{folder} was changed after it was prepared: its card says content {promised[1]}; prepare it again, or, "
            f"to use it as it is, remove the line '{promised[0].strip()}' from {card}"
        )
    of_split: dict[str, tuple[Path, dict]] = {}
    _check_complete(tables)
    for path in sorted(tables):
        try:
            schema = pyarrow.parquet.read_schema(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} cannot be read: {error}; prepare the corpus again") from error
        columns = {field.name: kind_of(field.type) for field in schema}
        first, expected = of_split.setdefault(SHARD.sub("", str(path)), (path, columns))
        if other := sorted({name for name, _ in expected.items() ^ columns.items()}):
            raise UserError(
                f"{path} differs from {first.name} in the column {other[0]} ({columns.get(other[0], 'missing')}, not "
                f"{expected.get(other[0], 'missing')}); all files of a split must have the same columns"
            )
    if promised:
        return {}
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in tables]
    return {"description": f"state {hashlib.sha256(repr(states).encode()).hexdigest()[:16]}"}  # a key of the cache


def _check_complete(tables: Sequence[Path]) -> None:
    """Raise UserError if a file is missing of those that count themselves, as `train-00001-of-00002.parquet` does."""
    series = {(path.parent, *counted.groups()) for path in tables if (counted := COUNTED.fullmatch(path.name))}
    for folder, before, total, after in sorted(series):
        for number in range(int(total)):
            path = folder / f"{before}{number:0{len(total)}}-of-{total}{after}"
            if not path.exists():
                raise UserError(f"{path} is missing; get it, or prepare the corpus again")


@contextlib.contextmanager
def _cache_explained(tables: Sequence[Path]) -> Iterator[None]:
    """Raise UserError if the cache that `datasets` copies the corpus into is at fault, and not the corpus.

    Args:
        tables: Parquet files of the corpus; none for one on the Hub.
    """
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    remedy = "set HF_HOME (or HF_DATASETS_CACHE) to a folder that you can write to, with room for a copy of the corpus"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise UserError(f"the cache of data sets, {cache}, cannot be written: {error.strerror}; {remedy}") from error
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = want_of_space(error) or next(filter(None, (_words_of(cause, cache) for cause in causes(error))), None)
        if reason is not None:
            raise UserError(f"the cache of data sets, {cache}, cannot be used: {reason}; {remedy}") from error
        # What `datasets` raises while it reads the corpus is a DatasetGenerationError.
        is_damage = isinstance(error, pyarrow.ArrowInvalid | json.JSONDecodeError) or (
            type(error) is OSError and error.errno is None
        )
        if is_damage and all(map(_is_table, tables)):
            raise UserError(
                f"a file in the cache of data sets, {cache}, is damaged ({error}); delete that folder, which holds "
                "only copies, and run the same command again"
            ) from error
        raise


def _is_table(path: Path) -> bool:
    try:
        pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowInvalid, OSError):
        return False
    return True


def _words_of(error: BaseException, cache: Path) -> str | None:
    """The error in words if it comes from a file of the cache or from a disk that is read-only; else None."""
    if not isinstance(error, OSError):
        return None
    named = [Path(str(name)) for name in (error.filename, error.filename2) if name is not None]
    is_named = any(name.is_relative_to(cache) for name in named) or f"'{cache}/" in str(error)  # pyarrow only says it
    return str(error) if is_named or error.errno == errno.EROFS else None


def _load(path_or_hub_id: str | Path) -> DatasetDict:
    folder = Path(path_or_hub_id)
    if problem := broken_link(folder.parent, folder.name):
        raise UserError(problem)
    tables = [path for path in files_below(folder) if path.suffix == ".parquet"] if folder.is_dir() else []
    for path in tables:
        if problem := broken_link(folder, str(path.relative_to(folder))):
            raise UserError(f"{folder}: {problem}")
    if folder.exists() and not tables:
        raise UserError(
            f"{folder} is not a prepared corpus (it holds no Parquet file); run recipes/prepare_corpus.py "
            f"--data_dir {folder} --output_dir <prepared> and give the folder <prepared>"
        )
    require_there(path_or_hub_id, "give a prepared corpus, by its folder or its id on the Hub")
    try:
        with _cache_explained(tables):
            return load_dataset(str(path_or_hub_id), **(_check_files(folder, tables) if tables else {}))
    except (FileNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ConnectionError, ImportError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path_or_hub_id} is neither a folder nor a data set that the Hub gives access to: {reason}"
        ) from error
    except UserError:
        raise
    except (DatasetGenerationError, pyarrow.ArrowInvalid, OSError, ValueError, LookupError, YAMLError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{path_or_hub_id} cannot be read: {reason}; prepare it again") from error
