"""The stage evaluate_units, in-process on sentences of eSpeak NG with the times of its phonemes."""

import json

import pytest
from datasets import Dataset
from tiny_phones import write_spoken_phones
from tiny_units import write_tiny_segments

from hf_components.runtime.errors import UserError
from recipes import learn_units
from recipes.evaluate_units import main

pytestmark = pytest.mark.integration
NAMES = ("pnmi", "phone_purity", "abx_within", "abx_across", "bitrate")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spoken")
    corpus, phones = write_spoken_phones(folder, train=8, dev=4)
    learn_units.main(
        f"--corpus {corpus} --model mfcc --num_units 20 --passes 2 --output_dir {folder / 'units'}".split()
    )
    return folder / "units", phones, corpus


def command(units, phones, out, *more: str) -> list[str]:
    return [f"--units_dir={units}", f"--alignments={phones}", f"--output_dir={out}", "--num_bootstrap=50", *more]


def test_figures_of_two_speakers(learnt, tmp_path, capsys):
    units, phones, corpus = learnt
    out = tmp_path / "out"
    result = main(command(units, phones, out, f"--corpus={corpus}", "--max_samples=3", "--noise_snr=10"))
    assert json.loads((out / "results.json").read_text()) == result
    assert {path.name for path in out.iterdir()} == {"results.json", "results.png", "rejected.jsonl", "stage.json"}
    assert (out / "rejected.jsonl").read_text() == "" and result["rejected"] == 0
    for name in NAMES:
        assert isinstance(result[name], float), name
        assert result["intervals"][name] is not None
    assert result["pnmi"] > result["pnmi_by_chance"] + 0.1
    assert 0 <= result["abx_within"] <= 0.5
    assert set(result["robustness"]) == {"noise 10 dB", "speed 0.9", "speed 1.1"}
    assert all(0 < value < 2 for value in result["robustness"].values())
    assert result["reasons"] == {}
    shown = capsys.readouterr().out
    assert "ABX error across speakers" in shown and "unit edit distance, speed 1.1" in shown


def test_one_speaker_and_one_recording_say_why_figures_are_missing(learnt, tmp_path):
    units, phones, _ = learnt
    result = main(command(units, phones, tmp_path / "out", "--split=dev", "--no_plot"))
    assert result["abx_across"] is None
    assert result["reasons"]["abx_across"] == "it needs two known speakers or more, got 1"
    assert result["reasons"]["intervals"] == "one recording says nothing about others"
    assert not (tmp_path / "out" / "results.png").exists()


def test_segments_without_an_alignment_are_rejected(learnt, tmp_path):
    units, phones, _ = learnt
    lines = [line for line in phones.read_text().splitlines() if '"dev.mp3"' in line]
    (tmp_path / "dev.jsonl").write_text("\n".join([*lines, '{"source_file": "dev.mp3"}']))
    result = main(command(units, tmp_path / "dev.jsonl", tmp_path / "out"))
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert (result["segments"], result["rejected"]) == (4, 9)
    assert {row["reason"] for row in rejected if row["id"].startswith("train_")} == {"no alignment"}
    assert [row["id"] for row in rejected if "a phone needs" in row["reason"]] == [f"line {len(lines) + 1}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "alignments",
            "aligns none of the recordings of .*: the phones are of other, ..., and the units of train.mp3",
        ),
        ("units", "does not exist; --units_dir takes the output folder of learn_units"),
        ("corpus", "has none of the segments"),
    ],
)
def test_what_does_not_belong_together_is_refused(learnt, tmp_path, change, message):
    units, phones, _ = learnt
    more = ()
    if change == "alignments":
        phones = tmp_path / "phones.ctm"
        phones.write_text("other 1 0 1 a\n")
    elif change == "units":
        units = tmp_path
    else:
        (tmp_path / "other").mkdir()
        corpus = write_tiny_segments(tmp_path / "corpus", train=20, dev=1)
        for split in ("train", "dev"):
            file = corpus / "data" / f"{split}-00000.parquet"
            rows = Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "other"))
            rows.map(lambda row: {"id": f"other_{row['id']}"}).to_parquet(file)
        more = (f"--corpus={corpus}",)
    with pytest.raises(UserError, match=message):
        main(command(units, phones, tmp_path / "out", *more))
