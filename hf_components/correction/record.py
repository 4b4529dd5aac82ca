"""`corrections.jsonl`: recognised, proposed and final texts, written after each batch, so that nothing is repeated."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from accelerate import PartialState

from hf_components.correction import prompt
from hf_components.correction.corrector import Correction, TranscriptCorrector
from hf_components.correction.prompt import Guess
from hf_components.runtime import (
    NO_SPACE,
    NUMBER,
    UserError,
    atomic_write,
    fingerprint,
    fingerprint_of_earlier_versions,
    full_disk_explained,
    parse_record,
    sealed,
    share_of,
)

DECIMALS = 3
LINE_FORM = {
    "id": str,
    "asked": str,
    "heard": str,
    "alternatives": [str],
    "shown?": [str],
    "proposed": (str, None),
    "text": str,
    "accepted": bool,
    "reason": str,
    "seconds": NUMBER,
}


def correct_to_file(
    corrector: TranscriptCorrector,
    ids: Sequence[str],
    texts: Sequence[str | Sequence[str | Guess]],
    path: str | Path,
    resume: bool = True,
) -> list[Correction]:
    """Correct transcripts and record them; processes started by `accelerate launch` share the work.

    Each line holds `id`, the fields of `Correction`, and `asked`, a digest of model and settings. It is appended as
    soon as its batch is done; at the end there is one line per id, in order. With `resume`, an earlier line is used if
    id, texts of the recogniser, what the LLM is shown of them and `asked` are the same.

    Args:
        ids: unique id of each text.
        texts: per recording the text of the recogniser, or a list of guesses, the most likely first.
    Returns:
        the corrections in the order of `ids`, in every process.
    Raises:
        UserError: `path` cannot be written, or its disk is full.
    """
    state = PartialState()
    path = Path(path)
    settings = _digest(corrector)
    # Corrections of an earlier version, which knew large files by their time, are not asked for again.
    accepted = {settings, _digest(corrector, fingerprint_of_earlier_versions(corrector.name))}
    recordings = [prompt.as_guesses(guesses) for guesses in texts]
    with full_disk_explained(path):
        if state.is_main_process:
            _open(path, resume)
        state.wait_for_everyone()
        found = _read(path, accepted)
        state.wait_for_everyone()  # all must read before one writes
        keys = [
            _key(name, [guess.text for guess in guesses], [prompt.shown(guess) for guess in guesses])
            for name, guesses in zip(ids, recordings, strict=True)
        ]
        left = [i for i, key in enumerate(keys) if key not in found]
        # Distributed by length, so that all processes have the same amount of work.
        left = share_of(sorted(left, key=lambda i: -len(recordings[i][0].text)))
        if left:
            corrector.warm_up()
        # One unbuffered write per batch, so that lines of several processes are not mixed.
        with path.open("ab", buffering=0) as file:
            for batch in corrector.stream(recordings, left, progress=state.is_main_process):
                file.write("".join(_line(ids[i], correction, settings) for i, correction in batch).encode())
                os.fsync(file.fileno())
        state.wait_for_everyone()
        found = _read(path, accepted)
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


def _digest(corrector: TranscriptCorrector, known: str = "") -> str:
    """A digest of everything that affects what is proposed and accepted; `known` is a fingerprint of the model."""
    model = corrector.model
    quantization = model.config.to_dict().get("quantization_config")
    decided = [
        corrector.name,
        known or fingerprint(corrector.name),
        str(model.dtype),
        quantization,
        corrector.max_tokens,
        prompt.conversation(["a"]),
        dataclasses.asdict(corrector.limits),
        sorted(corrector.alphabet or ()),
    ]
    return hashlib.sha256(json.dumps(decided, default=str, sort_keys=True).encode()).hexdigest()[:16]


def _open(path: Path, resume: bool) -> None:
    """Create the file, or cut off an incomplete last line after an interruption. Whole lines are not written again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (resume and path.exists()):
            _write(path, [])
            return
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from error


def _key(name: str, texts: Sequence[str], shown: Sequence[str]) -> tuple:
    return name, tuple(texts), tuple(shown)


def _read(path: Path, settings: Collection[str]) -> dict[tuple, Correction]:
    """Corrections with one of these settings, by id, texts of the recogniser, and what the LLM was shown."""
    found = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if line:
            row = parse_record(line, LINE_FORM, f"{path}, line {number},", "delete the line")
            # Earlier versions showed the texts alone, and did not record them.
            row.setdefault("shown", [prompt.shown(guess) for guess in prompt.as_guesses(_texts_of(row))])
            correction = Correction(**{field.name: row[field.name] for field in dataclasses.fields(Correction)})
            if row["asked"] in settings:
                found[_key(row["id"], _texts_of(row), correction.shown)] = correction
    return found


def _texts_of(row: dict) -> list[str]:
    return [row["heard"], *row["alternatives"]]


def _line(name: str, correction: Correction, settings: str) -> str:
    line = {"id": name, **dataclasses.asdict(correction), "asked": settings}
    return json.dumps(sealed(line), ensure_ascii=False) + "\n"


def _write(path: Path, lines: list[str]) -> None:
    """Replace the file; a reader finds the old file or the new one."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
