"""Flags that recipes share."""

import importlib.util
from dataclasses import dataclass
from typing import Any

from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import SEEDS, flag


@dataclass(kw_only=True)
class LogArguments:
    log_file: str | None = flag("append the log to this file", default=None)


@dataclass(kw_only=True)
class ResumeArguments(LogArguments):
    resume: bool = flag("keep a finished result if nothing changed; continue an interrupted run", default=True)
    force_restart: bool = flag("start anew, even if there are results: the same as --no_resume", default=False)


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


TRACKERS = ("tensorboard", "trackio", "wandb", "comet_ml", "mlflow", "clearml", "dvclive", "swanlab")


def tracker(word: str) -> str:
    """The name of a program that draws the curves of a training. Raises UserError if it is unknown or missing."""
    if word not in (*TRACKERS, "none"):
        raise UserError(f"must be one of {', '.join(TRACKERS)} or none, got {word!r}")
    if word != "none" and importlib.util.find_spec(word) is None:
        raise UserError(f"{word} needs the package {word}, which is not installed: pip install {word}, or take none")
    return word


def tracker_flag() -> Any:
    """The flag `report_to` of a training."""
    return flag(f"where curves are drawn: {', '.join(TRACKERS)}, or none", default="tensorboard", read=tracker)
