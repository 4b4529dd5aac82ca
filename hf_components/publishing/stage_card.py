"""A card for the result of a single recipe, made from its completion record."""

import json
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from huggingface_hub import ModelCardData

from hf_components.acoustic_units import MFCC
from hf_components.asr import is_audio_llm
from hf_components.checkpoints import base_model_id, find_ggml, is_export
from hf_components.publishing.cards import RECOGNITION, render_card
from hf_components.publishing.report import hub_id
from hf_components.runtime import UserError, read_completion, read_record
from hf_components.whisper.adapters import STOCK_WHISPER

CARD = "README.md"
RESULTS = "results.json"
ADAPTER = "adapter_config.json"
RECOGNISERS = ("ForConditionalGeneration", "ForCTC", "ForRNNT", "ForTDT")  # architectures end in these
DATA = ("corpus", "units_dir")  # flags of recipes that name the data


class Use(NamedTuple):
    """How a folder is loaded, as the card shows it."""

    key: str  # which lines of the template
    title: str
    library: str = "transformers"
    task: str | None = RECOGNITION


ADAPTED = Use("adapter", "Adapter", "peft")
EXPORTED = Use("export", "CTranslate2 export", "ctranslate2")
EXPORTED_SHORT = Use("short_export", "CTranslate2 export for short clips", "ctranslate2")
FOR_WHISPER_CPP = Use("ggml", "Whisper for whisper.cpp", "whisper.cpp")
HEARING_LLM = Use("hearing_llm", "Recogniser")
RECOGNISER = Use("recogniser", "Recogniser")
OTHERS = {
    "AcousticUnitsModel": "Acoustic units",
    "UnitHifiGanModel": "Unit vocoder",
    "Tokenizer": "Motif tokenizer",
    "Model": "Model",
}


def stage_card(folder: Path, license: str | None) -> dict[str, Path | bytes]:
    """Card, figures and plots of a result: path in the repository -> file, or its content.

    Args:
        folder: result of a recipe, or a folder in it.
    Raises:
        UserError: it is none.
    """
    stage = next((place for place in (folder, folder.resolve().parent) if read_completion(place)), None)
    if stage is None:
        raise UserError(
            f"{folder} has no card ({CARD}) and is not the result of a recipe; write one, with its licence"
        )
    completion = read_completion(stage)
    config = completion["config"]
    model = read_fields(folder / "config.json")
    adapter = read_fields(folder / ADAPTER)
    use = use_of(folder, model, bool(adapter))
    base = base_of(folder, config, adapter)
    results = _results(completion, license)
    ggml = find_ggml(folder)
    plots = {f"plots/{plot.name}": plot for plot in sorted(stage.glob("*.png"))}
    metadata = ModelCardData(
        license=license,
        language=config.get("language"),
        base_model=base,
        tags=["speech"],
        library_name=use.library,
        pipeline_tag=use.task,
    )
    shown = {
        **results,
        "base_model": base,
        "title": use.title,
        "use": use.key,
        "own_code": "auto_map" in model,
        "adapted": adapter.get("base_model_name_or_path"),
        "base_class": (adapter.get("auto_mapping") or {}).get("base_model_class", STOCK_WHISPER[1]),
        "data": next((Path(config[name]).name for name in DATA if config.get(name)), None),
        "file": ggml and ggml.name,
        "voices": model.get("speakers"),
        "use_f0": model.get("use_f0"),
        "plots": [Path(plot).name for plot in plots],
        "figures": {name: value for name, value in results["metrics"].items() if isinstance(value, (int, float))},
    }
    return {
        CARD: render_card("stage.md", shown, metadata).encode(),
        RESULTS: (json.dumps(results, indent=2, ensure_ascii=False) + "\n").encode(),
        **plots,
    }


def use_of(folder: Path, model: dict[str, Any], is_adapter: bool) -> Use:
    """How a folder with this `config.json` is loaded."""
    if is_adapter:
        return ADAPTED
    if is_export(folder):
        return EXPORTED_SHORT
    if (folder / "model.bin").exists():
        return EXPORTED
    if find_ggml(folder):
        return FOR_WHISPER_CPP
    if is_audio_llm(model.get("model_type")):
        return HEARING_LLM
    architecture = next(iter(model.get("architectures") or ()), "Model" if model else "Tokenizer")
    if architecture.endswith(RECOGNISERS):
        return RECOGNISER
    key = architecture if architecture in OTHERS else "Model"
    return Use(key, OTHERS[key], task=None)


def base_of(folder: Path, config: dict[str, Any], adapter: dict[str, Any]) -> str | None:
    """Hub id of the model that a result was made from."""
    if adapter:
        return hub_id(adapter["base_model_name_or_path"] or str(folder))
    given = config.get("model")
    return hub_id(base_model_id(str(folder) if given in (None, MFCC) else given))


def read_fields(file: Path) -> dict[str, Any]:
    """A configuration; empty if there is none."""
    return read_record(file, dict, "write it again") if file.exists() else {}


def _results(completion: dict[str, Any], license: str | None) -> dict[str, Any]:
    recipes = (PurePosixPath(name).stem for name in completion.get("sources", {}) if name.startswith("recipes/"))
    return {
        "recipe": next(recipes, "a recipe"),
        "metrics": completion["metrics"],
        "seconds": completion["seconds"],
        "environment": completion.get("environment", {}),
        "code_version": completion["identity"]["code_version"],
        "license": license,
    }
