"""Builder for long recordings without transcripts: each is cut at its pauses, and its segments are the rows.

<data_dir>/<audio files>                          speakers unknown
<data_dir>/<speaker>/<audio files at any depth>   of two or more speakers
"""

import dataclasses
import logging
import typing
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath

import datasets

from dataset_scripts.audio_folder import audio_files
from dataset_scripts.corpus_builder import CorpusBuilder, CorpusConfig, Listing
from dataset_scripts.recording_division import Division, Recording, SplitBy, divide, record_of, require_known_speakers
from dataset_scripts.segment_boundaries import Boundaries, annotation_files, read_boundaries
from dataset_scripts.segment_statistics import summarise_segments, warn_of_recordings
from dataset_scripts.segment_writer import SegmentWriter
from dataset_scripts.shards import Prepared
from dataset_scripts.utterances import Reader, Rejection, Utterance
from hf_components.runtime import UserError, file_digest
from hf_components.speech import (
    DEV,
    SAMPLING_RATE,
    TRAIN,
    UNKNOWN,
    AudioError,
    Segmentation,
    bare_name,
    check_val_ratio,
    connected,
    copies_by_name,
    copies_by_sound,
    known_speakers,
    read_duration,
)

logger = logging.getLogger(__name__)

SPLIT_BY = typing.get_args(SplitBy)
PARTS = 10_000  # of all recordings together; their sizes before they are cut are counted in these


@dataclasses.dataclass
class SegmentedAudioConfig(Segmentation, CorpusConfig):
    """Options of `SegmentedAudio`, beside those of every builder and of `Segmentation`.

    Attributes:
        val_ratio: share of the segments for dev, in [0, 1).
        split_by: what dev holds out: `speaker` or `recording`. Default: speakers, if at least two are known and about
            `val_ratio` can be held out so; else recordings. If there is no recording to spare, the last part of each.
        split_seed: seed of the division into train and dev.
        boundaries: folder of TextGrid or ELAN files, such as those of `export_annotations` with corrections. A
            recording with one is cut at the intervals of its tier `boundary_tier`, not at its pauses.
        boundary_tier: name of that tier.
    """

    val_ratio: float = 0.1
    split_by: SplitBy | None = None
    split_seed: int = 42
    boundaries: str | None = None
    boundary_tier: str = "segments"

    def __post_init__(self):
        CorpusConfig.__post_init__(self)
        Segmentation.__post_init__(self)
        check_val_ratio(self.val_ratio)
        if self.split_by not in (None, *SPLIT_BY):
            raise UserError(f"split_by must be {' or '.join(SPLIT_BY)}, got {self.split_by!r}")
        for name, bound in (("min_duration", "min_segment"), ("max_duration", "max_segment")):
            if getattr(self, name) != getattr(CorpusConfig, name):
                raise UserError(f"{name} is for recordings that are not cut; give {bound} for segments")

    def inputs(self) -> list[Path]:
        return []

    def reader(self, files):
        return dataclasses.replace(super().reader(files), follows_links=True)

    def files(self) -> list[str]:
        return audio_files(self.data_dir)

    def recordings(self):
        if self.boundaries is None:
            return super().recordings()
        # One by one: the record of their folder is of the time before the corrections.
        annotations = annotation_files(self.boundaries, recording_names(self.files()))
        return {**super().recordings(), "boundaries": [file_digest(file) for file in annotations.values()]}


