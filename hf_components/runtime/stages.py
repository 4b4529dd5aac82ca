"""Stages: work in a temporary folder that is renamed when complete, with the completion record `stage.json`."""

import contextlib
import functools
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import transformers

from hf_components import __version__
from hf_components.runtime.completion import COMPLETION, STARTED, plain, read_completion, read_started, write_record
from hf_components.runtime.disk import full_disk_explained
from hf_components.runtime.errors import UserError
from hf_components.runtime.fingerprints import check_content, fingerprint
from hf_components.runtime.locks import alone_in
from hf_components.runtime.processes import join_processes, of_main
from hf_components.runtime.stage_folder import (
    Derive,
    add_derived,
    added_folder,
    check_written,
    holds_work,
    produce_into,
    put_in_place,
    replaceable,
    require_apart,
    set_aside,
)
from hf_components.runtime.stage_identity import (
    NOT_PART_OF_RESULT,
    defaults_of,
    difference,
    inputs_by_name,
    is_same,
    place_of,
    result_relevant,
    source_digests,
    warn_of_changed_sources,
)

logger = logging.getLogger(__name__)


def run_stage(
    output_dir: str | Path,
    produce: Callable[[Path], dict],
    *,
    config: Any,
    inputs: Iterable[str | Path] = (),
    resume: bool = False,
    alone: bool = False,
    archive: bool = False,
    derive: Mapping[str, Derive] = MappingProxyType({}),
) -> dict:
    """Run `produce(folder)`, and rename the folder to `output_dir` when it is complete.

    Args:
        output_dir: path of the finished folder. An earlier result of a stage is replaced, anything else is an error.
        produce: function that writes its files into the given folder and returns JSON-serialisable metrics. With
            `resume` the folder may hold the files of an interrupted run with the same settings and inputs. What only a
            run that goes on needs is in its folder `SCRATCH`, and is no part of the result.
        config: dataclass, dict, or sequence of them; recorded, and part of the fingerprint.
        inputs: files and folders that are read; their fingerprints are part of the stage's fingerprint.
        resume: if settings, inputs and package version are the same, continue an interrupted run or return the metrics
            of a complete one; else log the difference and run again. Other changes of the code only cause a warning.
        alone: only the main process calls `produce`, the others wait; else `produce` shares its work among processes.
        archive: keep the earlier result as `archive/<name>_<time of its end>` beside it.
        derive: settings that only ask for files which follow from the result, such as plots, and for each the function
            that makes these files from the finished folder. `produce` makes them too. The settings are no part of the
            fingerprint: if a result is kept that was made without them, or with others, only these files are made.
    Returns:
        the metrics of `produce`.
    Raises:
        UserError: `output_dir` cannot be written or replaced, another run is writing it, its disk is full, or it holds
            an input or something else than the result of a stage; or files of it or of a stage that it reads were
            changed.
    """
    stage = _Stage(output_dir, produce, config, inputs, resume, derive)
    seen = stage.look()
    if not stage.is_kept(seen):
        with alone_in(stage.work, "--output_dir") if stage.state.is_main_process else contextlib.nullcontext():
            seen = stage.look()  # again, because another run may have ended in between
            if not stage.is_kept(seen):
                stage.begin(seen)
                stage.fill(seen, alone)
                stage.put_in_place(archive)
    if stage.is_kept(seen):
        _keep(stage.output_dir, seen.completion, seen.now["sources"], stage.config, derive)
        logger.info("%s is complete, skipped", stage.output_dir)
        return seen.completion["metrics"]
    completion = read_completion(stage.output_dir)
    logger.info("%s written in %.0f s", stage.output_dir, completion["seconds"])
    return completion["metrics"]


class Seen(NamedTuple):
    """What is found when a stage is run.

    Attributes:
        now: identity and sources of this run.
        completion: completion record of an earlier result; None without one.
        unfinished: record of the start of an interrupted run; None without one.
    """

    now: dict
    completion: dict | None
    unfinished: dict | None


