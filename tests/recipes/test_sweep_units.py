"""The stage sweep_units, in-process on sentences of eSpeak NG with the times of its phonemes."""

import json

import pytest
from tiny_phones import write_spoken_phones
from tiny_ssl import save_tiny_ssl

from hf_components.runtime.errors import UserError
from recipes import sweep_units
from recipes.sweep_units import main

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    return write_spoken_phones(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(autouse=True)
def from_repository_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def command(corpus, output_dir, *more: str) -> list[str]:
    return [
        "--config",
        "recipes/configs/sweep_units/quick.yaml",
        "--corpus",
        str(corpus),
        "--output_dir",
        str(output_dir),
        *more,
    ]


def test_more_units_tell_phones_better(spoken, tmp_path, capsys):
    corpus, phones = spoken
    result = main(
        command(
            corpus, tmp_path / "sweep", "--num_units", "4", "16", "64", "--passes", "2", "--phone_labels", str(phones)
        )
    )
    few, some, many = result["figures"]
    assert [row["num_units"] for row in result["figures"]] == [4, 16, 64]
    assert few["phone_purity"] < some["phone_purity"] < many["phone_purity"]
    assert few["cluster_purity"] > some["cluster_purity"] > many["cluster_purity"]
    assert all(row["nmi"] > row["nmi_by_chance"] + 0.1 for row in result["figures"]) and some["phone_purity"] > 0.25
    assert some["labelled_frames"] > 300 and some["phones"] > 15
    assert some["order"] > 1 and some["speaker_nmi"] is None
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"sweep.json", "sweep.png", "stage.json"}
    assert json.loads((tmp_path / "sweep/sweep.json").read_text()) == result["figures"]
    shown = capsys.readouterr()
    assert "Units of mfcc, scored on 6 segments of dev" in shown.out and "Estimated rest of the sweep" in shown.err


def test_layers_of_an_encoder_without_labels(spoken, tmp_path):
    encoder = save_tiny_ssl(tmp_path / "encoder")
    result = main(
        command(
            spoken[0],
            tmp_path / "sweep",
            "--model",
            str(encoder),
            "--layers",
            "1",
            "2",
            "--num_units",
            "4",
            "8",
            "--passes",
            "2",
        )
    )
    assert [(row["layer"], row["num_units"]) for row in result["figures"]] == [(1, 4), (1, 8), (2, 4), (2, 8)]
    assert all("nmi" not in row and row["bits_per_second"] > 0 for row in result["figures"])
    assert len({row["inertia_per_frame"] for row in result["figures"]}) == 4


@pytest.mark.parametrize("at", ["write_json", "write_units", "plot_sweep"])
def test_an_interrupted_sweep_goes_on(spoken, tmp_path, monkeypatch, at):
    corpus, phones = spoken
    arguments = ["--num_units", "4", "8", "--passes", "2", "--phone_labels", str(phones)]
    whole = main(command(corpus, tmp_path / "whole", *arguments))
    original, calls = getattr(sweep_units, at), []

    def interrupted(*args, **kwargs):
        calls.append(args)
        if len(calls) == (1 if at == "plot_sweep" else 2):
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep_units, at, interrupted)
        main(command(corpus, tmp_path / "sweep", *arguments))
    assert main(command(corpus, tmp_path / "sweep", *arguments, "--resume")) == whole


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layers", "3"], "--layers must be left out for mfcc features"),
        (["--model", "some/encoder"], "--layers must name layers of --model some/encoder"),
        (["--num_units", "100000"], "100000 units need as many frames"),
    ],
)
def test_a_wrong_grid_is_refused(spoken, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        main(command(spoken[0], tmp_path / "sweep", *more))


def test_labels_of_other_recordings_are_refused(spoken, tmp_path):
    (tmp_path / "phones.jsonl").write_text('{"source_file": "other.mp3", "start": 0, "end": 9, "phone": "a"}\n')
    with pytest.raises(UserError, match=r"labels none of the recordings of dev \(dev.mp3, ...\)"):
        main(
            command(
                spoken[0], tmp_path / "sweep", "--num_units", "4", "--phone_labels", str(tmp_path / "phones.jsonl")
            )
        )
