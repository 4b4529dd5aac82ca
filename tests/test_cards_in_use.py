"""Every line of use on the cards of what single recipes, corpora and metrics publish, as the Hub shows it, run by a
stranger.

The cards of the pipelines are run with their pipelines, in tests/recipes.
"""

import shutil
from pathlib import Path

import pytest
from card_blocks import run_blocks
from hub_server import USER
from paths import ROOT
from tiny_motifs import pair_motif
from tiny_speech import save_tiny_whisper, speaker_folder, tiny_moe, tiny_processor, tiny_whisper
from tiny_vocoder import save_tiny_vocoder

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.checkpoints.ctranslate2_export import export_whisper
from hf_components.checkpoints.loading import load_whisper, save_processor
from hf_components.publishing.hub import publish
from hf_components.runtime.stages import run_stage
from hf_components.training.lora import LoraArguments, add_lora, save_lora
from recipes import prepare_corpus

pytestmark = pytest.mark.slow

METRICS = ROOT / "hf_components" / "metrics"
WHISPER = ROOT / "models" / "whisper-tiny.en"


def save_moe(folder: Path) -> None:
    tiny_moe().save_pretrained(folder)
    save_processor(tiny_processor(), folder)


def save_adapter(folder: Path) -> None:
    model = tiny_whisper()
    model.name_or_path = str(folder.parents[2] / "whisper")
    save_lora(add_lora(model, LoraArguments(lora_rank=2)), folder)


def save_motifs(folder: Path) -> None:
    folder.mkdir()
    pair_motif(folder)


def save_units(folder: Path) -> None:
    AcousticUnitsModel.from_encoder("mfcc", None, 8).save_pretrained(folder)


def save_voices(folder: Path) -> None:
    save_tiny_vocoder(folder, speakers=["anna", "ben"], use_f0=True)


MADE = {
    "recogniser": save_tiny_whisper,
    "moe": save_moe,
    "adapter": save_adapter,
    "vocoder": save_tiny_vocoder,
    "voices": save_voices,
    "motifs": save_motifs,
    "units": save_units,
}


def published_card(hub, folder: Path, name: str, kind: str = "models") -> str:
    publish(
        folder, f"{USER}/{name}", license="cc0-1.0" if name in ("vocoder", "voices") else None
    )  # a voice needs one
    return hub.files(f"{USER}/{name}", kind)["README.md"].decode()


def stage_card(hub, place: Path, name: str, save) -> str:
    def produce(folder: Path) -> dict:
        save(folder / "model")
        return {"wer": 0.25, "steps": 3}

    run_stage(place / name, produce, config={"corpus": str(place)})
    return published_card(hub, place / name / "model", name)


def test_every_line_of_use_runs(hub, tmp_path):
    save_tiny_whisper(tmp_path / "whisper")
    cards = [stage_card(hub, tmp_path, name, save) for name, save in MADE.items()]
    prepare_corpus.main(
        [
            "--builder=speaker_json",
            "--data_dir",
            str(speaker_folder(tmp_path / "speakers")),
            "--output_dir",
            str(tmp_path / "corpus"),
        ]
    )
    cards.append(published_card(hub, tmp_path / "corpus", "corpus", "datasets"))
    cards += [
        published_card(hub, METRICS / name, name, "spaces")
        for name in ("whisper_wer", "ipa_cer", "speech_resynthesis")
    ]
    reader = tmp_path / "reader"
    shutil.copytree(tmp_path / "whisper", reader / "whisper")  # the adapter's base, which has no id on the Hub
    assert run_blocks("\n".join(cards), reader, environment=hub.environment(reader / "hf")) == len(MADE) + 4


def test_every_line_of_use_of_an_export_runs(hub, tmp_path):
    pytest.importorskip("faster_whisper")
    if not WHISPER.exists():
        pytest.skip(f"there is no {WHISPER}; recipes/import_whisper.py makes it")
    card = stage_card(
        hub, tmp_path, "export", lambda folder: export_whisper(*load_whisper(str(WHISPER)), folder, "int8")
    )
    assert run_blocks(card, tmp_path / "reader", environment=hub.environment(tmp_path / "reader" / "hf")) == 1


def test_every_line_of_use_of_an_export_for_short_clips_runs(hub, tmp_path):
    if not WHISPER.exists():
        pytest.skip(f"there is no {WHISPER}; recipes/import_whisper.py makes it")
    card = stage_card(
        hub,
        tmp_path,
        "short_export",
        lambda folder: export_whisper(*load_whisper(str(WHISPER)), folder, "int8", audio_context="dynamic"),
    )
    assert "engine=" in card
    assert run_blocks(card, tmp_path / "reader", environment=hub.environment(tmp_path / "reader" / "hf")) == 1
