"""The whole units pipeline on bursts of noise: from recordings to units, motifs, vocoder, figures and card."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from card_blocks import run_blocks
from make_long_recordings import long_recording
from tiny_units import pipeline_command as command
from transformers import AutoModel, AutoTokenizer

from hf_components.runtime.errors import UserError
from recipes import run_units_pipeline, train_unit_vocoder, verify

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "tales"
    for number in range(3):
        long_recording(folder / f"{number}.wav", bursts=4, seed=number)
    (folder / "broken.mp3").write_text("this is text")
    return folder


@pytest.fixture(scope="module")
def finished(recordings, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("pipeline") / "run"
    return out, run_units_pipeline.main(command(recordings, out))


def test_verify_knows_all_that_a_run_leaves(finished):
    result = verify.main([str(finished[0])])
    assert result["exit_status"] == 0 and result["stages"] > 2, result


def test_figures_of_every_stage_are_in_the_results(finished):
    out, results = finished
    assert json.loads((out / "results.json").read_text())["mcd"] == results["evaluation"]["mcd"]
    assert results["segments"]["rejected"] == {"unreadable audio": 1}
    assert results["length_ratio"] == pytest.approx(1, abs=0.03)
    identities = [results[part]["units"] for part in ("units", "motifs", "evaluation")]
    assert identities[0] == identities[1] == identities[2] and identities[0]["num_units"] == 6
    assert results["cer"] is None and results["evaluation"]["missing"]["cer"] == "no recogniser was given"


def test_the_model_folder_is_units_motifs_and_vocoder_of_one_quantizer(finished):
    model = finished[0] / "model"
    quantizer = AutoModel.from_pretrained(model, trust_remote_code=True).eval()
    vocoder = AutoModel.from_pretrained(model, subfolder="vocoder", trust_remote_code=True).eval()
    motifs = AutoTokenizer.from_pretrained(model, subfolder="motifs")
    vocoder.require_units(quantizer.identity())
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    with torch.inference_mode():
        units = quantizer(torch.from_numpy(samples)[None])
        assert vocoder(units).shape == (1, units.shape[1] * 320)
    runs = torch.unique_consecutive(units[0]).tolist()
    text = "".join(chr(0x4E00 + unit) for unit in runs)
    assert motifs.decode(motifs(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.slow
def test_every_line_of_use_on_the_card_runs(finished, tmp_path):
    model = finished[0] / "model"
    assert run_blocks((model / "README.md").read_text(), tmp_path / "home", folder=model) == 1


def test_the_card_is_whole(finished):
    card = (finished[0] / "model" / "README.md").read_text()
    assert "| mcd |" in card and "6 units of MFCC features" in card and "[samples/orig_0000.wav]" in card
    assert "None |" not in card and "\n\n\n" not in card


def test_recordings_are_not_counted_as_speakers(finished):
    out, results = finished
    assert results["evaluation"]["sample"]["speakers"] is None
    assert results["corpus"]["held_out"] == "held-out recordings; speakers unknown, so the same voices may be in train"
    pages = [
        out / "model" / "README.md",
        out / "segments" / "README.md",
        out / "evaluation" / "index.html",
        out / "concordance" / "index.html",
    ]
    for page in pages:
        text = page.read_text()
        assert "peakers unknown" in text and not re.search(r"\d speaker|held-out speaker", text)


@pytest.fixture(scope="module")
def speakers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "three"
    for number in range(6):
        long_recording(folder / "ABC"[number % 3] / f"{number}.wav", bursts=2, seed=number)
    return folder


def test_voices_are_learnt_of_speakers_who_are_in_train_and_dev(speakers, tmp_path, monkeypatch):
    results = run_units_pipeline.main(command(speakers, tmp_path / "run", "--speaker_embedding"))
    vocoder = AutoModel.from_pretrained(tmp_path / "run" / "vocoder" / "model", trust_remote_code=True)
    assert vocoder.config.speakers == ["A", "B", "C"]
    assert results["corpus"]["held_out"] == "held-out recordings of the same speakers as in train"
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "held-out recordings of the same speakers" in card
    monkeypatch.chdir(tmp_path)
    shutil.copy(speakers / "A" / "0.wav", "speech.wav")
    exec(card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", "run/model"), {})
    assert soundfile.info("resynthesis.wav").frames > 16_000


@pytest.mark.parametrize(
    "who, flags, message",
    [
        ("recordings", ["--speaker_embedding"], "speakers of .* are unknown; make a folder for each speaker and"),
        ("recordings", ["--speaker_embedding", "--split_by=recording"], "speakers of .* are unknown"),
        ("speakers", ["--speaker_embedding", "--split_by=speaker"], "choose --split_by recording"),
        ("speakers", ["--stage_options", "vocoder.speaker_embedding=1", "segments.split_by=speaker"], "choose --spl"),
        ("segments", ["--speaker_embedding"], "speakers of .* are unknown"),
    ],
)
def test_voices_that_cannot_be_learnt_stop_the_run_before_its_first_step(
    request, finished, tmp_path, monkeypatch, who, flags, message
):
    for step in (run_units_pipeline.segment_audio, run_units_pipeline.learn_units):
        monkeypatch.setattr(step, "main", lambda _: pytest.fail("a step runs"))
    data = finished[0] / "segments" if who == "segments" else request.getfixturevalue(who)
    with pytest.raises(UserError, match=message):
        run_units_pipeline.main(command(data, tmp_path / "run", *flags))


def test_linguists_get_tiers_and_a_page_of_motifs(finished):
    out, _ = finished
    assert {path.suffix for path in (out / "annotations").iterdir()} == {".TextGrid", ".eaf", ".json"}
    assert (out / "concordance" / "index.html").exists()


def test_resumed_nothing_runs_again(finished, recordings, monkeypatch):
    out, results = finished
    monkeypatch.setattr(train_unit_vocoder, "produce", lambda *_: pytest.fail("the vocoder is trained again"))
    assert run_units_pipeline.main(command(recordings, out, "--resume"))["mcd"] == results["mcd"]


def test_a_prepared_corpus_is_not_cut_again(finished, tmp_path, monkeypatch):
    out, results = finished
    monkeypatch.setattr(run_units_pipeline.segment_audio, "main", lambda _: pytest.fail("it is cut again"))
    again = run_units_pipeline.main([*command(out / "segments", tmp_path / "run"), "--linguists=false"])
    assert again["segments"] is None and again["units"]["units"] == results["units"]["units"]
    assert not (tmp_path / "run" / "annotations").exists()


def test_more_units_than_frames_is_told(recordings, tmp_path):
    with pytest.raises(UserError, match="num_units"):
        run_units_pipeline.main([*command(recordings, tmp_path / "run"), "--num_units=5000"])


def test_a_corpus_without_dev_is_told_before_units_are_learnt(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(run_units_pipeline.learn_units, "main", lambda _: pytest.fail("units are learnt"))
    with pytest.raises(UserError, match="has no split dev: .*--val_ratio"):
        run_units_pipeline.main([*command(recordings, tmp_path / "run"), "--val_ratio=0"])