class SegmentedAudio(CorpusBuilder):
    """`SegmentedAudio(data_dir=...)`: splits train and dev, a row for each segment.

    `speaker_id` is the name of the top folder below `data_dir` if recordings lie in at least two, else "unknown". A
    folder of copies is no speaker. Copies of a recording are in one split. `id` holds the name of the recording and
    the milliseconds at which the segment starts and ends. `start` and `end` are seconds in `source_file`, whole
    samples at 16 kHz.

    Raises:
        UserError: there is no recording, or no segment of any is left; or speakers are to be held out and are unknown.
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
        names = recording_names(files)
        seconds = {}
        rejected = []
        for file in files:
            try:
                seconds[file] = header_duration(reader, file)
            except Rejection as problem:
                rejected.append(problem.row(names[file], file, None))
        self.copies = copies_by_name(Path(config.data_dir), list(seconds), list(seconds.values()))
        speakers = speakers_of(seconds, self.copies)
        if config.split_by == "speaker" and seconds:
            require_known_speakers(speakers, config.data_dir)
        listed = [
            Utterance(
                id=names[file],
                file=file,
                text="",
                raw_text=None,
                speaker_id=speaker,
                group=UNKNOWN,
                duration=seconds[file],
            )
            for file, speaker in zip(seconds, speakers, strict=True)
        ]
        self.boundaries = self.read_boundaries(names, seconds) if config.boundaries else {}
        return Listing({TRAIN: listed, DEV: []}, rejected)

    def read_boundaries(self, names: dict[str, str], seconds: dict[str, float]) -> Boundaries:
        """Where the recordings that somebody annotated are cut; a log line counts the others."""
        config = self.config
        files = annotation_files(config.boundaries, {file: names[file] for file in seconds})
        if others := len(seconds) - len(files):
            logger.info("%d of %d recordings have no annotation, and are cut at their pauses", others, len(seconds))
        return {
            recording: read_boundaries(file, config.boundary_tier, seconds[recording], config.max_segment)
            for recording, file in files.items()
        }

    def last_part(self, listed: list[Utterance]) -> float:
        """The share at the end of every recording that is dev, because no recording can be spared; else 0."""
        config = self.config
        if not config.val_ratio or not listed:
            return 0.0
        part = sum(one.duration for one in listed) / PARTS
        recordings = [Recording(one.id, one.speaker_id, 1 + int(one.duration / part)) for one in listed]
        division = divide(recordings, self.copies, config.val_ratio, config.split_seed, config.split_by)
        return 0.0 if division.sides or division.split_by == "speaker" else config.val_ratio

    def writer(self, listing, max_bytes):
        return SegmentWriter(
            self.config.reader(()),
            self.info.features,
            self.config.max_segment,
            max_bytes,
            Segmentation.of(self.config),
            self.last_part(listing.splits[TRAIN]),
            self.boundaries,
        )

    def write_shards(self, listing, folder, num_proc=1, shard_megabytes=500) -> Prepared:
        config = self.config
        rules = Segmentation.of(config)
        prepared = super().write_shards(listing, folder, num_proc, shard_megabytes)
        prepared.records["splits"] = self.divide(prepared, listing.splits[TRAIN])
        prepared.records["segments"] = summarise_segments(prepared.statistics, rules)
        warn_of_recordings(prepared.statistics, rules)
        return prepared

    def divide(self, prepared: Prepared, listed: list[Utterance]) -> dict:
        """Move about `val_ratio` of the segments from train to dev. Return the record of the splits."""
        config = self.config
        how = (config.val_ratio, config.split_seed)
        listing = {one.file: one for one in listed}
        recordings = [
            Recording(listing[recording["source_file"]].id, recording["speaker_id"], len(recording["durations"]))
            for recording in prepared.statistics
        ]
        copies = self.copies_among(prepared.statistics, listed)
        last_part = self.last_part(listed)
        division = Division("recording", None, [recording.name for recording in recordings])
        if config.val_ratio and not last_part:
            division = divide(recordings, copies, *how, config.split_by)
            move(prepared, division.sides or [TRAIN] * len(recordings))
        if config.val_ratio and not prepared.rows[DEV]:
            logger.warning(
                "there is no dev: %s",
                "no segment begins in the last part of the recording; choose a larger --val_ratio"
                if last_part
                else division.why or f"the segments of only one {division.split_by} can be used",
            )
        return record_of(recordings, division, *how, last_part=bool(last_part and prepared.rows[DEV]))

    def copies_among(self, found: list[dict], listed: list[Utterance]) -> list[tuple[int, int]]:
        """Pairs of the recordings that could be used which are copies, by name or by sound; warns of them."""
        place = {recording["source_file"]: number for number, recording in enumerate(found)}
        by_name = [(listed[i].file, listed[j].file) for i, j in self.copies]
        copies = [(place[one], place[other]) for one, other in by_name if one in place and other in place]
        seconds = [recording["samples"]["total"] / SAMPLING_RATE for recording in found]
        copies += copies_by_sound([recording["sound"] for recording in found], seconds)
        warn_of_copies(list(place), copies)
        return copies


def move(prepared: Prepared, sides: list[str]) -> None:
    """Put the segments of each recording into the split that `sides` gives for it."""
    files = [list(of_one) for _, of_one in groupby(prepared.files.pop(TRAIN), key=lambda file: file.parent)]
    prepared.rows.clear()
    for recording, own, side in zip(prepared.statistics, files, sides, strict=True):  # a shard each
        prepared.files[side] += own
        prepared.rows[side] += len(recording["durations"])


def warn_of_copies(files: list[str], copies: list[tuple[int, int]]) -> None:
    """Say how many recordings are there more than once."""
    labels = connected(len(files), copies)
    if twice := len(files) - len(set(labels)):
        one, other = copies[0]
        logger.warning(
            "%d recordings are copies of others, such as %s of %s; copies are in the same split, but count twice: "
            "keep one of each",
            twice,
            files[other],
            files[one],
        )


def recording_names(files: list[str]) -> dict[str, str]:
    """A name for each file: its path without the suffix, or with it where two files differ only in that."""
    bare = {file: str(PurePosixPath(file).with_suffix("")) for file in files}
    counts = Counter(bare.values())
    return {file: name if counts[name] == 1 else file for file, name in bare.items()}


def speakers_of(files: Iterable[str], copies: Sequence[tuple[int, int]] = ()) -> list[str]:
    """The speaker of each file, see `SegmentedAudio`.

    Args:
        files: paths of the recordings.
        copies: pairs of recordings that are copies of each other.
    """
    files = list(files)
    folders = [PurePosixPath(file).parts[0] if "/" in file else UNKNOWN for file in files]
    across = [(i, j) for i, j in copies if folders[i] != folders[j] and bare_name(files[i]) == bare_name(files[j])]
    copied = Counter(folders[i] for i in {i for pair in across for i in pair})
    no_speakers = {folder for folder, count in copied.items() if count > max(1, folders.count(folder) / 2)}
    if no_speakers - {UNKNOWN}:
        logger.warning(
            "the folders %s hold the same recordings, so they are not taken for speakers",
            ", ".join(sorted(no_speakers)),
        )
    speakers = [UNKNOWN if folder in no_speakers else folder for folder in folders]
    return speakers if len(known_speakers(speakers)) > 1 else [UNKNOWN] * len(folders)


def header_duration(reader: Reader, file: str) -> float:
    """Seconds that the header of a recording gives. Raise Rejection if it cannot be read at all."""
    try:
        return read_duration(reader.path(file))
    except AudioError as error:
        raise Rejection(error.reason, error.detail) from error
