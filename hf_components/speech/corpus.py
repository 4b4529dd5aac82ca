"""Load a prepared corpus (see `recipes/prepare_corpus.py`) and decode its audio."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from datasets import Audio, Dataset, DatasetDict, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import DatasetCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from hf_components.runtime import UserError
from hf_components.speech.audio import SAMPLING_RATE, decode
from hf_components.speech.sampling import Sampling

REQUIRED = ("id", "audio", "text", "speaker_id", "group", "duration")
# split of the recordings a model cannot take in one piece; its speakers are those of the split it is named for
LONG = "_long"


def load_corpus(
    path_or_hub_id: str | Path, split: str | None = None, data_config_override: str | None = None
) -> DatasetDict | Dataset:
    """Load a prepared corpus with its audio undecoded (`Audio(decode=False)`: bytes and path; see `waveforms`).

    Args:
        path_or_hub_id: folder that `prepare_corpus` wrote, or a data set of that form on the Hub.
        split: name of one split; all of them by default.
        data_config_override: how much of each split to take, as `Sampling.parse` reads it.
    Raises:
        UserError: there is no such corpus, it is not a prepared one, it has no such split, a required column is
            missing, or a speaker is in several splits and these are not parts of one recording.
    """
    corpus = _load(path_or_hub_id)
    speakers: dict[str, str] = {}
    for name, rows in corpus.items():
        if missing := [column for column in REQUIRED if column not in rows.column_names]:
            raise UserError(
                f"{path_or_hub_id}, split {name}, lacks the columns {', '.join(missing)}; a prepared corpus has "
                f"{', '.join(REQUIRED)}; recipes/prepare_corpus.py writes one"
            )
        part = name.removesuffix(LONG)
        for speaker in rows.unique("speaker_id"):
            if speakers.setdefault(speaker, part) != part and not _is_one_recording(corpus):
                raise UserError(
                    f"speaker {speaker} of {path_or_hub_id} is in the splits {speakers[speaker]} and {part}; "
                    "splits must not share a speaker"
                )
    if split is not None and split not in corpus:
        raise UserError(f"{path_or_hub_id} has no split {split!r}; it has {', '.join(corpus)}")
    corpus = corpus.cast_column("audio", Audio(sampling_rate=SAMPLING_RATE, decode=False))
    sampling = Sampling.parse(data_config_override)
    if split is None:
        return DatasetDict({name: sampling.of(rows) for name, rows in corpus.items()})
    return sampling.of(corpus[split])


def require_splits(data: str | Path, corpus: str | Path, needed: set[str], advice: str) -> list[str]:
    """The splits of a prepared corpus, looked at now and not after hours of training.

    Args:
        data: what the user gave, for the message; the corpus was made from it, or is it.
        needed: splits that there must be.
        advice: why they are needed, and what to do.
    Raises:
        UserError: one of them is missing.
    """
    splits = list(load_corpus(corpus))
    if missing := needed - set(splits):
        raise UserError(f"{data} has no split {' and no split '.join(sorted(missing))}: {advice}")
    return splits


def is_prepared(data: str | Path) -> bool:
    """Whether `data` names a prepared corpus, on this disk or the Hub, rather than a folder that one can be made
    from."""
    return any(Path(data).glob("data/*.parquet")) or not Path(data).is_dir()


def waveforms(rows: Iterable[dict[str, Any]], sampling_rate: int = SAMPLING_RATE) -> list[np.ndarray]:
    """Decode the audio of rows of a corpus loaded by `load_corpus`: float32 (samples,) each.

    Raises:
        AudioError: with the row's id.
    """
    return [decode(row["audio"]["bytes"] or row["audio"]["path"], sampling_rate, name=row["id"]) for row in rows]


def sample_rows(corpus: Dataset, size: int, seed: int) -> Dataset:
    """At most `size` rows drawn by seed, in the order of the corpus."""
    return Sampling(max_samples=size, seed=seed).of(corpus)


def summarise_corpus(path_or_hub_id: str | Path, data_config_override: str | None = None) -> dict:
    """Name, rows per split and hours in all; of a corpus on the Hub also its id and revision, of one on this disk the
    rejected rows per reason, and the names of external data in it, None if its preparation recorded none."""
    corpus = load_corpus(path_or_hub_id, data_config_override=data_config_override)
    folder = Path(path_or_hub_id)
    card, rejected, provenance = (folder / name for name in ("README.md", "rejected.jsonl", "provenance.json"))
    reasons = [json.loads(line)["reason"] for line in rejected.read_text().splitlines()] if rejected.exists() else []
    given_name = DatasetCard.load(card).data.pretty_name if card.exists() else None
    is_here = folder.exists()
    return {
        "name": given_name or folder.name,
        "hub_id": None if is_here else str(path_or_hub_id),
        # `datasets` keeps what it reads from the Hub under the commit that it read.
        "revision": None if is_here else load_dataset_builder(str(path_or_hub_id)).hash,
        "rows": {name: len(rows) for name, rows in corpus.items()},
        "hours": sum(sum(rows["duration"]) for rows in corpus.values()) / 3600,
        "rejected": dict(Counter(reasons)),
        "external_data": json.loads(provenance.read_text())["external_data"] if provenance.exists() else None,
    }


def _is_one_recording(corpus: DatasetDict) -> bool:
    """Whether it is the segments of a single recording, whose last part alone can be held out."""
    return (
        all({"start", "source_file"} <= set(rows.column_names) for rows in corpus.values())
        and len({file for rows in corpus.values() for file in rows.unique("source_file")}) == 1
    )


def _load(path_or_hub_id: str | Path) -> DatasetDict:
    folder = Path(path_or_hub_id)
    if folder.exists() and not any(folder.rglob("*.parquet")):
        raise UserError(
            f"{folder} is not a prepared corpus (it holds no Parquet file); run recipes/prepare_corpus.py "
            f"--data_dir {folder} --output_dir <prepared> and give the folder <prepared>"
        )
    try:
        return load_dataset(str(path_or_hub_id))
    except (FileNotFoundError, HFValidationError, OfflineModeIsEnabled, HfHubHTTPError, ConnectionError) as error:
        raise UserError(
            f"{path_or_hub_id} is neither a folder nor a data set that the Hub gives access to: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise UserError(f"{path_or_hub_id} cannot be read: {error.__cause__ or error}; prepare it again") from error
