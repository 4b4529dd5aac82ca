"""The folder that a MoE-Whisper is published from: weights, code, plots and the model card."""

import json
import shutil
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.moe.benchmark.report import difference_matrix
from hf_components.publishing import error_rates, evaluated_on, hub_id, write_report

PLOTS = (
    "benchmark/wer_per_group.png",
    "benchmark/routing_per_group.png",
    "clusters/clusters.png",
    "joint/usage.png",
    "joint/loss.png",
    "joint/routing.png",
)


def release_model(folder: Path, run: Path, results: dict) -> dict:
    """Copy the trained model and the plots of a run to `folder` and write `README.md` and `results.json`.

    Args:
        folder: folder of the release.
        run: output folder of `run_moe_pipeline`.
        results: everything the card may show.
    Returns:
        WER per system.
    """
    shutil.copytree(run / "joint" / "model", folder, dirs_exist_ok=True)
    shutil.copytree(run / "joint" / "experts", folder / "experts", dirs_exist_ok=True)
    rows = results["benchmark"]["rows"]
    baselines, differences = difference_matrix(results["benchmark"])
    write_report(
        folder,
        [run / plot for plot in PLOTS],
        results,
        "moe_whisper.md",
        card_data(results),
        baselines=baselines,
        differences=differences,
        moe=json.loads((folder / "config.json").read_text()),
        groups=sorted({group for row in rows.values() for group in row["per_group"]}),
    )
    return {name: row["wer"] for name, row in rows.items()}


def card_data(results: dict) -> ModelCardData:
    """Metadata of the card, with the figures of the saved model's routing."""
    benchmark = results["benchmark"]
    figures = benchmark["rows"]["moe_top1"]
    return ModelCardData(
        license=results["license"],
        language=results["language"],
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["whisper", "mixture-of-experts", "lora", "speech-recognition", "atypical-speech"],
        metrics=["wer", "cer"],
        base_model=hub_id(results["base_model"]),
        **evaluated_on(
            results["corpus"],
            benchmark["sample"]["split"],
            error_rates(figures["wer"], figures["cer"]),
            name=f"MoE-Whisper on {results['base_model']}, best expert",
        ),
    )
