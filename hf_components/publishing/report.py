"""Plots, figures and the card in the folder of every released model."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from hf_components.publishing.cards import eval_results_file, render_card
from hf_components.runtime import write_json

EVAL_RESULTS = ".eval_results/underheard.yaml"


def write_report(
    folder: Path, plots: Iterable[Path], results: dict[str, Any], template: str, card_data: ModelCardData, **shown: Any
) -> None:
    """Write `plots/`, `results.json`, the card `README.md`, and for a data set of the Hub `.eval_results/`.

    Args:
        plots: paths of PNG files; missing files are ignored, because a run may have no plots.
        template: name of the card's template.
        shown: further values for the card.
    Raises:
        UserError: the card needs a figure that is missing.
    """
    drawn = [plot for plot in plots if plot.exists()]
    (folder / "plots").mkdir(exist_ok=True)
    for plot in drawn:
        shutil.copy(plot, folder / "plots")
    write_json(folder / "results.json", results)
    if (entries := eval_results_file(card_data.eval_results or ())) is not None:
        (folder / EVAL_RESULTS).parent.mkdir(exist_ok=True)
        (folder / EVAL_RESULTS).write_text(entries, encoding="utf-8")
    shown = {**results, "plots": [plot.name for plot in drawn], **shown}
    (folder / "README.md").write_text(render_card(template, shown, card_data), encoding="utf-8")


def hub_id(base_model: str) -> str | None:
    """The base model for the card's metadata, or None if it is on this disk and has no Hub id."""
    return None if Path(base_model).exists() else base_model
