"""The folder that the chosen system is published from: weights, code, plots and the model card."""

import json
import shutil
from pathlib import Path

from huggingface_hub import ModelCardData
from transformers import WhisperProcessor

from hf_components.checkpoints import load_moe_whisper, load_whisper, lora_folder, merge_adapter, save_whisper
from hf_components.moe.benchmark.report import difference_matrix
from hf_components.moe.merging import shared_whisper
from hf_components.moe.shipping import CANDIDATES
from hf_components.publishing import error_rates, evaluated_on, hub_id, write_report
from hf_components.runtime import write_json
from hf_components.whisper import DynamicContextWhisper

MIXTURES = {"moe": "joint", "moe_merge": "joint", "choose": "choose"}  # and their step; the others are plain Whispers

PLOTS = (
    "benchmark/wer_per_group.png",
    "benchmark/routing_per_group.png",
    "clusters/clusters.png",
    "joint/usage.png",
    "joint/loss.png",
    "joint/routing.png",
)


def release_model(folder: Path, run: Path, results: dict, *, base: str) -> dict:
    """Write the system that was chosen to `folder`, with the plots of a run, `README.md` and `results.json`.

    Args:
        folder: folder of the release.
        run: output folder of `run_moe_pipeline`.
        results: everything the card may show; `shipped` names the system, see `CANDIDATES`.
        base: folder or Hub id of the base model.
    Returns:
        WER per system.
    """
    mixture = run / MIXTURES.get(results["shipped"], "joint")
    if results["shipped"] in MIXTURES:
        shutil.copytree(mixture / "model", folder, dirs_exist_ok=True)
        shutil.copytree(mixture / "experts", folder / "experts", dirs_exist_ok=True)
        if results["shipped"] == "moe_merge":
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            write_json(folder / "config.json", {**config, "mixture": "merge"})
    else:
        save_whisper(*_plain(results["shipped"], run, base, results["language"]), folder)
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
        moe=json.loads((mixture / "model" / "config.json").read_text(encoding="utf-8")),
        row=CANDIDATES[results["shipped"]],
        groups=sorted({group for row in rows.values() for group in row["per_group"]}),
    )
    return {name: row["wer"] for name, row in rows.items()}


def _plain(shipped: str, run: Path, base: str, language: str) -> tuple[DynamicContextWhisper, WhisperProcessor]:
    """The plain Whisper of a LoRA for all, in the audio context of the mixture."""
    moe, processor = load_moe_whisper(str(run / "joint" / "model"))
    if shipped in ("single_lora", "merge"):
        model, processor = load_whisper(base, language)
        model = merge_adapter(model, str(lora_folder(run / shipped)))
    else:
        model = shared_whisper(moe)
    model.set_audio_context(moe.config.audio_context, moe.config.min_audio_context)
    return model, processor


def card_data(results: dict) -> ModelCardData:
    """Metadata of the card, with the figures of the saved model's routing."""
    benchmark = results["benchmark"]
    figures = benchmark["rows"][CANDIDATES[results["shipped"]]]
    is_mixture = results["shipped"] in MIXTURES
    return ModelCardData(
        license=results["license"],
        language=results["language"],
        library_name="transformers",
        pipeline_tag="automatic-speech-recognition",
        tags=[
            "whisper",
            *(["mixture-of-experts"] if is_mixture else []),
            "lora",
            "speech-recognition",
            "atypical-speech",
        ],
        metrics=["wer", "cer"],
        base_model=hub_id(results["base_model"]),
        **evaluated_on(
            results["corpus"],
            benchmark["sample"]["split"],
            error_rates(figures["wer"], figures["cer"]),
            name=f"{'MoE-Whisper' if is_mixture else 'LoRA'} on {results['base_model']}",
        ),
    )
