"""Fuzzed input of every form of `forms`, read by the project's own readers in a child process.

What is accepted must be read the same twice: the verdict is then "same bits". Else it is refused by a `UserError` that
names it, or rejected as a row. Anything else counts as other: another error, a death, more than `SECONDS` or `BYTES`,
and control characters in what is printed or logged.
"""

import json
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from faults.children import run
from faults.forms import FORMS, SHARES
from faults.spoiling import spoil
from faults.verdicts import OTHER, REFUSED, SAME, Verdict
from hf_components.runtime import UserError, is_invisible, visible
from hf_components.runtime.logs import set_up_logging

SECONDS = 20  # for one file
BYTES = 1 << 30  # that the memory of the reading process may grow by
BATCH = 500  # files per child
SHOWN = "\n\t\r"  # control characters that a log may hold


def trials(seed: int, wanted: range, place: Path) -> Iterator[Verdict]:
    """Spoil and read files. Those with another end are kept in `others`: some encoders write their random numbers."""
    place.mkdir(parents=True)
    log = place / "log.txt"
    ended = run(lambda: write_good(place / "good"), log)
    if ended.how != "done":
        raise RuntimeError(ended.text)
    found = place / "verdicts.jsonl"
    number = wanted.start
    while number < wanted.stop:
        found.unlink(missing_ok=True)
        numbers = range(number, min(wanted.stop, number + BATCH))
        shutil.copytree(place / "good", place / "spoiled", dirs_exist_ok=True)
        ended = run(partial(_read_all, seed, numbers, place, log), log, longest=SECONDS * 30)
        lines = found.read_text().splitlines() if found.exists() else []
        for line in lines:
            yield Verdict("mutations", *json.loads(line))
        number += len(lines)
        if len(lines) < len(numbers):  # the child died of it
            form, file, content = spoiled(seed, number, place)
            _keep(content, number, file, place)
            fault = f"{file.name}, {len(content)} bytes"
            yield Verdict("mutations", number, form, fault, OTHER, f"{ended.how}: {ended.text}")
            number += 1


def write_good(folder: Path) -> None:
    """Good files of every form, each in its folder, and the list of those that are to be spoiled."""
    listed = {}
    for name, form in FORMS.items():
        (folder / name).mkdir(parents=True)
        listed[name] = sorted(file.relative_to(folder).as_posix() for file in form.make(folder / name))
    (folder / "listed.json").write_text(json.dumps(listed))


def spoiled(seed: int, number: int, place: Path) -> tuple[str, Path, bytes]:
    """Form, file and content of a trial, which follow from seed and number alone."""
    chance = random.Random(f"{seed}/mutations/{number}")
    listed = json.loads((place / "good" / "listed.json").read_text())
    form = chance.choices(list(FORMS), list(SHARES.values()))[0]
    file = chance.choice(listed[form])
    return form, place / "spoiled" / file, spoil((place / "good" / file).read_bytes(), chance)


def _read_all(seed: int, numbers: range, place: Path, log: Path) -> None:
    """In a child: spoil and read files, and write a line with the verdict after each."""
    set_up_logging()
    signal.signal(signal.SIGALRM, _too_slow)
    with (place / "verdicts.jsonl").open("w") as found:
        for number in numbers:
            form, file, content = spoiled(seed, number, place)
            good = file.read_bytes()
            file.write_bytes(content)
            printed = log.stat().st_size
            verdict, text = _read_twice(FORMS[form].read, file, place / "spoiled" / form)
            file.write_bytes(good)
            with log.open("rb") as opened:
                opened.seek(printed)
                shown = opened.read().decode(errors="replace")
            if any(is_invisible(character) and character not in SHOWN for character in shown):
                verdict, text = OTHER, f"control characters were printed: {shown[:500]!r}"
            if verdict == OTHER:
                _keep(content, number, file, place)
            line = [number, form, f"{file.name}, {len(content)} bytes", verdict, visible(text)[-1500:]]
            found.write(json.dumps(line) + "\n")
            found.flush()


def _keep(content: bytes, number: int, file: Path, place: Path) -> None:
    (place / "others").mkdir(exist_ok=True)
    (place / "others" / f"{number}-{file.name}").write_bytes(content)


def _read_twice(read: Callable, file: Path, folder: Path) -> tuple[str, str]:
    """Verdict and details for a file in the folder of its form."""
    before = _memory()
    signal.alarm(SECONDS)
    try:
        first = read(file)
        second = read(file)
        verdict = (SAME, "") if first == second else (OTHER, f"read in two ways: {first!r:.300} and {second!r:.300}")
    except UserError as error:
        is_named = file.name in str(error) or str(folder) in str(error)
        verdict = (REFUSED if is_named else OTHER, str(error))
    except BaseException:
        verdict = (OTHER, traceback.format_exc())
    finally:
        signal.alarm(0)
    if (grown := _memory() - before) > BYTES:
        return OTHER, f"took {grown / 2**20:.0f} MiB; {verdict}"
    return verdict


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _too_slow(*_) -> None:
    raise TimeoutError(f"more than {SECONDS} s")
