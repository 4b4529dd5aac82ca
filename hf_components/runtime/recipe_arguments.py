"""Flags that recipes share."""

from dataclasses import dataclass

from hf_components.runtime.flags import SEEDS, flag


@dataclass(kw_only=True)
class LogArguments:
    log_file: str | None = flag("append the log to this file", default=None)


@dataclass(kw_only=True)
class ResumeArguments(LogArguments):
    resume: bool = flag("keep a finished result if nothing changed; continue an interrupted run", default=False)


@dataclass(kw_only=True)
class RecipeArguments(ResumeArguments):
    """Flags of every recipe that fills one folder."""

    output_dir: str = flag("folder of the result")


@dataclass(kw_only=True)
class SeedArguments:
    seed: int = flag("seed of all random numbers", default=42, **SEEDS)


@dataclass(kw_only=True)
class PlotArguments:
    plot: bool = flag("draw plots", default=True)
