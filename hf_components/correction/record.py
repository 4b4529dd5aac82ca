"""`corrections.jsonl`: recognised, proposed and final texts, written after each batch, so that nothing is repeated."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from accelerate import PartialState

from hf_components.correction import prompt
from hf_components.correction.corrector import Correction, TranscriptCorrector
from hf_components.runtime import UserError, atomic_write, fingerprint, full_disk_explained

DECIMALS = 3


def correct_to_file(
    corrector: TranscriptCorrector,
    ids: Sequence[str],
    texts: Sequence[str | Sequence[str]],
    path: str | Path,
    resume: bool = True,
) -> list[Correction]:
    """Correct transcripts and record them; processes started by `accelerate launch` share the work.

    Each line holds `id`, the fields of `Correction`, and `asked`, a digest of model and settings. It is appended as
    soon as its batch is done; at the end there is one line per id, in order. With `resume`, an earlier line is used if
    id, texts of the recogniser and `asked` are the same.

    Args:
        ids: unique id of each text.
        texts: per recording the text of the recogniser, or a list of hypotheses, the most likely first.
    Returns:
        the corrections in the order of `ids`, in every process.
    Raises:
        UserError: `path` cannot be written, or its disk is full.
    """
    state = PartialState()
    path = Path(path)
    settings = _digest(corrector)
    recordings = [[text] if isinstance(text, str) else list(text) for text in texts]
    with full_disk_explained(path):
        if state.is_main_process:
            _open(path, resume)
        state.wait_for_everyone()
        found = _read(path, settings)
        state.wait_for_everyone()  # all must read before one writes
        keys = [(name, *recording) for name, recording in zip(ids, recordings, strict=True)]
        left = [i for i, key in enumerate(keys) if key not in found]
        # Distributed by length, so that all processes have the same amount of work.
        left = sorted(left, key=lambda i: -len(recordings[i][0]))[state.process_index :: state.num_processes]
        if left:
            corrector.warm_up()
        # One unbuffered write per batch, so that lines of several processes are not mixed.
        with path.open("ab", buffering=0) as file:
            for batch in corrector.stream(recordings, left, progress=state.is_main_process):
                file.write("".join(_line(ids[i], correction, settings) for i, correction in batch).encode())
                os.fsync(file.fileno())
        state.wait_for_everyone()
        found = _read(path, settings)
        corrections = [found[key] for key in keys]
        state.wait_for_everyone()
        if state.is_main_process:
            lines = [_line(name, correction, settings) for name, correction in zip(ids, corrections, strict=True)]
            _write(path, lines)
        state.wait_for_everyone()
    return corrections


def summarise(corrections: Iterable[Correction]) -> dict:
    """Counts of `transcripts`, `corrected`, `unchanged` and `rejected` (also by reason), and the LLM's time."""
    corrections = list(corrections)
    asked = [correction.seconds for correction in corrections if correction.proposed is not None]
    reasons = Counter(correction.reason.partition(":")[0] for correction in corrections)
    rejected = {reason: count for reason, count in reasons.most_common() if reason not in ("corrected", "unchanged")}
    return {
        "transcripts": len(corrections),
        "corrected": reasons["corrected"],
        "unchanged": reasons["unchanged"],
        "rejected": sum(rejected.values()),
        "rejected_by_reason": rejected,
        "seconds_per_transcript": round(sum(asked) / len(asked), DECIMALS) if asked else None,
    }


def _digest(corrector: TranscriptCorrector) -> str:
    """A digest of everything that affects what is proposed and accepted."""
    model = corrector.model
    quantization = model.config.to_dict().get("quantization_config")
    decided = [
        corrector.name,
        fingerprint(corrector.name),
        str(model.dtype),
        quantization,
        corrector.max_tokens,
        prompt.conversation(["a"]),
        dataclasses.asdict(corrector.limits),
        sorted(corrector.alphabet or ()),
    ]
    return hashlib.sha256(json.dumps(decided, default=str, sort_keys=True).encode()).hexdigest()[:16]


def _open(path: Path, resume: bool) -> None:
    """Create the file, or remove an incomplete last line after an interruption."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes().rpartition(b"\n") if resume and path.exists() else (b"", b"", b"")
        path.write_bytes(whole[0] + whole[1])
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from error


def _read(path: Path, settings: str) -> dict[tuple[str, ...], Correction]:
    """Corrections with these settings, by id and texts of the recogniser."""
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            try:
                row = json.loads(line)
                name = row.pop("id")
                asked = row.pop("asked")
                correction = Correction(**row)
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UserError(f"{path}, line {number}: not a correction ({error}); delete line or file") from error
            if asked == settings:
                found[name, correction.heard, *correction.alternatives] = correction
    return found


def _line(name: str, correction: Correction, settings: str) -> str:
    return json.dumps({"id": name, **dataclasses.asdict(correction), "asked": settings}, ensure_ascii=False) + "\n"


def _write(path: Path, lines: list[str]) -> None:
    """Replace the file; a reader finds the old file or the new one."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