class _Stage:
    """A stage while it is run; see `run_stage`. Every process makes the same calls."""

    def __init__(
        self,
        output_dir: str | Path,
        produce: Callable[[Path], dict],
        config: Any,
        inputs: Iterable[str | Path],
        resume: bool,
        derive: Mapping[str, Derive],
    ):
        self.output_dir = replaceable(Path(output_dir))
        self.state = join_processes()
        self.work = self.output_dir.with_name(f".{self.output_dir.name}.partial")
        self.produce = produce
        self.config = plain(config)
        self.inputs = inputs_by_name(inputs)
        require_apart(self.output_dir, self.inputs.values())
        self.resume = resume
        self.left_out = NOT_PART_OF_RESULT | derive.keys()
        self.defaults = defaults_of(config)

    def look(self) -> Seen:
        """What is there now."""
        return of_main(self._look)

    def _look(self) -> Seen:
        completion = read_completion(self.output_dir)
        if completion is None and self.output_dir.is_dir() and any(self.output_dir.iterdir()):
            raise UserError(
                f"{self.output_dir} is not empty and not the result of a stage ({COMPLETION} is missing); choose "
                "another --output_dir or empty it"
            )
        unfinished = read_started(self.work)
        known = [record["identity"]["inputs"] for record in (completion, unfinished) if record is not None]
        fingerprints = {
            name: fingerprint(path, [recorded[name] for recorded in known if name in recorded])
            for name, path in self.inputs.items()
        }
        identity = {
            "config": result_relevant(self.config, self.inputs, self.left_out),
            "inputs": fingerprints,
            "code_version": __version__,
        }
        return Seen({"identity": identity, "sources": source_digests(self.produce)}, completion, unfinished)

    def goes_on(self, seen: Seen) -> bool:
        """Whether the interrupted run is continued."""
        return self.resume and self._is_of_this_run(seen.unfinished, seen)

    def is_kept(self, seen: Seen) -> bool:
        """Whether the earlier result is kept. Not if an interrupted run goes on: it was to replace the result."""
        return self.resume and not self.goes_on(seen) and self._is_of_this_run(seen.completion, seen)

    def _is_of_this_run(self, record: dict | None, seen: Seen) -> bool:
        return record is not None and is_same(record["identity"], seen.now["identity"], self.left_out, self.defaults)

    def begin(self, seen: Seen) -> None:
        """Say what is done and why, and make the folder ready for it."""
        goes_on = self.goes_on(seen)
        if goes_on:
            advice = "to start anew, use --force_restart"
            continued = f"the interrupted run of {self.output_dir} is continued"
            warn_of_changed_sources(seen.unfinished["sources"], seen.now["sources"], continued, advice)
        elif self.resume and seen.completion is not None:
            changes = difference(seen.completion["identity"], seen.now["identity"])
            logger.info("%s runs again: %s", self.output_dir, changes)
        if self.state.is_main_process:
            if goes_on:
                check_written(self.work)
            else:
                set_aside(self.work, seen.unfinished, seen.now, self.resume)
            write_record(self.work / STARTED, seen.now)
        self.state.wait_for_everyone()

    def fill(self, seen: Seen, alone: bool) -> None:
        places = {name: place_of(path, self.output_dir) for name, path in self.inputs.items()}
        record = {**seen.now, "config": self.config, "places": places}
        _fill(self.work, self.output_dir, self.produce, record, alone)

    def put_in_place(self, archive: bool) -> None:
        if self.state.is_main_process:
            put_in_place(self.work, self.output_dir, archive)
        self.state.wait_for_everyone()


def _fill(work: Path, output_dir: Path, produce: Callable[[Path], dict], stage: dict, alone: bool) -> None:
    """Fill the folder of an unfinished stage, unless a run was killed after that and before the renaming."""
    state = join_processes()
    if read_completion(work) is None:
        try:
            with full_disk_explained(output_dir):
                produce_into(work, produce, stage, alone)
        except UserError:
            if state.is_main_process and not holds_work(work):
                shutil.rmtree(work, ignore_errors=True)  # nothing that a next run could continue
            raise
    state.wait_for_everyone()


def _keep(
    output_dir: Path, completion: dict, sources: dict[str, str], config: dict[str, Any], derive: Mapping[str, Derive]
) -> None:
    """Make sure that a finished result is whole, and add what settings ask for that follow from it."""
    state = join_processes()
    asked = [name for name in derive if config.get(name) and completion["config"].get(name) != config[name]]
    # A run that was stopped while it added files may have left some that are not recorded yet.
    if state.is_main_process and not (asked and added_folder(output_dir).exists()):
        check_content(output_dir, completion)
    kept = f"{output_dir} is complete and kept"
    warn_of_changed_sources(completion.get("sources", {}), sources, kept, f"to run it again, delete {output_dir}")
    if asked:
        if state.is_main_process:
            functions = {name: derive[name] for name in asked}
            add_derived(output_dir, functions, {name: config[name] for name in asked})
        state.wait_for_everyone()
    elif config.get("plot") and completion["config"].get("plot") is False and "plot" not in derive:
        logger.warning(
            "%s was made without plots; to draw them, delete this folder and run the command again", output_dir
        )


def run_as_stage(
    produce: Callable[..., dict],
    *arguments: Any,
    inputs: Iterable[str | Path | None] = (),
    alone: bool = False,
    derive: Mapping[str, Derive] = MappingProxyType({}),
) -> dict:
    """`run_stage` of a recipe, with `output_dir` and `resume` from its arguments.

    Args:
        produce: function of the arguments and the folder to fill; returns metrics.
        arguments: parsed dataclasses with `output_dir` and `resume`, and perhaps `rebase_output_dir`. If one is a
            `TrainingArguments`, the number of processes is part of the fingerprint.
        inputs: files, folders and Hub ids that are read; None is ignored.
        alone, derive: see `run_stage`.
    """
    given = {name: value for part in arguments for name, value in vars(part).items()}
    trained = [part for part in arguments if isinstance(part, transformers.TrainingArguments)]

    @functools.wraps(produce)  # so that the recipe's own file is recorded
    def fill(folder: Path) -> dict:
        return produce(*arguments, folder)

    return run_stage(
        given["output_dir"],
        fill,
        config=(*arguments, *({"processes": part.world_size} for part in trained)),
        inputs=[path for path in inputs if path],
        resume=given["resume"],
        archive=given.get("rebase_output_dir", False),
        alone=alone,
        derive=derive,
    )
