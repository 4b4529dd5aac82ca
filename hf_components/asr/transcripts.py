"""Transcripts on disk: JSON lines of exactly `utterance_id` and `orthographic_text`, written so that a kill costs a
batch."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from accelerate import PartialState

from hf_components.asr.recordings import Recordings
from hf_components.asr.transcriber import Transcriber, Transcript
from hf_components.runtime import (
    ID,
    TEXT,
    UserError,
    alone_in,
    atomic_write,
    environment,
    first_few,
    full_disk_explained,
    read_by_id,
    write_json,
)

logger = logging.getLogger(__name__)

STARTED = "started.json"  # what the transcripts in a partial folder were started with
NAMED = 10  # ids that a message names


def read_submission_format(path: str | Path) -> list[str]:
    """The ids of a `submission_format.jsonl`, in its order.

    Raises:
        UserError: it cannot be read, or a line is none, or has the id of an earlier line (file and line).
    """
    return [name for _, name, _ in read_by_id(path)]


def check_same_ids(expected: Sequence[str], expected_in: str, given: Iterable[str], given_in: str) -> None:
    """Raises `UserError` naming the ids that one file has and the other lacks."""
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
        recording: fingerprint of what was transcribed.
        seconds: its share of the wall time of its batch, and of what came before that, divided by the number of
            processes.
    """

    transcript: Transcript
    recording: str | None
    seconds: float


def read_finished(output: Path, identity: Mapping, recordings: Recordings) -> dict | None:
    """The metrics of finished transcripts of that identity without failures; None if there is anything left to do."""
    file = _summary_of(output)
    if not (file.exists() and output.exists()):
        return None
    summary = json.loads(file.read_text())
    if summary["identity"] != identity or summary["metrics"]["failed"]:
        return None
    return summary["metrics"] if summary["recordings"] == _digest(_fingerprints(recordings)) else None


def transcribe_to_file(
    transcriber: Transcriber,
    recordings: Recordings,
    output: Path,
    *,
    order: Sequence[str],
    identity: Mapping,
    resume: bool,
) -> dict:
    """Transcribe, and write `output` with one line per id, complete or not at all; processes share the work.

    Finished batches are kept in a folder beside it, from which a run that was stopped goes on. What could not be read
    has an empty text, a warning and a line in `<output>.failures.jsonl`; another run does only these again, and
    recordings that have changed.

    Args:
        recordings: what to transcribe.
        order: the ids of `recordings` in the order of the lines.
        identity: settings and fingerprints of inputs; transcripts started with another one are not gone on from.
        resume: go on from an earlier run.
    Returns:
        counts (`kept`: of an earlier run), and seconds of audio, wall seconds and real-time factor (wall seconds per
        second of audio), those of earlier runs included.
    Raises:
        UserError: the output cannot be written, or another run is writing it.
    """
    state = PartialState()
    start = time.perf_counter()
    partial = output.with_name(f".{output.name}.partial")
    alone = alone_in(partial, "--output_jsonl") if state.is_main_process else contextlib.nullcontext()
    with full_disk_explained(output), alone:
        if state.is_main_process:
            _open_partial(partial, identity, resume)
        state.wait_for_everyone()
        earlier = _read_partial(partial)
        runs = len(list(partial.glob("*.jsonl")))
        state.wait_for_everyone()  # all have read before one writes
        fingerprints = _fingerprints(recordings)
        kept = {
            name
            for name, written in earlier.items()
            if written.transcript.problem is None and written.recording == fingerprints[name]
        }
        if kept:
            logger.info("%d of %d transcripts are there from an earlier run", len(kept), len(order))
        with (partial / f"{runs:06d}-{state.process_index}.jsonl").open("w") as file:
            for batch in transcriber.stream(recordings.without(kept)):
                share = (time.perf_counter() - start) / (len(batch) * state.num_processes)
                start = time.perf_counter()
                written = [Written(transcript, fingerprints[transcript.id], share) for transcript in batch]
                file.writelines(json.dumps(dataclasses.asdict(line)) + "\n" for line in written)
                file.flush()
                os.fsync(file.fileno())
        state.wait_for_everyone()
        found = _read_partial(partial)
        state.wait_for_everyone()  # all have read before one clears away
        transcripts = {name: found[name].transcript for name in order}
        failed = {
            name: transcript.problem for name, transcript in transcripts.items() if transcript.problem is not None
        }
        audio_seconds = sum(transcript.seconds for transcript in transcripts.values())
        seconds = sum(found[name].seconds for name in order)
        metrics = {
            "utterances": len(order),
            "kept": len(kept),
            "failed": len(failed),
            "audio_seconds": round(audio_seconds, 1),
            "seconds": round(seconds, 1),
            "real_time_factor": round(seconds / audio_seconds, 4) if audio_seconds else None,
        }
        if state.is_main_process:
            _note_failures(output.with_suffix(".failures.jsonl"), failed)
            _write_lines(output, [{ID: name, TEXT: transcript.text} for name, transcript in transcripts.items()])
            write_json(
                _summary_of(output),
                {
                    "identity": identity,
                    "recordings": _digest(fingerprints),
                    "metrics": metrics,
                    "environment": environment(),
                },
            )
            if not failed:
                shutil.rmtree(partial)
        state.wait_for_everyone()
    return metrics


def _summary_of(output: Path) -> Path:
    return output.with_suffix(".summary.json")


def _fingerprints(recordings: Recordings) -> dict[str, str | None]:
    return {name: recordings.fingerprint(index) for index, name in enumerate(recordings.ids)}


def _digest(fingerprints: Mapping[str, str | None]) -> str:
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()[:16]


def _open_partial(partial: Path, identity: Mapping, resume: bool) -> None:
    started = json.loads((partial / STARTED).read_text()) if (partial / STARTED).exists() else None
    earlier = list(partial.iterdir())
    if earlier and not (resume and started == identity):
        if resume:
            logger.warning(
                "the transcripts in %s are discarded: the model, its settings or the input changed", partial
            )
        for file in earlier:  # not the folder, which is locked
            file.unlink()
    write_json(partial / STARTED, identity)


def _read_partial(partial: Path) -> dict[str, Written]:
    """Transcripts by id; those of later runs count, and a line that a kill cut short does not."""
    found = {}
    for file in sorted(partial.glob("*.jsonl")):
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                values = json.loads(line)
                written = Written(**values | {"transcript": Transcript(**values["transcript"])})
                found[written.transcript.id] = written
    return found


def _note_failures(file: Path, failed: Mapping[str, str]) -> None:
    file.unlink(missing_ok=True)
    if failed:
        _write_lines(file, [{ID: name, "reason": reason} for name, reason in failed.items()])
        logger.warning(
            "%d recordings could not be read and have an empty text: %s; the reasons are in %s. Mend them and run "
            "the same command again, which does only these",
            len(failed),
            first_few(list(failed), NAMED),
            file,
        )


def _write_lines(file: Path, lines: Iterable[dict]) -> None:
    """A reader finds the whole file or none."""
    with atomic_write(file) as temporary, temporary.open("w", encoding="utf-8") as opened:
        opened.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
