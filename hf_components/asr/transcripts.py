"""Transcripts on disk: JSON lines of ids and texts. An interruption loses one batch."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from accelerate import PartialState

from hf_components.asr.recordings import Recordings
from hf_components.asr.transcriber import Transcriber
from hf_components.asr.transcript import Transcript
from hf_components.asr.words import WORDS_HEARD, Word, as_lists, from_lists
from hf_components.runtime import (
    FILES,
    ID,
    NUMBER,
    PHONETIC,
    TEXT,
    UserError,
    alone_in,
    atomic_write,
    check_files,
    environment,
    first_few,
    full_disk_explained,
    parse_record,
    read_by_id,
    read_record,
    sealed,
    sync,
    write_json,
    write_json_lines,
    write_record,
)
from hf_components.speech import WORDS

logger = logging.getLogger(__name__)

STARTED = "started.json"  # settings and inputs of the transcripts in a partial folder
NAMED = 10  # ids that a message shows


def read_submission_format(path: str | Path) -> dict[str, str | int]:
    """The ids of a `submission_format.jsonl`, in its order: each as text, and as the file gives it.

    Raises:
        UserError: the file cannot be read, a line has no id, or the id of an earlier line; file and line are given.
    """
    return {name: row[ID] for _, name, row in read_by_id(path)}


def check_same_ids(expected: Sequence[str], expected_in: str, given: Iterable[str], given_in: str) -> None:
    """Raise UserError with the ids that only one of two files has."""
    expected = set(expected)
    given = set(given)
    lacking = ((expected - given, expected_in, given_in), (given - expected, given_in, expected_in))
    problems = [
        f"{first_few(sorted(names), NAMED)} of {one} missing from {other}" for names, one, other in lacking if names
    ]
    if problems:
        raise UserError(f"{'; '.join(problems)}; both must hold the same ids")


@dataclasses.dataclass(frozen=True)
class Written:
    """A transcript in a partial folder.

    Attributes:
        recording: fingerprint of the recording.
        seconds: its share of the wall time since the batch before, divided by the number of processes.
    """

    transcript: Transcript
    recording: str | None
    seconds: float

    def is_kept(self, fingerprints: Mapping[str, str | None]) -> bool:
        """Whether its recording could be read and is still the same, by the fingerprints of all recordings."""
        name = self.transcript.id
        return self.transcript.problem is None and name in fingerprints and self.recording == fingerprints[name]


WRITTEN_FORM = {
    "transcript": {"id": str, "text": str, "seconds": NUMBER, "problem": (str, None), "words?": (list, None)},
    "recording": (str, None),
    "seconds": NUMBER,
}


def read_finished(output: Path, identity: Mapping, recordings: Recordings) -> dict | None:
    """The metrics of finished transcripts with that identity and without failures; None if there is work left."""
    file = _summary_of(output)
    if not (file.exists() and output.exists()):
        return None
    form = {"identity": dict, "recordings": str, "metrics": {"failed": int}, "files?": FILES}
    again = f"delete {file} to transcribe again"
    summary = read_record(file, form, again)
    if summary["identity"] != identity or summary["metrics"]["failed"]:
        return None
    if summary["recordings"] != _digest(_fingerprints(recordings)):
        return None
    check_files(output.parent, summary.get("files", {}), again, output)
    _delete_remains(_partial_of(output), identity)
    return summary["metrics"]


def transcribe_to_file(
    transcriber: Transcriber,
    recordings: Recordings,
    output: Path,
    *,
    order: Sequence[str],
    identity: Mapping,
    resume: bool,
    ids_as_given: Mapping[str, str | int] = MappingProxyType({}),
) -> dict:
    """Transcribe, and write `output` with one line per id once all are done; processes share the work.

    Finished batches are kept in a folder beside `output`, and an interrupted run continues from them. A recording that
    could not be read has an empty text, a warning and a line in `<output>.failures.jsonl`. Another run transcribes
    only such recordings again, and those that have changed. This is no stage of `run_stage`, which replaces a whole
    folder: `output` may lie beside other files, and each recording is kept or transcribed again for itself.

    Args:
        recordings: recordings to transcribe.
        order: ids of `recordings` in the order of the lines.
        identity: settings and fingerprints of inputs; transcripts with another identity are not continued.
        resume: continue an earlier run.
        ids_as_given: ids that the lines give in another form, by id: a number, or with spaces around them.
    Returns:
        counts (`kept`: transcripts of an earlier run), and seconds of audio, wall seconds and real-time factor (wall
        seconds per second of audio), including earlier runs; `seconds_by_part` of this run and process alone.
    Raises:
        UserError: the output cannot be written, or another run is writing it.
    """
    state = PartialState()
    start = time.perf_counter()
    partial = _partial_of(output)
    alone = alone_in(partial, "--output_jsonl") if state.is_main_process else contextlib.nullcontext()
    with full_disk_explained(output), alone:
        if state.is_main_process:
            _open_partial(partial, identity, resume)
        state.wait_for_everyone()
        earlier = _read_partial(partial)
        runs = len(list(partial.glob("*.jsonl")))
        state.wait_for_everyone()  # all must read before one writes
        fingerprints = _fingerprints(recordings)
        kept = {name for name, written in earlier.items() if written.is_kept(fingerprints)}
        if kept:
            logger.info("%d of %d transcripts are kept from an earlier run", len(kept), len(order))
        file = partial / f"{runs:06d}-{state.process_index}.jsonl"
        _write_batches(file, transcriber, recordings.without(kept), fingerprints, start)
        state.wait_for_everyone()
        found = _read_partial(partial)
        state.wait_for_everyone()  # all must read before one deletes
        transcripts = {name: found[name] for name in order}
        metrics = _metrics(transcripts.values(), len(kept), transcriber.seconds_by_part())
        if state.is_main_process:
            field = TEXT if transcriber.target == WORDS else PHONETIC
            _write_output(output, transcripts, field, ids_as_given)
            record = {"identity": identity, "recordings": _digest(fingerprints), "metrics": metrics}
            files = [path for path in (output, _failures_of(output)) if path.exists()]
            write_record(_summary_of(output), {**record, "environment": environment()}, files)
            if not metrics["failed"]:
                _delete(partial)
        state.wait_for_everyone()
    return metrics


def _write_batches(
    file: Path, transcriber: Transcriber, recordings: Recordings, fingerprints: Mapping[str, str | None], start: float
) -> None:
    """Transcribe this process's part of the recordings, and add each batch to a file of the partial folder.

    Args:
        start: time at which the first batch began, on the clock `time.perf_counter`.
    """
    processes = PartialState().num_processes
    with file.open("w", encoding="utf-8") as opened:
        sync(file.parent)
        for batch in transcriber.stream(recordings):
            share = (time.perf_counter() - start) / (len(batch) * processes)
            start = time.perf_counter()
            written = [Written(transcript, fingerprints[transcript.id], share) for transcript in batch]
            opened.writelines(json.dumps(sealed(dataclasses.asdict(line))) + "\n" for line in written)
            opened.flush()
            os.fsync(opened.fileno())


def _metrics(transcripts: Collection[Written], kept: int, seconds_by_part: Mapping[str, float]) -> dict:
    audio_seconds = sum(written.transcript.seconds for written in transcripts)
    seconds = sum(written.seconds for written in transcripts)
    return {
        "utterances": len(transcripts),
        "kept": kept,
        "failed": sum(written.transcript.problem is not None for written in transcripts),
        "audio_seconds": round(audio_seconds, 1),
        "seconds": round(seconds, 1),
        "real_time_factor": round(seconds / audio_seconds, 4) if audio_seconds else None,
        "seconds_by_part": seconds_by_part,
    }


def _write_output(
    output: Path, transcripts: Mapping[str, Written], field: str, ids_as_given: Mapping[str, str | int]
) -> None:
    """Write the transcripts, and the failures beside them."""
    _note_failures(
        _failures_of(output),
        {name: one.transcript.problem for name, one in transcripts.items() if one.transcript.problem is not None},
    )
    lines = []
    for name, written in transcripts.items():
        line = {ID: ids_as_given.get(name, name), field: written.transcript.text}
        if written.transcript.words is not None:
            line[WORDS_HEARD] = as_lists(written.transcript.words)
        lines.append(line)
    _write_lines(output, lines)


def read_words(file: str | Path) -> dict[str, list[Word]]:
    """The words of each transcript by id, of those that have them.

    Raises:
        UserError: a line is not a transcript; file and line are given.
    """
    remedy = "words are lists of word, confidence, start and end"
    return {
        name: from_lists(row[WORDS_HEARD], f"{file}, line {line}: {remedy}")
        for line, name, row in read_by_id(file)
        if row.get(WORDS_HEARD) is not None
    }


def _partial_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _delete_remains(partial: Path, identity: Mapping) -> None:
    """Delete what a run has left that was interrupted when all was written."""
    started = partial / STARTED
    if PartialState().is_main_process and started.exists() and read_record(started, dict, "delete it") == identity:
        _delete(partial)


def _delete(partial: Path) -> None:
    """Delete the folder, and last the file by which another run knows its remains."""
    for path in partial.iterdir():
        if path.name != STARTED:
            path.unlink()
    shutil.rmtree(partial)


def _summary_of(output: Path) -> Path:
    return output.with_suffix(".summary.json")


def _failures_of(output: Path) -> Path:
    return output.with_suffix(".failures.jsonl")


def _fingerprints(recordings: Recordings) -> dict[str, str | None]:
    return {name: recordings.fingerprint(index) for index, name in enumerate(recordings.ids)}


def _digest(fingerprints: Mapping[str, str | None]) -> str:
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()[:16]


def _open_partial(partial: Path, identity: Mapping, resume: bool) -> None:
    again = f"delete {partial} to start again"
    started = read_record(partial / STARTED, dict, again) if (partial / STARTED).exists() else None
    earlier = list(partial.iterdir())
    if earlier and not (resume and started == identity):
        if resume:
            logger.warning("discarding the transcripts in %s: the model, its settings or the input changed", partial)
        for file in earlier:  # the files, not the folder, which is locked
            file.unlink()
    write_json(partial / STARTED, identity)


def _read_partial(partial: Path) -> dict[str, Written]:
    """Transcripts by id. Those of later runs replace earlier ones; an incomplete last line is ignored."""
    found = {}
    for file in sorted(partial.glob("*.jsonl")):
        for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], 1):
            values = parse_record(line, WRITTEN_FORM, f"{file}, line {number},", f"delete {file}")
            fields = {name: values[name] for name in ("recording", "seconds")}
            written = Written(Transcript(**values["transcript"]), **fields)
            found[written.transcript.id] = written
    return found


def _note_failures(file: Path, failed: Mapping[str, str]) -> None:
    file.unlink(missing_ok=True)
    if failed:
        _write_lines(file, [{ID: name, "reason": reason} for name, reason in failed.items()])
        text = "%d recordings could not be read and have an empty text: %s; the reasons are in %s. Fix them and run "
        text += "the same command again; it transcribes only these"
        logger.warning(text, len(failed), first_few(list(failed), NAMED), file)


def _write_lines(file: Path, lines: Iterable[dict]) -> None:
    """Write JSON lines; a reader finds the whole file or none."""
    with atomic_write(file) as temporary:
        write_json_lines(temporary, lines)
