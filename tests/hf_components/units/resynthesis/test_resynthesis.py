"""Resynthesis: batches, the shuffled control, the summary of segments, and the page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_units import IDENTITY, babble, write_tiny_segments, write_tiny_units
from tiny_vocoder import tiny_vocoder

from hf_components.metrics.speech_resynthesis.figures import measure
from hf_components.reporting.plots import plot_spectrograms
from hf_components.runtime.errors import UserError
from hf_components.scoring.error_rates import score
from hf_components.speech.corpus import load_corpus
from hf_components.units.resynthesis.measuring import measure_segment, resynthesise, shuffled, units_of
from hf_components.units.resynthesis.page import write_page
from hf_components.units.resynthesis.speaking import pitches_of, speak, voices_of
from hf_components.units.resynthesis.summary import figure_rows, shown, shown_range, summarise, table
from hf_components.units.resynthesis.voices import OTHER_VOICE, compare_voices
from hf_components.units.table import HOP, read_units

pytestmark = pytest.mark.unit

UNITS = [1, 1, 2, 5, 5, 5, 7]
HOSTILE = '<script>alert("x")</script> & $\\frac{1}{0}$'


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, list[dict]]:
    """A folder of judged segments, and their rows."""
    folder = tmp_path_factory.mktemp("run")
    segments = write_tiny_segments(folder / "segments", dev=4)
    units = read_units(write_tiny_units(folder / "units", segments))
    corpus = load_corpus(segments, "dev")
    (folder / "out").mkdir()
    rows = resynthesise(tiny_vocoder(), corpus, units_of(units, corpus), folder / "out", seed=1, batch_seconds=8.0)
    compare_voices(rows, corpus, folder / "out", seed=1)
    return folder, rows


def row(index: int = 0, **changes) -> dict:
    """A judged segment that no vocoder spoke."""
    return {
        "index": index,
        "id": f"s{index}",
        "speaker_id": "a",
        "duration": 0.14,
        "text": "",
        "snr": -3.0 - index,
        "si_sdr": -20.0,
        "mcd": 5.0 + index,
        "length_ratio": 0.99,
        "log_f0_rmse": 0.2,
        "voicing_error": 0.1,
        "mcd_shuffled_units": 8.0,
        "dnsmos": 2.0,
        "dnsmos_original": 3.0,
        "voice_similarity": 0.8,
        "units": UNITS,
        "original": f"audio/orig_{index:04d}.wav",
        "resynthesis": f"audio/synth_{index:04d}.wav",
        "spectrogram": f"spectrograms/{index:04d}.png",
    } | changes


@pytest.mark.parametrize("head", ["istft", "hifigan"])
def test_a_segment_sounds_in_a_batch_as_it_does_alone(head):
    vocoder, sequences = tiny_vocoder(head), [[1, 2, 3], list(range(8)) * 4, [7]]
    together = speak(vocoder, sequences)
    assert [len(wave) for wave in together] == [HOP * len(units) for units in sequences]
    for units, wave in zip(sequences, together, strict=True):
        np.testing.assert_allclose(wave, speak(vocoder, [units])[0], atol=1e-6)
    assert np.abs(together[0]).max() > 0


def test_each_speaker_has_a_voice():
    vocoder = tiny_vocoder(speakers=["anna", "ben"])
    voices = voices_of(vocoder, ["ben", "anna"])
    assert voices == [1, 0] and voices_of(tiny_vocoder(), ["anyone"]) is None
    ben, anna = speak(vocoder, [UNITS, UNITS], voices)
    assert not np.allclose(ben, anna)
    with pytest.raises(UserError, match="has no voice for the speaker carl, only for anna, ben; use a vocoder"):
        voices_of(vocoder, ["anna", "carl"])


def test_the_control_has_the_same_units_in_an_order_of_its_own():
    units = list(range(8)) * 20
    control = shuffled(units, "segment", seed=3)
    assert sorted(control) == sorted(units) and control != units
    assert control == shuffled(units, "segment", seed=3)
    assert control != shuffled(units, "another", seed=3) and control != shuffled(units, "segment", seed=4)


def test_rows_are_those_of_single_segments_and_their_files(run):
    folder, rows = run
    table_of_units = read_units(folder / "units")
    corpus = load_corpus(folder / "segments", "dev")
    vocoder = tiny_vocoder()
    assert [one["id"] for one in rows] == corpus["id"][:]
    for one, units in zip(rows, units_of(table_of_units, corpus), strict=True):
        assert one["units"] == units
        original, resynthesis = (soundfile.read(folder / "out" / one[side])[0] for side in ("original", "resynthesis"))
        spoken = speak(vocoder, [units])[0]
        np.testing.assert_allclose(resynthesis, spoken.clip(-1, 1), atol=1 / 32768)
        for name, figure in measure(spoken, original).items():
            assert one[name] == (None if figure is None else pytest.approx(figure, rel=1e-3, abs=1e-3))
        control = speak(vocoder, [shuffled(units, one["id"], 1)])[0]
        assert one["mcd_shuffled_units"] == pytest.approx(measure(control, original)["mcd"], rel=1e-3)
        assert (folder / "out" / one["spectrogram"]).stat().st_size > 10_000


def test_a_segment_is_also_spoken_in_another_voice(run, tmp_path):
    folder, _ = run
    corpus = load_corpus(folder / "segments", "dev")
    units = units_of(read_units(folder / "units"), corpus)
    vocoder = tiny_vocoder(speakers=["dev_speaker_0", "dev_speaker_1"])
    others = ["dev_speaker_1", "dev_speaker_0"] * 2
    rows = resynthesise(vocoder, corpus, units, tmp_path, others=others, seed=1, batch_seconds=8.0)
    for one, own, other in zip(rows, [0, 1, 0, 1], [1, 0, 1, 0], strict=True):
        assert (one["speaker_id"], one["other_voice"]) == (f"dev_speaker_{own}", f"dev_speaker_{other}")
        for side, voice in (("resynthesis", own), ("in_other_voice", other)):
            spoken = speak(vocoder, [one["units"]], [voice])[0]
            np.testing.assert_allclose(soundfile.read(tmp_path / one[side])[0], spoken.clip(-1, 1), atol=1 / 32768)
    compare_voices(rows, corpus, tmp_path, seed=1)
    write_page(tmp_path / "index.html", "Title", {}, summarise(rows, num_bootstrap=0, seed=0), rows)
    page = (tmp_path / "index.html").read_text()
    assert "in the voice of dev_speaker_1" in page and "audio/other_0003.wav" in page


def test_segments_without_units_are_named(run):
    folder, _ = run
    corpus = load_corpus(folder / "segments", "train")
    units = read_units(folder / "units")
    rows = units.rows.filter([name != "train_2" for name in units.rows["id"].to_pylist()])
    with pytest.raises(
        UserError, match="1 of 6 segments have no units, such as train_2; the units are of another corpus"
    ):
        units_of(type(units)(rows, units.identity), corpus)


def test_a_dead_vocoder_is_named_and_not_judged():
    original = babble(1.0, 0)
    for dead, what in ((np.zeros(15_680), "is silent"), (np.full(15_680, np.nan), "has 15680 samples that are NaN")):
        with pytest.raises(UserError, match=f"segment s7 cannot be measured: the prediction {what}"):
            measure_segment("s7", original, dead, original)


def test_summary_is_of_the_rows_alone(run):
    _, rows = run
    results = summarise(json.loads(json.dumps(rows)), num_bootstrap=50, seed=0)
    assert results == json.loads(json.dumps(results))
    for name in ("snr", "mcd", "mcd_shuffled_units", "length_ratio", "voicing_error"):
        assert results[name] == pytest.approx(np.mean([one[name] for one in rows]))
        low, high = results[f"{name}_interval"]
        assert min(one[name] for one in rows) <= low <= results[name] <= high <= max(one[name] for one in rows)
    assert results["mcd_to_shuffled"] == results["mcd"] / results["mcd_shuffled_units"]
    assert results["sample"]["segments"] == 4 and results["sample"]["frames"] == sum(len(one["units"]) for one in rows)


def test_bitrate_with_and_without_repetitions():
    results = summarise([row(0), row(1)], num_bootstrap=0, seed=0)
    shares = np.array([2, 1, 3, 1]) / 7
    assert results["bitrate"] == pytest.approx(14 / 0.28 * -(shares * np.log2(shares)).sum())
    assert results["bitrate_deduplicated"] == pytest.approx(8 / 0.28 * 2)


def test_ranges_say_whether_they_are_reached_and_by_whom():
    good = summarise([row(mcd=4.0)], num_bootstrap=0, seed=0)["good"]
    assert {name: good[name]["reached"] for name in ("mcd", "mcd_to_shuffled", "snr", "si_sdr", "length_ratio")} == {
        "mcd": True,
        "mcd_to_shuffled": True,
        "snr": False,
        "si_sdr": None,
        "length_ratio": True,
    }
    assert all(figure["source"] for figure in good.values())
    good = summarise([row(mcd=7.9, length_ratio=1.05, log_f0_rmse=None)], num_bootstrap=0, seed=0)["good"]
    assert {
        name: good[name]["reached"] for name in ("mcd", "mcd_to_shuffled", "length_ratio", "log_f0_rmse", "cer")
    } == {"mcd": False, "mcd_to_shuffled": False, "length_ratio": False, "log_f0_rmse": None, "cer": None}


def test_figures_that_are_missing_say_why():
    results = summarise([row(0, log_f0_rmse=None), row(1)], num_bootstrap=10, seed=0)
    assert results["log_f0_rmse"] == 0.2 and results["log_f0_rmse_interval"] is None
    assert results["missing"]["log_f0_rmse"] == "1 of 2 segments have no frame that is voiced on both sides"
    assert results["cer"] is results["wer_original"] is results["cer_interval"] is None
    assert results["missing"]["cer"] == results["missing"]["wer_original"] == "no recogniser was given"


def in_other_voice(index: int, target: float, source: float | None) -> dict:
    side = None if source is None else float(target > source)
    figures = dict(zip(OTHER_VOICE, (target, source, side, 0.9, 0.5), strict=True))
    return row(index, other_voice="b", in_other_voice=f"audio/other_{index:04d}.wav", **figures)


def test_figures_of_other_voices_are_there_where_segments_were_spoken_in_them():
    results = summarise([in_other_voice(0, 0.8, 0.6), in_other_voice(1, 0.5, 0.7)], num_bootstrap=50, seed=0)
    assert results["voice_on_target_side"] == 0.5 and results["voice_on_target_side_interval"] == [0, 1]
    assert results["voice_similarity_target"] == pytest.approx(0.65)
    assert set(OTHER_VOICE) <= {one["name"] for one in figure_rows(results)} and not set(OTHER_VOICE) & set(
        results["missing"]
    )
    assert not set(OTHER_VOICE) & set(summarise([row()], num_bootstrap=0, seed=0))


def test_a_speaker_with_a_single_segment_is_said_to_have_no_side():
    results = summarise([in_other_voice(0, 0.8, None), in_other_voice(1, 0.8, 0.7)], num_bootstrap=0, seed=0)
    assert results["voice_on_target_side"] == 1
    assert results["missing"]["voice_on_target_side"].startswith("1 of 2 segments are silent, or their speakers have")


def test_error_rates_by_the_text_of_the_corpus():
    rows = [
        row(i, text=text, heard_original=original, heard_resynthesis=resynthesis)
        for i, (text, original, resynthesis) in enumerate(
            [("the red cat", "the red cat", "the bed cat"), ("blue moon", "blue noon", "noon")]
        )
    ]
    results = summarise(rows, num_bootstrap=20, seed=0)
    of_resynthesis, of_original = (
        score([one[f"heard_{side}"] for one in rows], [one["text"] for one in rows], num_bootstrap=20, seed=0)
        for side in ("resynthesis", "original")
    )
    assert (results["cer"], results["wer"]) == (of_resynthesis["cer"], of_resynthesis["wer"])
    assert (results["cer_original"], results["wer_original"]) == (of_original["cer"], 0.2)
    assert results["cer_interval"] == of_resynthesis["cer_interval"]
    assert results["good"]["cer"]["high"] == pytest.approx(0.1 + results["cer_original"])
    assert "cer" not in results["missing"]


def test_error_rates_without_text_are_by_what_was_heard_of_the_original():
    rows = [
        row(0, text="the red cat", heard_original="the bed cat", heard_resynthesis="the bed cat"),
        row(1, heard_original="blue moon", heard_resynthesis="blue noon"),
    ]
    results = summarise(rows, num_bootstrap=0, seed=0)
    assert results["wer"] == 0.2 and results["cer"] == pytest.approx(1 / 20)
    assert results["cer_original"] is results["wer_original"] is None
    assert "the reference is the recogniser's transcript of the originals" in results["missing"]["cer_original"]
    assert results["good"]["cer"]["high"] == pytest.approx(0.1)


def test_figures_are_shown_in_their_units():
    assert [shown(5.123, "dB"), shown(-0.01, "dB"), shown(148.3, "bit/s"), shown(0.5678), shown(None, "dB")] == [
        "5.1 dB",
        "0.0 dB",
        "148 bit/s",
        "0.568",
        "-",
    ]
    by_name = {shown_row["name"]: shown_row for shown_row in figure_rows(summarise([row(0), row(1)], 100, 0))}
    assert by_name["mcd"] | {"source": ""} == {
        "name": "mcd",
        "value": "5.5 dB",
        "interval": "5.0 to 6.0",
        "good": "<= 6",
        "reached": "yes",
        "source": "",
    }
    assert by_name["length_ratio"]["good"] == "0.98 to 1.02" and by_name["snr"]["good"] == ">= 5"
    assert table(summarise([row()], 0, 0)).row_count == len(by_name)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.found = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_the_page_plays_what_lies_beside_it(run):
    folder, rows = run
    results = summarise(rows, num_bootstrap=0, seed=0)
    write_page(folder / "out" / "index.html", "Title", {"units": str(IDENTITY)}, results, rows)
    page = (folder / "out" / "index.html").read_text()
    links = Links()
    links.feed(page)
    assert len(links.found) == 3 * len(rows) and all((folder / "out" / link).is_file() for link in links.found)
    assert not re.search(r"https?:|//", page.replace("arXiv", "")), "the page must work without a network"
    assert all(one["id"] in page for one in rows) and shown(results["mcd"], "dB") in page


def test_the_page_shows_text_as_text(tmp_path):
    rows = [row(id=f"\u202e{HOSTILE}", text=HOSTILE, heard_original=HOSTILE, heard_resynthesis="")]
    write_page(tmp_path / "index.html", HOSTILE, {HOSTILE: HOSTILE}, summarise(rows, 0, 0), rows)
    page = (tmp_path / "index.html").read_text()
    links = Links()
    links.feed(page)
    assert "script" not in links.tags and page.count("&lt;script&gt;") >= 7 and "\u202e" not in page
    assert "(nothing heard)" in page


def test_spectrograms_take_any_name_and_digital_silence(tmp_path):
    corpus_name, silent = HOSTILE, np.concatenate([np.zeros(16_000), babble(0.5, 0)]).astype(np.float32)
    plot_spectrograms(tmp_path / "x.png", {"original": silent, "resynthesis": silent[:9000]}, corpus_name)
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_the_pitch_of_the_recording_is_heard_in_what_is_spoken():
    vocoder, recordings = tiny_vocoder(use_f0=True), [babble(1.0, 0), babble(0.6, 1)]
    sequences = [[1, 2] * 24, [3] * 29]
    pitches = pitches_of(vocoder, recordings, sequences)
    assert [len(pitch) for pitch in pitches] == [48, 29] and any((pitch > 0).any() for pitch in pitches)
    together = speak(vocoder, sequences, pitches=pitches)
    for wave, units, pitch in zip(together, sequences, pitches, strict=True):
        np.testing.assert_allclose(wave, speak(vocoder, [units], pitches=[pitch])[0], atol=1e-6)
        assert np.abs(wave - speak(vocoder, [units], pitches=[2 * pitch])[0]).max() > 1e-4
    assert pitches_of(tiny_vocoder(), recordings, sequences) is None


def test_ranges_are_shown_in_three_digits():
    ranges = ((0.98, 1.02), (None, 0.1491803), (5.0, None), (None, None))
    assert [shown_range({"low": low, "high": high}) for low, high in ranges] == [
        "0.98 to 1.02",
        "<= 0.149",
        ">= 5",
        "-",
    ]
