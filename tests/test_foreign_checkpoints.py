"""Checkpoints of other people that bring code: in its files, named by an `auto_map`, or in pickled weights.

Through no door does any of it run: each either loads the checkpoint by a class that is here, or refuses it.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from paths import ROOT
from tiny_ctc import save_tiny_wav2vec2
from tiny_llm import save_tiny_llm
from tiny_speech import save_tiny_whisper
from tiny_ssl import save_tiny_ssl
from transformers import AutoModelForCTC

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.asr import Transcriber
from hf_components.checkpoints import load_moe_whisper, load_whisper, merge_adapter
from hf_components.checkpoints.language_models import load_llm
from hf_components.checkpoints.loading import load_model
from hf_components.runtime import UserError
from hf_components.training.lora import LoraArguments, add_lora, save_lora
from hf_components.units.learning.features import load_encoder

sys.path.append(str(ROOT / "spaces" / "demo"))

from recognition import load_recogniser
from resynthesis import load_units

REFUSED = (UserError, ValueError)
CONFIGS = {
    "config.json": ("Config", "AutoConfig"),
    "tokenizer_config.json": (["Tokenizer", None], "AutoTokenizer"),
    "preprocessor_config.json": ("Extractor", "AutoFeatureExtractor"),
    "processor_config.json": ("Processor", "AutoProcessor"),
}
MODELS = ("AutoModel", "AutoModelForSpeechSeq2Seq", "AutoModelForCTC", "AutoModelForCausalLM")

DOORS: dict[str, tuple[str, Callable[[str], object]]] = {
    "Transcriber, Whisper": ("whisper", Transcriber.from_pretrained),
    "Transcriber, wav2vec2": ("wav2vec2", Transcriber.from_pretrained),
    "a Whisper to train": ("whisper", load_whisper),
    "a mixture": ("whisper", load_moe_whisper),
    "a soup": ("wav2vec2", lambda folder: load_model(AutoModelForCTC, folder)),
    "the LLM that corrects": (
        "llm",
        lambda folder: load_llm(folder, None, "none", torch.float32, torch.device("cpu")),
    ),
    "the encoder of units": ("ssl", lambda folder: load_encoder(folder, 1, 4)),
    "the demo's recogniser": ("whisper", load_recogniser),
    "the demo's units": ("units", load_units),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("foreign")
    AcousticUnitsModel.from_encoder("mfcc", num_units=8).save_pretrained(folder / "units")
    return {
        "whisper": save_tiny_whisper(folder / "whisper"),
        "wav2vec2": save_tiny_wav2vec2(folder / "wav2vec2"),
        "llm": save_tiny_llm(folder / "llm"),
        "ssl": save_tiny_ssl(folder / "ssl"),
        "units": folder / "units",
    }


def bring_code(source: Path, folder: Path, kind: str | None = None) -> Path:
    """A copy whose code leaves a file when it runs; returns the path of that file. `kind`: another model type."""
    shutil.copytree(source, folder)
    trace = folder.parent / "it_ran"
    classes = "".join(f"class {name}: pass\n" for name in ("Config", "Model", "Tokenizer", "Extractor", "Processor"))
    (folder / "theirs.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n{classes}")
    for file, (name, auto) in CONFIGS.items():
        path = folder / file
        fields = json.loads(path.read_text()) if path.exists() else {}
        own = [f"theirs.{name[0]}", None] if isinstance(name, list) else f"theirs.{name}"
        fields["auto_map"] = {auto: own}
        if file == "config.json":
            fields["auto_map"] |= dict.fromkeys(MODELS, "theirs.Model")
            fields["model_type"] = kind or fields["model_type"]
        path.write_text(json.dumps(fields))
    return trace


@pytest.mark.parametrize("is_known", [True, False], ids=["known type", "their own type"])
@pytest.mark.parametrize("door", DOORS)
def test_code_beside_the_weights_never_runs(checkpoints, tmp_path, door, is_known):
    kind, load = DOORS[door]
    trace = bring_code(checkpoints[kind], tmp_path / "theirs", None if is_known else "theirs")
    try:
        load(str(tmp_path / "theirs"))
    except REFUSED as error:
        assert not is_known or door == "a mixture", error
    else:
        assert is_known
    assert not trace.exists()


class Payload:
    """What pickled weights may hold instead of numbers."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("door", DOORS)
def test_code_in_the_weights_never_runs(checkpoints, tmp_path, door):
    kind, load = DOORS[door]
    shutil.copytree(checkpoints[kind], tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    torch.save({"weight": Payload(tmp_path / "it_ran")}, tmp_path / "theirs" / "pytorch_model.bin")
    with pytest.raises(REFUSED):
        load(str(tmp_path / "theirs"))
    assert not (tmp_path / "it_ran").exists()


def test_the_base_and_the_weights_of_an_adapter_run_nothing(checkpoints, tmp_path):
    trace = bring_code(checkpoints["whisper"], tmp_path / "base", "theirs")
    model, _ = load_whisper(str(checkpoints["whisper"]))
    save_lora(add_lora(model, LoraArguments(lora_rank=2)), tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "base")}))
    with pytest.raises(REFUSED):
        load_recogniser(str(tmp_path / "adapter"))

    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({"weight": Payload(trace)}, tmp_path / "adapter" / "adapter_model.bin")
    model, _ = load_whisper(str(checkpoints["whisper"]))
    with pytest.raises(REFUSED):
        merge_adapter(model, str(tmp_path / "adapter"))
    assert not trace.exists()
