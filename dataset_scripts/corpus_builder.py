"""Options, sampling and columns of all corpus builders, and the way from a list of utterances to a data set."""

import dataclasses
import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet

from dataset_scripts.shards import Prepared, Writer, write_shards
from dataset_scripts.utterances import Reader, Utterance
from hf_components.runtime import (
    UserError,
    broken_link,
    fingerprint,
    first_few,
    is_utf8,
    printable,
    read_json_lines,
    same_path,
    write_json_lines,
)
from hf_components.speech import LONG, SAMPLING_RATE, check_sampling, sample

logger = logging.getLogger(__name__)

REJECTED = "rejected.jsonl"

COLUMNS = {
    "id": datasets.Value("string"),
    "audio": datasets.Audio(sampling_rate=SAMPLING_RATE),
    "text": datasets.Value("string"),
    "raw_text": datasets.Value("string"),
    "speaker_id": datasets.Value("string"),
    "group": datasets.Value("string"),
    "duration": datasets.Value("float64"),
    "source_file": datasets.Value("string"),
}


@dataclasses.dataclass
class CorpusConfig(datasets.BuilderConfig):
    """Options of every corpus builder.

    Attributes:
        sampling: `random` or `stratified` (by `group`), see `hf_components.speech.sampling`. Each split is sampled
            before its audio is read, so a sample may hold rejected rows.
        percent: share of each split to take, in (0, 100].
        max_samples: upper bound per split.
        seed: seed of the sampling.
        min_duration: seconds; shorter recordings are rejected.
        max_duration: seconds (Whisper takes 30); longer recordings go uncut to a split of their own, `<split>_long`,
            since their words cannot be divided without an alignment.
    """

    sampling: str = "random"
    percent: float = 100.0
    max_samples: int | None = None
    seed: int = 42
    min_duration: float = 0.0
    max_duration: float = 30.0

    def __post_init__(self):
        super().__post_init__()
        check_sampling(self.sampling, self.percent, self.max_samples)
        if not 0 <= self.min_duration < self.max_duration:
            raise UserError(
                f"min_duration must lie in [0, max_duration), got {self.min_duration} and {self.max_duration}"
            )
        if self.data_dir is None or not Path(self.data_dir).is_dir():
            place = Path(self.data_dir or ".")
            reason = broken_link(place.parent, place.name) or "check the path"
            raise UserError(f"data_dir must be a folder, got {self.data_dir!r}; {reason}")
        if not is_utf8(str(self.data_dir)):
            raise UserError(f"data_dir {printable(self.data_dir)} has a name that is not UTF-8; rename the folder")

    def inputs(self) -> list[Path]:
        """Manifests: files, and folders with all their content, that the builder reads."""
        raise NotImplementedError

    def files(self) -> list[str]:
        """Paths of the recordings that the rows name, as a `Reader` takes them; without those in `inputs`."""
        return []

    def recordings(self) -> dict[str, str]:
        """Digest of the content of `files` under one name; it is recorded with the settings of a result."""
        digest = hashlib.sha256()
        files = sorted(set(self.files()))
        reader = self.reader(files)
        for file in files:
            digest.update(json.dumps([file, reader.fingerprint(file)]).encode())
        return {"recordings": digest.hexdigest()[:16]}

    def reader(self, files: Iterable[str]) -> Reader:
        """The `Reader` that finds and checks the recordings at the paths `files`."""
        return Reader((("", Path(self.data_dir).resolve()),), min_duration=self.min_duration)

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        # `datasets` keys its cache by the options only, and would serve old rows for changed files.
        files = ",".join(f"{path.name}:{fingerprint(path)}" for path in self.inputs())
        return super().create_config_id({**config_kwargs, "files": files, **self.recordings()}, custom_features)


@dataclasses.dataclass
class Listing:
    """What the manifests of a corpus list.

    Attributes:
        splits: utterances of each split; no speaker is in two splits.
        rejected: rows of `rejected.jsonl` for lines that are no utterance.
        records: further JSON files of the prepared corpus, by name, such as `splits` and `provenance`.
    """

    splits: dict[str, list[Utterance]]
    rejected: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    records: dict[str, dict] = dataclasses.field(default_factory=dict)


