"""Recordings of a manifest, to transcribe without preparing a corpus; found and checked as by `JsonlManifest`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataset_scripts.jsonl_manifest import JsonlManifestConfig
from dataset_scripts.jsonl_rows import is_seconds
from dataset_scripts.utterances import Reader, Rejection
from hf_components.asr import Recordings
from hf_components.runtime import ID, UserError, read_by_id, text_field
from hf_components.speech import AudioError, decode, read_duration

LONGEST_BELIEVED = 30.0  # seconds; a longer length may be in milliseconds, and is read from the recording's header


@dataclass(frozen=True)
class Listed:
    """A recording in a manifest: its id as given, its path, and its MD5 checksum and length where they are given."""

    id_as_given: str | int
    file: str
    md5: str | None
    seconds: float | None


class ManifestRecordings(Recordings):
    """Recordings by id, found by a `Reader`."""

    def __init__(self, listed: Mapping[str, Listed], reader: Reader):
        self.listed = listed
        self.reader = reader
        self.ids = list(listed)

    @property
    def ids_as_given(self) -> dict[str, str | int]:
        """The id of each recording as the manifest gives it: with spaces around it, or as a number."""
        return {name: row.id_as_given for name, row in self.listed.items()}

    def read(self, index):
        return decode(self._content(index), name=self.ids[index])

    def seconds(self, index):
        given = self.listed[self.ids[index]].seconds
        if given is None or given > LONGEST_BELIEVED:
            return read_duration(self._content(index), name=self.ids[index])
        return given

    def fingerprint(self, index):
        return self.reader.fingerprint(self.listed[self.ids[index]].file)

    def without(self, ids):
        return ManifestRecordings({name: row for name, row in self.listed.items() if name not in ids}, self.reader)

    def _content(self, index: int) -> bytes:
        name = self.ids[index]
        try:
            return self.reader.find(self.listed[name].file, self.listed[name].md5)
        except Rejection as problem:
            raise AudioError(name, problem.reason, problem.detail) from problem


def read_recordings(
    manifest: str | Path, audio_dirs: list[str] | None, fields: Mapping[str, str]
) -> ManifestRecordings:
    """List the recordings of a manifest; its transcripts and speakers are ignored.

    Args:
        audio_dirs: folders to search; default: the manifest's folder and its sub-folders.
        fields: the manifest's name for each of our fields that has another name there.
    Raises:
        UserError: a line is no row, lacks an id or a path, or repeats an id; the error names file and line. No line is
            skipped, since every id must get a transcript.
    """
    config = JsonlManifestConfig(manifest=str(manifest), audio_dirs=audio_dirs, fields=dict(fields))
    listed: dict[str, Listed] = {}
    for line, name, row in read_by_id(manifest, fields.get(ID, ID)):
        file = text_field(row, fields.get("audio_path", "audio_path"), manifest, line)
        md5, seconds = (row.get(fields.get(key, key)) for key in ("md5_hash", "audio_duration_sec"))
        listed[name] = Listed(
            row[fields.get(ID, ID)],
            file,
            md5.strip().lower() if isinstance(md5, str) and md5.strip() else None,
            float(seconds) if is_seconds(seconds) and seconds > 0 else None,
        )
    if not listed:
        raise UserError(f"{manifest} lists nothing to transcribe; each line names a recording")
    return ManifestRecordings(listed, config.reader(row.file for row in listed.values()))
