"""What the corpus builders share: options, sampling, columns, and the way from a list of utterances to a data set."""

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet

from dataset_scripts.shards import Prepared, Writer, write_shards
from dataset_scripts.utterances import Reader, Utterance
from hf_components.runtime import UserError, fingerprint
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
        sampling: `random` or `stratified` (by `group`); see `hf_components.speech.sampling`. Applied to each split
            before its audio is looked at, so a sample may hold rejections.
        percent: share of each split to take, in (0, 100].
        max_samples: upper bound per split.
        seed: of the sampling.
        min_duration: seconds; shorter recordings are rejected.
        max_duration: seconds; longer recordings go whole into a split of their own, `<split>_long`, because their
            words cannot be divided without an alignment. Whisper takes 30 s.
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
                f"0 <= min_duration < max_duration must hold, got {self.min_duration} and {self.max_duration}"
            )
        if self.data_dir is None or not Path(self.data_dir).is_dir():
            raise UserError(f"data_dir must be a folder, got {self.data_dir!r}; check the path")

    def inputs(self) -> list[Path]:
        """Files and folders that the builder reads, all that is in them; nothing else in `data_dir` counts."""
        raise NotImplementedError

    def files(self) -> list[str]:
        """Paths of the recordings that the rows name, as a `Reader` takes them; none of those that `inputs` holds."""
        return []

    def recordings(self) -> dict[str, str]:
        """A digest of the content of `files`, by a name, to be recorded with the settings of whatever is made of
        them."""
        digest = hashlib.sha256()
        files = sorted(set(self.files()))
        reader = self.reader(files)
        for file in files:
            digest.update(json.dumps([file, reader.fingerprint(file)]).encode())
        return {"recordings": digest.hexdigest()[:16]}

    def reader(self, files: Iterable[str]) -> Reader:
        """How the recordings, whose paths the rows give as `files`, are found and checked."""
        return Reader((("", Path(self.data_dir).resolve()),), min_duration=self.min_duration)

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        # By itself `datasets` keys its cache by the options and would serve old rows for changed files.
        files = ",".join(f"{path.name}:{fingerprint(path)}" for path in self.inputs())
        return super().create_config_id({**config_kwargs, "files": files, **self.recordings()}, custom_features)


@dataclasses.dataclass
class Listing:
    """What the manifests of a corpus list.

    Attributes:
        splits: the utterances of each split; no speaker is in two of them.
        rejected: rows of `rejected.jsonl` for what cannot be taken for an utterance.
        records: further JSON files of the prepared corpus, by name: how the speakers were divided, where the data are
            from.
    """

    splits: dict[str, list[Utterance]]
    rejected: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    records: dict[str, dict] = dataclasses.field(default_factory=dict)


class CorpusBuilder(datasets.GeneratorBasedBuilder):
    """Base of the builders. A subclass lists its utterances; checking and reading them is done here, in shards.

    Rows out plus `rejections()` are the rows that the sampling chose, plus those that are none.
    """

    BUILDER_CONFIG_CLASS = CorpusConfig
    DEFAULT_WRITER_BATCH_SIZE = 32  # rows held in memory, 1 MB each at most (but for the long split)
    SOURCE_COLUMNS: dict[str, Any] = {}
    TASKS: tuple[str, ...] = ("automatic-speech-recognition",)  # of the Hub, that the corpus is for

    def read_manifests(self) -> Listing:
        """List the utterances. Raises UserError if a manifest is not what it claims."""
        raise NotImplementedError

    def write_shards(self, listing: Listing, folder: Path, num_proc: int = 1, shard_megabytes: int = 500) -> Prepared:
        """Read and check all utterances and write the usable ones to Parquet files below `folder`.

        Shards that an earlier run with the same options and inputs has finished there are kept. Peculiarities of the
        corpus are logged.

        Raises:
            UserError: no row is left.
        """
        sampled = {split: self._sample(listed) for split, listed in listing.splits.items()}
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
                logger.warning("every row of the split %s was rejected; it is left out", split)
        for remark, ids in prepared.remarks.items():
            logger.warning("%d recordings, such as %s, are %s", len(ids), ids[0], remark)
        return prepared

    def writer(self, listing: Listing, max_bytes: int) -> Writer:
        """How the rows are written."""
        files = [utterance.file for listed in listing.splits.values() for utterance in listed]
        return Writer(self.config.reader(files), self.info.features, self.config.max_duration, max_bytes)

    def rejections(self) -> list[dict[str, Any]]:
        """The utterances left out by `download_and_prepare`: id, file, reason, detail, split; kept with the cache."""
        return [json.loads(line) for line in (Path(self._output_dir) / REJECTED).read_text().splitlines()]

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


def write_rejected(folder: Path, rejected: list[dict[str, Any]]) -> None:
    """Write `rejected.jsonl`."""
    with (folder / REJECTED).open("w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
