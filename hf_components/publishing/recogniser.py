"""Make the release folder of a recogniser fine-tuned on a manifest: weights, plots, the card with results."""

import shutil
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.asr import is_audio_llm
from hf_components.checkpoints import read_config
from hf_components.publishing.cards import error_rates, evaluated_on
from hf_components.publishing.report import hub_id, write_report

PLOTS = ("evaluation/wer_per_group.png", "finetuned/loss.png")


def release_recogniser(folder: Path, run: Path, results: dict) -> dict:
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
        tags=[results["training"]["family"].lower().replace(" ", "-"), "speech-recognition"],
        metrics=["wer", "cer"],
        base_model=hub_id(results["base_model"]),
        **evaluated_on(
            results["corpus"],
            "dev",
            error_rates(figures["wer"], figures["cer"]),
            name=f"{results['base_model']} fine-tuned on {results['corpus']['name']}",
        ),
    )
    plots = [run / plot for plot in PLOTS]
    has_pipeline = not is_audio_llm(read_config(str(folder))["model_type"])
    write_report(folder, plots, results, "recogniser.md", card_data, has_pipeline=has_pipeline)
    return {name: figures["wer"] for name, figures in results["evaluation"]["systems"].items()}
