"""Flags that recipes share, so that each is said once."""

from dataclasses import dataclass

from hf_components.runtime.flags import SEEDS, flag


@dataclass(kw_only=True)
class LogArguments:
    log_file: str | None = flag("append the log to this file", default=None)


@dataclass(kw_only=True)
class ResumeArguments(LogArguments):
    resume: bool = flag(
        "keep a finished result if nothing has changed, and continue an interrupted run", default=False
    )


@dataclass(kw_only=True)
class RecipeArguments(ResumeArguments):
    """What every recipe asks for that fills one folder."""

    output_dir: str = flag("folder of the result")


@dataclass(kw_only=True)
class SeedArguments:
    seed: int = flag("seed of everything random", default=42, **SEEDS)


@dataclass(kw_only=True)
class PlotArguments:
    plot: bool = flag("draw plots", default=True)
