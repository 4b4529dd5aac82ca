"""The folder that acoustic units are published from: units model, motifs, vocoder, plots, samples and card."""

import shutil
from pathlib import Path

from huggingface_hub import ModelCardData

from hf_components.publishing import evaluated_on, hub_id, write_report
from hf_components.runtime import read_record
from hf_components.units.resynthesis.summary import figure_rows
from hf_components.units.table import check_same_units

PLOTS = ("vocoder/curves.png", "units/usage.png", "motifs/motifs.png", "segments/durations.png")
SAMPLES = 4  # pairs of original and resynthesis in the release
TASK = "audio-to-audio"


def release_units(folder: Path, run: Path, results: dict) -> dict:
    """Copy units, motifs and vocoder of a run to `folder` and write `README.md` and `results.json`.

    The units model is at the root, where `AutoModel` finds it; the others are in `motifs/` and `vocoder/`. The code of
    the vocoder is at the root too: `from_pretrained(repository, subfolder="vocoder")` looks for code there.

    Args:
        folder: folder of the release.
        run: output folder of `run_units_pipeline`.
        results: everything the card may show.
    Returns:
        the figures of the vocoder.
    Raises:
        UserError: motifs or vocoder use other units.
    """
    identity = results["units"]["units"]
    for part in ("motifs", "evaluation"):
        check_same_units(results[part]["units"], str(run / part), identity, str(run / "units"))
    shutil.copytree(run / "units" / "model", folder, dirs_exist_ok=True)
    shutil.copytree(
        run / "motifs", folder / "motifs", dirs_exist_ok=True, ignore=shutil.ignore_patterns("stage.json", "*.png")
    )
    shutil.copytree(run / "vocoder" / "model", folder / "vocoder", dirs_exist_ok=True)
    for code in (folder / "vocoder").glob("*.py"):
        shutil.copy(code, folder)
    vocoder = read_record(folder / "vocoder" / "config.json", dict, "train the vocoder again")
    (folder / "samples").mkdir(exist_ok=True)
    for number in range(min(SAMPLES, results["evaluation"]["sample"]["segments"])):
        for kind in ("orig", "synth"):
            shutil.copy(run / "evaluation" / "audio" / f"{kind}_{number:04d}.wav", folder / "samples")
    write_report(
        folder,
        [run / plot for plot in PLOTS],
        results,
        "acoustic_units.md",
        card_data(results),
        figures=figure_rows(results["evaluation"]),
        voices=vocoder["speakers"],
        use_f0=vocoder["use_f0"],
        samples=sorted(file.name.removeprefix("orig_") for file in (folder / "samples").glob("orig_*.wav")),
    )
    return {name: results["evaluation"][name] for name in ("mcd", "mcd_shuffled_units", "length_ratio")}


def card_data(results: dict) -> ModelCardData:
    """Metadata of the card."""
    encoder = results["units"]["units"]["encoder"]
    evaluation = results["evaluation"]
    titles = {"mcd": "mel-cepstral distortion (dB)", "length_ratio": "length ratio", "bitrate": "bitrate (bit/s)"}
    return ModelCardData(
        license=results["license"],
        library_name="transformers",
        pipeline_tag=TASK,
        tags=["acoustic-units", "speech-units", "vocoder", "unwritten-languages", "unsupervised"],
        base_model=hub_id(encoder) if "/" in encoder else None,
        metrics=["cer"] if evaluation["cer"] is not None else None,
        **evaluated_on(
            results["corpus"],
            "dev",
            {(name, title): evaluation[name] for name, title in titles.items()},
            name="Acoustic units and their vocoder",
            task=TASK,
        ),
    )
