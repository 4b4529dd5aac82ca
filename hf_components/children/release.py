"""Make the release folder of a recogniser, for words or for sounds: weights, plots, the card with results."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.asr import is_audio_llm
from hf_components.checkpoints import read_config
from hf_components.publishing import error_rates, evaluated_on, hub_id, write_report

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
    card_data = _card_data(
        results,
        tags=["speech-recognition"],
        metrics=["wer", "cer"],
        rates=error_rates(figures["wer"], figures["cer"]),
        name=f"{results['base_model']} fine-tuned on {results['corpus']['name']}",
    )
    has_pipeline = not is_audio_llm(read_config(str(folder))["model_type"])
    write_report(folder, _plots(run), results, "recogniser.md", card_data, has_pipeline=has_pipeline)
    return {name: figures["wer"] for name, figures in results["evaluation"]["systems"].items()}


def release_phonetic(folder: Path, run: Path, results: dict) -> dict:
    """The same for `run_phonetic_pipeline`. Returns IPA-CER per system."""
    shutil.copytree(run / "finetuned" / "model", folder, dirs_exist_ok=True)
    card_data = _card_data(
        results,
        tags=["phoneme-recognition", "ipa"],
        metrics=["cer"],
        rates={("cer", "IPA-CER (%)"): 100 * results["ipa_cer"]["finetuned"]},
        name=f"{results['base_model']} trained to write IPA",
    )
    write_report(folder, _plots(run), results, "phonetic.md", card_data)
    return results["ipa_cer"]


def _plots(run: Path) -> list[Path]:
    return [run / plot for plot in PLOTS]


def _card_data(
    results: dict, *, tags: Sequence[str], metrics: Sequence[str], rates: dict[tuple[str, str], float], name: str
) -> ModelCardData:
    return ModelCardData(
        license=results["license"],
        language=results["language"],
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=[results["training"]["family"].lower().replace(" ", "-"), *tags],
        metrics=list(metrics),
        base_model=hub_id(results["base_model"]),
        **evaluated_on(results["corpus"], "dev", rates, name=name),
    )
