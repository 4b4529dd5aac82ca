"""`recipes/pack_submission.py`: the zip, what is said of it, and mistakes; with real weights the package is run."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT
from tiny_speech import save_tiny_whisper

from hf_components.runtime.errors import UserError
from recipes import pack_submission

QUICK = str(ROOT / "recipes" / "configs" / "pack_submission" / "quick.yaml")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("model"))


def command(output: Path, *words: object, **flags: object) -> list[str]:
    return [
        "--config",
        QUICK,
        f"--output={output}",
        *(f"--{name}={value}" for name, value in flags.items()),
        *map(str, words),
    ]


@pytest.mark.integration
def test_size_and_settings_are_beside_the_zip(model, tmp_path, capsys):
    result = pack_submission.main(command(tmp_path / "a" / "b.zip", "--no_verify", model=model, max_megabytes=5))
    assert result["megabytes"] == pytest.approx((tmp_path / "a" / "b.zip").stat().st_size / 1e6, abs=0.05)
    found = json.loads((tmp_path / "a" / "b.json").read_text())
    assert found["megabytes"] == result["megabytes"] and found["config"]["dtype"] == "float16"
    assert f"{result['megabytes']} MB of 5 allowed, not tried (--no_verify)" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"b.zip", "b.json"}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"max_megabytes": 0.1}, "the zip has .* MB, more than --max_megabytes 0.1; pack a smaller model$"),
        ({"max_megabytes": 0.1, "dtype": "float32"}, "pack a smaller model, or --dtype float16"),
        ({"model": "/nowhere"}, "there is no folder /nowhere"),
        ({"adapter": "/nowhere"}, "there is no folder /nowhere"),
        ({"max_samples": 0}, "--max_samples must be at least 1, got 0"),
        ({"output": "a.tar"}, "output must name a file that ends in .zip, got a.tar"),  # the last --output counts
    ],
)
def test_mistakes_are_named_and_an_earlier_zip_stays(model, tmp_path, flags, message):
    (tmp_path / "a.zip").write_text("earlier")
    with pytest.raises(UserError, match=message):
        pack_submission.main(
            command(
                tmp_path / "a.zip",
                "--no_verify",
                f"--model={model}",
                *(f"--{name}={value}" for name, value in flags.items()),
            )
        )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.zip", "earlier")]


@pytest.mark.slow
def test_two_processes_write_one_zip(model, tmp_path):
    command_line = [
        str(Path(sys.executable).parent / "accelerate"),
        "launch",
        "--quiet",
        "--config_file",
        str(ROOT / "accelerate_configs" / "multi_cpu.yaml"),
        str(ROOT / "tests" / "support" / "pack_in_processes.py"),
        str(tmp_path),
        *command(tmp_path / "a.zip", model=model, max_new_tokens=6, max_samples=3),
    ]
    subprocess.run(command_line, check=True, cwd=ROOT, timeout=300)
    first, second = (json.loads((tmp_path / f"{process}.json").read_text()) for process in range(2))
    assert first["result"] == second["result"] and first["result"]["verified"]["utterances"] == 3
    assert (first["written"], second["written"]) == (1, 0)
    assert zipfile.ZipFile(tmp_path / "a.zip").testzip() is None
    assert {path.suffix for path in tmp_path.iterdir()} == {".zip", ".json"}


@pytest.mark.slow
def test_a_real_whisper_is_packed_tried_and_timed(tmp_path, capsys):
    whisper = ROOT / "models" / "whisper-tiny.en"
    if not whisper.is_dir():
        pytest.skip("models/whisper-tiny.en is not there; make models/whisper-tiny.en")
    shutil.copytree(whisper, tmp_path / "whisper")
    result = pack_submission.main(
        command(tmp_path / "a.zip", model=tmp_path / "whisper", max_samples=4, test_utterances=1000)
    )
    tried = result["verified"]
    assert 70 < result["megabytes"] < 90
    assert (tried["utterances"], tried["unreadable"]) == (4, 0)
    assert tried["wer"]["packed"] <= tried["wer"]["before"] + 0.05 < 0.6
    assert tried["estimated_seconds"] == pytest.approx(tried["loading_seconds"] + 250 * tried["transcribing_seconds"])
    assert "a test set of 1000 utterances takes about" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kit", ["sapc2-track1", "sapc2-track2"])
def test_a_kit_of_the_sap_challenge_runs_by_itself(tmp_path, kit, capsys):
    model = save_tiny_whisper(tmp_path / "model")
    flags = {"model": model, "kit": kit, "max_new_tokens": 20, "max_samples": 2, "test_utterances": 10**7}
    result = pack_submission.main(command(tmp_path / "a.zip", **flags))
    assert result["verified"]["utterances"] == 2
    assert "s that the challenge allows; pack a smaller model" in capsys.readouterr().err
