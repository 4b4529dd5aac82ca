"""`recipes/evaluate_vocoder.py`: a run with and without a recogniser, mistakes."""

import importlib.util
import json
from pathlib import Path

import pytest
import soundfile
from paths import ROOT
from tiny_ctc import save_tiny_wav2vec2
from tiny_units import IDENTITY, write_tiny_segments, write_tiny_units
from tiny_vocoder import save_tiny_vocoder

from hf_components.runtime.errors import UserError
from hf_components.units.resynthesis.summary import summarise
from recipes import evaluate_vocoder

pytestmark = pytest.mark.integration

QUICK = ROOT / "recipes" / "configs" / "evaluate_vocoder" / "quick.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Segments, their units, a vocoder of them, and a recogniser."""
    folder = tmp_path_factory.mktemp("run")
    write_tiny_units(folder / "units", write_tiny_segments(folder / "segments", dev=5, seconds=1.0))
    save_tiny_vocoder(folder / "vocoder")
    save_tiny_wav2vec2(folder / "recogniser")
    return folder


def command(run: Path, output: Path, **flags: object) -> list[str]:
    known = {
        "corpus": run / "segments",
        "units_dir": run / "units",
        "vocoder_model": run / "vocoder",
        "output_dir": output,
    }
    return ["--config", str(QUICK), *(f"--{name}={value}" for name, value in (known | flags).items())]


def test_a_vocoder_is_judged(run, tmp_path, capsys):
    output = tmp_path / "out"
    results = evaluate_vocoder.main(command(run, output, max_samples=4, recogniser_model=run / "recogniser"))
    rows = json.loads((output / "segments.json").read_text())
    assert json.loads((output / "results.json").read_text()) == results
    assert {name: results[name] for name in summarise(rows, 1000, 42)} == summarise(rows, 1000, 42)
    assert results["units"] == IDENTITY and results["sample"]["segments"] == len(rows) == 4
    assert results["length_ratio"] == pytest.approx(49 * 320 / 16_000)
    assert (
        results["cer"] is not None
        and results["cer_original"] is None
        and "transcript of the originals" in results["missing"]["cer_original"]
    )
    for row in rows:
        assert soundfile.info(output / row["original"]).frames == 16_000
        assert soundfile.info(output / row["resynthesis"]).frames == 49 * 320
    assert {path.name for path in (output / "audio").iterdir()} == {
        f"{side}_{i:04d}.wav" for side in ("orig", "synth") for i in range(4)
    }
    shown = capsys.readouterr().out
    assert "mcd_shuffled_units" in shown and str(output / "index.html") in shown.replace("\n", "")
    assert (
        evaluate_vocoder.main([*command(run, output, max_samples=4, recogniser_model=run / "recogniser"), "--resume"])
        == results
    )


def test_a_vocoder_that_is_told_the_pitch_is_judged(run, tmp_path):
    vocoder = save_tiny_vocoder(tmp_path / "vocoder", use_f0=True)
    assert evaluate_vocoder.main(command(run, tmp_path / "out", vocoder_model=vocoder))["sample"]["segments"] == 5


def test_a_vocoder_of_two_voices_speaks_each_segment_in_the_other(run, tmp_path):
    vocoder = save_tiny_vocoder(tmp_path / "vocoder", speakers=["dev_speaker_0", "dev_speaker_1"])
    results = evaluate_vocoder.main(command(run, tmp_path / "out", vocoder_model=vocoder))
    rows = json.loads((tmp_path / "out" / "segments.json").read_text())
    assert all({row["speaker_id"], row["other_voice"]} == {"dev_speaker_0", "dev_speaker_1"} for row in rows)
    assert all((tmp_path / "out" / row["in_other_voice"]).is_file() for row in rows)
    known = importlib.util.find_spec("resemblyzer") is not None
    assert (results["voice_on_target_side"] is not None) == known == ("voice_similarity" not in results["missing"])


def test_all_segments_are_judged_where_there_are_fewer_than_asked_for(run, tmp_path):
    results = evaluate_vocoder.main(command(run, tmp_path / "out"))
    assert results["sample"]["segments"] == 5 and results["cer"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_samples": 0}, "--max_samples must be at least 1, got 0"),
        ({"num_bootstrap": -1}, "--num_bootstrap must be at least 0, got -1"),
        ({"batch_seconds": 0}, "--batch_seconds must be above 0, got 0"),
        ({"split": "test"}, "has no split 'test'; it has train, dev"),
        ({"vocoder_model": "/nowhere/model"}, "there is no folder /nowhere/model"),
        ({"units_dir": "/nowhere"}, "/nowhere/units.parquet does not exist"),
        ({"recogniser_model": "/nowhere/asr"}, "there is no folder /nowhere/asr"),
    ],
)
def test_mistakes_are_named(run, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        evaluate_vocoder.main(command(run, tmp_path / "out", **flags))
    assert not (tmp_path / "out").exists()


def test_a_vocoder_of_other_units_is_refused_by_name(run, tmp_path):
    other = save_tiny_vocoder(tmp_path / "other", units={**IDENTITY, "centroids_sha256": "f" * 64})
    with pytest.raises(
        UserError, match=f"units and {other} must be of the same units.* centroids_sha256 0{{64}} and f{{64}}"
    ):
        evaluate_vocoder.main(command(run, tmp_path / "out", vocoder_model=other))
    nameless = save_tiny_vocoder(tmp_path / "nameless", units=None)
    with pytest.raises(UserError, match="must be of the same units, but have encoder mfcc and None"):
        evaluate_vocoder.main(command(run, tmp_path / "out", vocoder_model=nameless))


def test_another_model_is_no_vocoder(run, tmp_path):
    with pytest.raises(UserError, match="recogniser is not a checkpoint"):
        evaluate_vocoder.main(command(run, tmp_path / "out", vocoder_model=run / "recogniser"))