class CorpusBuilder(datasets.GeneratorBasedBuilder):
    """Base of the builders. A subclass lists its utterances; this class checks and reads them in shards.

    Every sampled row is either in the result or in `rejections()`, which also holds the lines that are no row.
    """

    BUILDER_CONFIG_CLASS = CorpusConfig
    DEFAULT_WRITER_BATCH_SIZE = 32  # rows in memory, 1 MB each at most (except in the long split)
    SOURCE_COLUMNS: dict[str, Any] = {}
    TASKS: tuple[str, ...] = ("automatic-speech-recognition",)  # tasks of the Hub that the corpus is for

    def read_manifests(self) -> Listing:
        """List the utterances. Raise UserError if a manifest is not valid."""
        raise NotImplementedError

    def write_shards(self, listing: Listing, folder: Path, num_proc: int = 1, shard_megabytes: int = 500) -> Prepared:
        """Read and check all utterances, and write the usable ones to Parquet files below `folder`.

        Keeps shards that an earlier run with the same options and inputs has finished. Logs what is odd in the corpus.

        Raises:
            UserError: no row is left.
        """
        sampled = {split: self._sample(listed) for split, listed in listing.splits.items()}
        _warn_of_shared_recordings(sampled)
        prepared = write_shards(sampled, folder, self.writer(listing, shard_megabytes * 10**6), num_proc)
        prepared.rejected = listing.rejected + prepared.rejected
        prepared.records = dict(listing.records)
        if not prepared.rows:
            reasons = Counter(row["reason"] for row in prepared.rejected).most_common()
            found = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none is listed"
            example = "".join(f"; for example {row['file']}: {row['detail']}" for row in prepared.rejected[:1])
            raise UserError(f"{self.config.data_dir} has no usable utterance: {found}{example}")
        for split, listed in sampled.items():
            if listed and not (prepared.rows[split] or prepared.rows[split + LONG]):
                logger.warning(
                    "every row of the split %s was rejected, so there is no such split; rejected.jsonl says why", split
                )
        for remark, ids in prepared.remarks.items():
            logger.warning("%d recordings, such as %s, are %s", len(ids), ids[0], remark)
        _warn_of_copies(prepared.sounds)
        return prepared

    def writer(self, listing: Listing, max_bytes: int) -> Writer:
        """The `Writer` of the rows."""
        files = [utterance.file for listed in listing.splits.values() for utterance in listed]
        return Writer(self.config.reader(files), self.info.features, self.config.max_duration, max_bytes)

    def rejections(self) -> list[dict[str, Any]]:
        """Utterances that `download_and_prepare` rejected: id, file, reason, detail, split; kept with the cache."""
        return [row for _, row in read_json_lines(Path(self._output_dir) / REJECTED)]

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=datasets.Features({**COLUMNS, **self.SOURCE_COLUMNS}))

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        output = Path(self._output_dir)
        prepared = self.write_shards(
            self.read_manifests(), output / "shards", dl_manager.download_config.num_proc or 1
        )
        write_rejected(output, prepared.rejected)
        generators = []
        for split, files in prepared.files.items():
            generators.append(datasets.SplitGenerator(split, {"files": files}))
            generators[-1].split_info.num_examples = prepared.rows[split]  # gives the progress bar its total
        return generators

    def _sample(self, utterances: list[Utterance]) -> list[Utterance]:
        config = self.config
        indices = sample(
            [u.id for u in utterances],
            [u.group for u in utterances],
            config.sampling,
            config.percent,
            config.max_samples,
            config.seed,
        )
        return [utterances[index] for index in indices]

    def _generate_examples(self, files: list[Path]) -> Iterator[tuple[str, dict]]:
        for file in files:
            for batch in pyarrow.parquet.ParquetFile(file).iter_batches(self.DEFAULT_WRITER_BATCH_SIZE):
                yield from ((row["id"], row) for row in batch.to_pylist())
            file.unlink()  # its rows are in the cache now


def _warn_of_shared_recordings(splits: dict[str, list[Utterance]]) -> None:
    """Warn of recordings that several rows name: each row gets all of the sound, and they may be in several splits."""
    rows: dict[str, set[str]] = defaultdict(set)
    where: dict[str, set[str]] = defaultdict(set)
    for split, listed in splits.items():
        for utterance in listed:
            rows[same_path(utterance.file)].add(utterance.id)
            where[same_path(utterance.file)].add(split)
    if shared := [file for file, ids in rows.items() if len(ids) > 1]:
        across = sum(len(where[file]) > 1 for file in shared)
        logger.warning(
            "%d recordings are named by several rows, such as %s by %s; each row gets all of its sound%s",
            len(shared),
            shared[0],
            first_few(sorted(rows[shared[0]])),
            f", and {across} are in several splits" if across else "",
        )


def _warn_of_copies(sounds: dict[str, dict[str, str]]) -> None:
    """Warn of recordings that are in several splits under different names, such as two names of one speaker."""
    for (one, of_one), (other, of_other) in combinations(sounds.items(), 2):
        if copies := [(of_one[digest], of_other[digest]) for digest in of_one if digest in of_other]:
            logger.warning(
                "%d recordings of %s are in %s too, under other names, such as %s and %s: a model would be scored by "
                "what it was trained on; leave one of the two out",
                len(copies),
                one,
                other,
                *copies[0],
            )


def write_rejected(folder: Path, rejected: list[dict[str, Any]]) -> None:
    write_json_lines(folder / REJECTED, rejected)
