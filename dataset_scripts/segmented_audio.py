"""Builder for long recordings without transcripts: each is cut at its pauses, and its segments are the rows.

<data_dir>/<audio files>                          one narrator, or unknown speakers
<data_dir>/<speaker>/<audio files at any depth>
"""

import dataclasses
import logging
from collections import Counter
from itertools import groupby
from math import inf
from pathlib import Path, PurePosixPath

import datasets

from dataset_scripts.audio_folder import audio_files, warn_of_copies
from dataset_scripts.corpus_builder import CorpusBuilder, CorpusConfig, Listing
from dataset_scripts.segment_statistics import summarise_segments, warn_of_recordings
from dataset_scripts.segment_writer import SegmentWriter
from dataset_scripts.shards import Prepared
from dataset_scripts.utterances import Reader, Rejection, Utterance
from hf_components.runtime import UserError
from hf_components.speech import (
    ALL,
    DEV,
    TRAIN,
    AudioError,
    Segmentation,
    check_val_ratio,
    read_duration,
    report_split,
    split_speakers,
)

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"


@dataclasses.dataclass
class SegmentedAudioConfig(Segmentation, CorpusConfig):
    """Options of `SegmentedAudio`, beside those of every builder and of `Segmentation`.

    Attributes:
        val_ratio: share of the segments for dev, by speaker; of a single recording, its last part; in [0, 1).
        split_seed: seed of the division into train and dev.
    """

    val_ratio: float = 0.1
    split_seed: int = 42

    def __post_init__(self):
        CorpusConfig.__post_init__(self)
        Segmentation.__post_init__(self)
        check_val_ratio(self.val_ratio)
        for name, bound in (("min_duration", "min_segment"), ("max_duration", "max_segment")):
            if getattr(self, name) != getattr(CorpusConfig, name):
                raise UserError(f"{name} is for recordings that are not cut; give {bound} for segments")

    def inputs(self) -> list[Path]:
        return []

    def files(self) -> list[str]:
        return audio_files(self.data_dir)


class SegmentedAudio(CorpusBuilder):
    """`SegmentedAudio(data_dir=...)`: splits train and dev, a row for each segment.

    `speaker_id` is the name of the top folder below `data_dir` if recordings lie in at least two, else the name of the
    recording, since the speakers are unknown. No speaker is in both splits, except for a single recording: its last
    part is dev. `id` holds the name of the recording and the milliseconds at which the segment starts and ends.
    `start` and `end` are seconds in `source_file`, whole samples at 16 kHz.

    Raises:
        UserError: there is no recording, or no segment of any is left.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = SegmentedAudioConfig
    SOURCE_COLUMNS = {"start": datasets.Value("float64"), "end": datasets.Value("float64")}
    TASKS = ()

    def read_manifests(self) -> Listing:
        """List every recording in train; `divide` moves some to dev when it is known which are usable."""
        config = self.config
        reader = self.config.reader(())
        files = config.files()
        if not files:
            raise UserError(f"{config.data_dir} holds no recordings; check the path")
        warn_of_copies(config.data_dir, files)
        names = recording_names(files)
        listed = []
        rejected = []
        for file, speaker in zip(files, speakers_of(files, names), strict=True):
            try:
                listed.append(
                    Utterance(
                        id=names[file],
                        file=file,
                        text="",
                        raw_text=None,
                        speaker_id=speaker,
                        group=UNKNOWN,
                        duration=header_duration(reader, file),
                    )
                )
            except Rejection as problem:
                rejected.append(problem.row(names[file], file, None))
        return Listing({TRAIN: listed, DEV: []}, rejected)

    def writer(self, listing, max_bytes):
        dev_from = inf
        if self.config.val_ratio and len(listing.splits[TRAIN]) == 1:
            dev_from = (1 - self.config.val_ratio) * listing.splits[TRAIN][0].duration
        return SegmentWriter(
            self.config.reader(()),
            self.info.features,
            self.config.max_segment,
            max_bytes,
            Segmentation.of(self.config),
            dev_from,
        )

    def write_shards(self, listing, folder, num_proc=1, shard_megabytes=500) -> Prepared:
        config = self.config
        rules = Segmentation.of(self.config)
        only, *more = listing.splits[TRAIN] or [None]
        prepared = super().write_shards(listing, folder, num_proc, shard_megabytes)
        how = {"val_ratio": config.val_ratio, "split_seed": config.split_seed, "stratify_by": "none"}
        prepared.records["splits"] = how | (
            divide(prepared, config.val_ratio, config.split_seed)
            if more
            else {"strata": [], "last_part_of": only.file}
        )
        prepared.records["segments"] = summarise_segments(prepared.statistics, rules)
        if config.val_ratio and not prepared.rows[DEV]:
            logger.warning(
                "there is no dev: %s",
                "only one speaker's recordings can be used"
                if more
                else "no segment begins in the last part of the recording; choose a larger --val_ratio",
            )
        warn_of_recordings(prepared.statistics, rules)
        return prepared


def divide(prepared: Prepared, val_ratio: float, seed: int) -> dict:
    """Move about `val_ratio` of the segments from train to dev, by speaker. Return the record of the splits."""
    speakers = [recording["speaker_id"] for recording in prepared.statistics for _ in recording["durations"]]
    strata = [ALL for _ in speakers]
    sides = split_speakers(speakers, strata, val_ratio if len(set(speakers)) > 1 else 0, seed)
    files = [list(of_one) for _, of_one in groupby(prepared.files.pop(TRAIN), key=lambda file: file.parent)]
    prepared.rows.clear()
    for recording, own in zip(prepared.statistics, files, strict=True):  # a shard each
        side = sides[recording["speaker_id"]]
        prepared.files[side] += own
        prepared.rows[side] += len(recording["durations"])
    return {
        "strata": report_split(speakers, strata, sides, val_ratio),
        "speakers": {side: sorted(name for name in sides if sides[name] == side) for side in (TRAIN, DEV)},
    }


def recording_names(files: list[str]) -> dict[str, str]:
    """A name for each file: its path without the suffix, or with it where two files differ only in that."""
    bare = {file: str(PurePosixPath(file).with_suffix("")) for file in files}
    counts = Counter(bare.values())
    return {file: name if counts[name] == 1 else file for file, name in bare.items()}


def speakers_of(files: list[str], names: dict[str, str]) -> list[str]:
    """The speaker of each file, see `SegmentedAudio`."""
    folders = [PurePosixPath(file).parts[0] if "/" in file else None for file in files]
    several = len(set(folders) - {None}) > 1
    return [folder if several and folder else names[file] for file, folder in zip(files, folders, strict=True)]


def header_duration(reader: Reader, file: str) -> float:
    """Seconds that the header of a recording gives. Raise Rejection if it cannot be read at all."""
    try:
        return read_duration(reader.path(file))
    except AudioError as error:
        raise Rejection(error.reason, error.detail) from error
