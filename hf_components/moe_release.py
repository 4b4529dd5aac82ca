"""The folder that a MoE-Whisper is published from: weights, code, plots and the card that is its report."""

import json
import shutil
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.benchmark.report import difference_matrix
from hf_components.cards import render_card
from hf_components.stages import write_json

PLOTS = ("benchmark/wer_per_group.png", "benchmark/routing_per_group.png", "clusters/clusters.png", "joint/usage.png",
         "joint/loss.png", "joint/routing.png")


def release_model(folder: Path, run: Path, results: dict) -> dict:
    """Copy the trained model and the plots of a run to `folder` and write `README.md` and `results.json`.

    Args:
        folder: of the release.
        run: output folder of `run_moe_pipeline`.
        results: everything the card may show.
    Returns:
        WER per system.
    """
    shutil.copytree(run / "joint" / "model", folder, dirs_exist_ok=True)
    shutil.copytree(run / "joint" / "experts", folder / "experts", dirs_exist_ok=True)
    (folder / "plots").mkdir(exist_ok=True)
    plots = [run / plot for plot in PLOTS if (run / plot).exists()]  # a run may go without plots
    for plot in plots:
        shutil.copy(plot, folder / "plots")
    write_json(folder / "results.json", results)
    rows = results["benchmark"]["rows"]
    baselines, differences = difference_matrix(results["benchmark"])
    shown = {**results, "plots": [plot.name for plot in plots], "baselines": baselines, "differences": differences,
             "moe": json.loads((folder / "config.json").read_text()),
             "groups": sorted({group for row in rows.values() for group in row["per_group"]})}
    (folder / "README.md").write_text(render_card("moe_whisper.md", shown, card_data(results)))
    return {name: row["wer"] for name, row in rows.items()}


def card_data(results: dict) -> ModelCardData:
    """Metadata of the card; a base model on this disk has no Hub id and is left out."""
    base_model = results["base_model"]
    return ModelCardData(
        license="apache-2.0", language=results["language"], library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["whisper", "mixture-of-experts", "lora", "speech-recognition", "atypical-speech"], metrics=["wer", "cer"],
        base_model=None if Path(base_model).exists() else base_model)
