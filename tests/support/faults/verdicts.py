"""Verdicts: the same bits as without the fault, refused by name with the remedy, or anything else."""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_and_resume import differences, first_difference, timeless

SAME, REFUSED, OTHER = "same_bits", "refused", "other"
VERDICTS = (SAME, REFUSED, OTHER)
REMEDY = re.compile(r"[;?]")  # our messages are of the form "what is wrong; what to do", or ask


@dataclass
class Verdict:
    """A trial and what came of it.

    Attributes:
        kind: as the flag of tests/campaign.py, such as "kills".
        what: recipe, artefact or reader.
        fault: what was done, to repeat it.
        details: the message, or what is wrong.
    """

    kind: str
    number: int
    what: str
    fault: str
    verdict: str
    details: str = ""


def of_results(found: Path, expected: Path, names: Collection[str], returned: Any, should: Any) -> list[str]:
    """What differs from the run without a fault; a line per file.

    Args:
        names: paths below `expected`, without those of other recipes.
        returned, should: what `main` returned, and what it should have.
    """
    try:
        wrong = differences(expected, found, names)
    except (ValueError, zipfile.BadZipFile) as error:  # a file is no JSON any more
        wrong = [str(error)]
    was, now = (_lines(value, (found, expected)) for value in (should, returned))
    return wrong + ([f"returned: {first_difference(was, now)}"] if was != now else [])


def is_named(message: str, names: Collection[str]) -> bool:
    """Whether a refusal names what is wrong, and what to do."""
    return any(name in message for name in names) and REMEDY.search(message) is not None


def _lines(value: Any, runs: Collection[Path]) -> list[str]:
    """The lines of its JSON, without times and without the places of the runs."""
    text = json.dumps(value, default=str)
    for run in runs:
        text = text.replace(str(run), "RUN")
    return json.dumps(timeless(json.loads(text)), indent=1, sort_keys=True).splitlines()


class Results:
    """Counts of all verdicts, and what is needed to repeat those that are neither same bits nor refused."""

    def __init__(self, seed: int, asked: dict[str, int]):
        self.seed = seed
        self.asked = asked
        self.counts: Counter = Counter()  # by kind, what and verdict
        self.others: list[dict] = []
        self.examples: dict[str, str] = {}  # a refusal of each thing

    def add(self, verdict: Verdict) -> None:
        self.counts[verdict.kind, verdict.what, verdict.verdict] += 1
        if verdict.verdict == OTHER:
            self.others.append(vars(verdict))
        elif verdict.verdict == REFUSED:
            self.examples[f"{verdict.kind}: {verdict.what}"] = f"{verdict.fault}: {verdict.details}"

    def summary(self, seconds: float) -> dict:
        """What `results.json` holds."""
        whats = {kind: sorted({what for of, what, _ in self.counts if of == kind}) for kind in self.asked}
        return {
            **self._count(),
            "seed": self.seed,
            "asked": self.asked,
            "by_fault": {kind: self._count(kind) for kind in self.asked},
            "by_name": {kind: {what: self._count(kind, what) for what in found} for kind, found in whats.items()},
            "others": self.others,
            "examples_of_refusals": self.examples,
            "seconds": round(seconds),
        }

    def _count(self, *key: str) -> dict[str, int]:
        found = dict.fromkeys(VERDICTS, 0)
        for (kind, what, verdict), count in self.counts.items():
            if (kind, what)[: len(key)] == key:
                found[verdict] += count
        return found
