"""The released folder of `run_phonetic_pipeline`."""

import shutil
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.publishing.cards import evaluated_on
from hf_components.publishing.report import hub_id, write_report

PLOTS = ("evaluation/wer_per_group.png", "finetuned/loss.png")


def release_phonetic(folder: Path, run: Path, results: dict) -> dict:
    """Copy the trained model and the plots of a run to `folder`, and write `README.md` and `results.json`.

    Args:
        folder: folder of the release.
        run: output folder of `run_phonetic_pipeline`.
        results: values for the card.
    Returns:
        IPA-CER per system.
    """
    shutil.copytree(run / "finetuned" / "model", folder, dirs_exist_ok=True)
    card_data = ModelCardData(
        license=results["license"],
        language=results["language"],
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=[results["training"]["family"].lower().replace(" ", "-"), "phoneme-recognition", "ipa"],
        metrics=["cer"],
        base_model=hub_id(results["base_model"]),
        **evaluated_on(
            results["corpus"],
            "dev",
            {("cer", "IPA-CER (%)"): 100 * results["ipa_cer"]["finetuned"]},
            name=f"{results['base_model']} trained to write IPA",
        ),
    )
    write_report(folder, [run / plot for plot in PLOTS], results, "phonetic.md", card_data)
    return results["ipa_cer"]
