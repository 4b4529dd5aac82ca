"""Verify what stages have written: damaged and foreign files, results whose inputs changed, unfinished work."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hf_components.runtime.completion import COMPLETION, read_completion
from hf_components.runtime.errors import UserError
from hf_components.runtime.files import files_below
from hf_components.runtime.fingerprints import fingerprint
from hf_components.runtime.records import FILES, changed_file, read_record

# What recipes write beside their stages without a record.
BESIDE = ("results.json", "benchmarks_index.jsonl", "corrections.jsonl", "wer_per_group.png")
UNFINISHED = (".partial", ".interrupted", ".added", ".old", ".tmp")  # ends of hidden names that an interruption leaves


@dataclass
class Findings:
    """What is wrong with a folder; every line begins with a path.

    Attributes:
        stages: number of finished stages.
        files: number of files whose content was compared with a record.
        damaged: files and records that are not what was written.
        stale: stages of which an input changed since.
        foreign: files that no stage wrote.
        unfinished: what an interruption left.
        unknown: inputs that are no longer where they were, so that they cannot be compared.
    """

    stages: int = 0
    files: int = 0
    damaged: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def are_well(self) -> bool:
        return not (self.damaged or self.stale or self.foreign or self.unfinished)


def verify_folder(folder: str | Path) -> Findings:
    """Verify the folder of a stage, or of a run that holds stages. Every file is read in full.

    Raises:
        UserError: there is no such folder, or no stage has written in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the --output_dir of a recipe")
    findings = Findings()
    findings.unfinished = [f"{place}: left by an interruption" for place in sorted(_unfinished(folder))]
    stages = sorted(_stages(folder))
    if not stages and not findings.unfinished:
        raise UserError(f"no stage has written {folder}: {COMPLETION} is missing there and below; give another folder")
    inputs = {path for stage in stages for path in _verify(stage, findings)}
    around = [path for path in files_below(folder) if not any(path.is_relative_to(stage) for stage in stages)]
    recorded = {path for record in sorted(around) for path in _verify_beside(record, findings)}
    known = inputs | recorded
    around = sorted(path for path in around if path.name not in BESIDE and path.absolute() not in known)
    findings.foreign += map(str, around)
    return findings


def _stages(folder: Path) -> Iterator[Path]:
    """The outermost folders with a completion record."""
    if (folder / COMPLETION).is_file():
        yield folder
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            yield from _stages(path)


def _unfinished(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        found = [name for name in (*folders, *names) if name.startswith(".") and name.endswith(UNFINISHED)]
        folders[:] = [name for name in folders if name not in found]
        yield from (Path(place, name) for name in found)


def _verify(stage: Path, findings: Findings) -> list[Path]:
    """Add what is wrong with a stage to the findings; return where its inputs are."""
    try:
        completion = read_completion(stage)
    except UserError as error:
        findings.damaged.append(f"{stage / COMPLETION}: {error}")
        return []
    findings.stages += 1
    recorded = completion.get("files", {})
    _verify_files(stage, recorded, findings)
    there = (path for path in files_below(stage) if path != stage / COMPLETION)
    findings.foreign += [str(path) for path in sorted(there) if path.relative_to(stage).as_posix() not in recorded]
    known = completion["identity"]["inputs"]
    places = {name: Path(stage.absolute().parent, place) for name, place in completion.get("places", {}).items()}
    for name, was in known.items():
        _compare(stage, name, was, places.get(name), findings)
    return list(places.values())


def _verify_beside(record: Path, findings: Findings) -> list[Path]:
    """The same for a record beside its files, such as transcripts; returns it and them, or nothing for other files."""
    if record.suffix != ".json" or '"seal"' not in record.read_text(encoding="utf-8", errors="replace"):
        return []
    try:
        described = read_record(record, {"files?": FILES}, "delete it and make its files again").get("files", {})
    except UserError as error:
        findings.damaged.append(f"{record}: {error}")
        return [record.absolute()]
    _verify_files(record.parent, described, findings)
    return [record.absolute(), *(record.absolute().with_name(name) for name in described)]


def _verify_files(folder: Path, recorded: dict[str, dict], findings: Findings) -> None:
    for place, was in recorded.items():
        findings.files += 1
        if problem := changed_file(folder, place, was):
            findings.damaged.append(f"{folder / place}: {problem.removeprefix(place).strip()}")


def _compare(stage: Path, name: str, was: str, place: Path | None, findings: Findings) -> None:
    """Add an input to the findings if it is not what the stage has read."""
    if place is None or not place.exists():
        if was != name:  # a Hub id counts by its name
            findings.unknown.append(f"{stage}: its input {name} is no longer at {place}")
        return
    try:
        now = fingerprint(place, [was])
    except UserError as error:
        findings.stale.append(f"{stage}: its input {name} changed: {error}")
        return
    if now != was:
        findings.stale.append(f"{stage}: its input {name} ({place}) changed since")
