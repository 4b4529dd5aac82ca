"""Make the release folder of a fine-tuned Whisper: weights, plots and the card with its results."""

import shutil
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.publishing.cards import error_rates, evaluated_on
from hf_components.publishing.report import hub_id, write_report

PLOTS = ("evaluation/wer_per_group.png", "finetuned/loss.png")


def release_whisper(folder: Path, run: Path, results: dict) -> dict:
    """Copy the trained model and the plots of a run to `folder`, and write `README.md` and `results.json`.

    Args:
        folder: folder of the release.
        run: output folder of `run_children_pipeline`.
        results: values for the card.
    Returns:
        WER per system.
    """
    trained = run / ("finetuned" if results["average"] is None else "average")
    shutil.copytree(trained / "model", folder, dirs_exist_ok=True)
    if (trained / "adapter").exists():
        shutil.copytree(trained / "adapter", folder / "adapter", dirs_exist_ok=True)
    figures = results["evaluation"]["systems"]["finetuned"]
    card_data = ModelCardData(
        license=results["license"],
        language=results["language"],
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=["whisper", "speech-recognition", "child-speech"],
        metrics=["wer", "cer"],
        base_model=hub_id(results["base_model"]),
        **evaluated_on(
            results["corpus"],
            "dev",
            error_rates(figures["wer"], figures["cer"]),
            name=f"{results['base_model']} fine-tuned on children's speech",
        ),
    )
    write_report(folder, [run / plot for plot in PLOTS], results, "whisper.md", card_data)
    return {name: figures["wer"] for name, figures in results["evaluation"]["systems"].items()}
