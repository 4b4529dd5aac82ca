"""Filtering by another model's transcripts: what is dropped, what is kept, and what is said."""

import json

import jiwer
import pytest
from tiny_speech import rows
from whisper.normalizers import EnglishTextNormalizer

from hf_components.runtime.errors import UserError
from hf_components.scoring import read_transcripts
from hf_components.training.filtering import FilterArguments, filter_by_transcripts, parse_thresholds

pytestmark = pytest.mark.unit


def write(path, texts: dict[str, str]):
    rows_of_file = [{"utterance_id": name, "orthographic_text": text} for name, text in texts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of_file))
    return path


@pytest.fixture(scope="module")
def corpus():
    return rows(9)


@pytest.fixture
def transcripts(tmp_path, corpus):
    """Right, half right, all wrong and far too long ones in turn."""
    texts = {}
    for i, (name, text) in enumerate(zip(corpus["id"], corpus["text"], strict=True)):
        words = text.split()
        texts[name] = [text.upper() + ".", " ".join(words[:-1] + ["wrong"]), "all wrong here and far too long"][i % 3]
    return write(tmp_path / "transcripts.jsonl", texts)


def wers(corpus, transcripts) -> dict[str, float]:
    normalise, written = EnglishTextNormalizer(), read_transcripts(transcripts)
    return {row["id"]: jiwer.wer(normalise(row["text"]), normalise(written[row["id"]])) for row in corpus}


def test_utterances_above_the_threshold_are_dropped_and_listed(corpus, transcripts):
    kept, dropped = filter_by_transcripts(corpus, transcripts, "0.5")
    expected = wers(corpus, transcripts)
    assert kept["id"][:] == [name for name, wer in expected.items() if wer <= 0.5]
    above = {name: wer for name, wer in expected.items() if wer > 0.5}
    assert {row["id"]: row["wer"] for row in dropped} == pytest.approx(above, abs=1e-4)
    assert 0 < len(dropped) < 9 and {row["threshold"] for row in dropped} == {0.5}
    assert all(row["transcript"] == read_transcripts(transcripts)[row["id"]] for row in dropped)


def test_thresholds_per_group(corpus, transcripts, caplog):
    with caplog.at_level("INFO"):
        kept, dropped = filter_by_transcripts(corpus, transcripts, '{"high": 1e9, "default": 0.0}')
    assert all(row["id"] in kept["id"][:] for row in corpus if row["group"] == "high")
    assert {(row["group"], row["threshold"]) for row in dropped} == {("middle", 0.0)}  # the rows of "low" are right
    assert "middle: 3 of 3 utterances have a WER above 0" in caplog.text and "low: 0 of 3" in caplog.text


def test_utterances_without_transcript_are_kept_and_told(corpus, tmp_path, caplog):
    file = write(tmp_path / "some.jsonl", {"u1": "nothing of the kind", "elsewhere": "x"})
    kept, dropped = filter_by_transcripts(corpus, file, "0.1")
    assert [row["id"] for row in dropped] == ["u1"] and len(kept) == 8
    assert "8 of 9 training utterances have no transcript" in caplog.text


def test_nothing_dropped_leaves_all(corpus, transcripts):
    kept, dropped = filter_by_transcripts(corpus, transcripts, "1000")
    assert kept["id"][:] == corpus["id"][:] and dropped == []


@pytest.mark.parametrize(
    ("text", "thresholds"),
    [("0.5", {"default": 0.5}), ("1", {"default": 1.0}), ('{"3-4": 1, "default": 0.5}', {"3-4": 1.0, "default": 0.5})],
)
def test_thresholds_are_a_number_or_json(text, thresholds):
    assert parse_thresholds(text) == thresholds


@pytest.mark.parametrize("text", ["half", "-1", "{}", '{"3-4": "much"}', "[1]", "NaN"])
def test_other_thresholds_are_refused(text):
    with pytest.raises(UserError, match="filter_max_wer must be a number of at least 0 or a JSON object"):
        FilterArguments(filter_transcripts="x", filter_max_wer=text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{\n", "line 1: not JSON"),
        ('{"utterance_id": "u1"}\n', "line 1: orthographic_text must be a string, got None"),
        ('{"utterance_id": "u1", "orthographic_text": "a"}\n' * 2, "line 2: utterance_id u1 is already on line 1"),
        (
            '{"utterance_id": "other", "orthographic_text": "a"}\n',
            "has no transcript of any of the 9 training utterances",
        ),
        (
            "".join(f'{{"utterance_id": "u{i}", "orthographic_text": "no"}}\n' for i in range(9)),
            "no utterance is left",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(corpus, tmp_path, lines, message):
    (tmp_path / "t.jsonl").write_text(lines)
    with pytest.raises(UserError, match=message):
        filter_by_transcripts(corpus, tmp_path / "t.jsonl", "0.5")


def test_groups_are_checked(corpus, transcripts, tmp_path):
    with pytest.raises(UserError, match="names the group hihg, but the training data have high, low, middle"):
        filter_by_transcripts(corpus, transcripts, '{"hihg": 1, "default": 1}')
    with pytest.raises(UserError, match="no threshold for the group low; add it, or one for default"):
        filter_by_transcripts(corpus, transcripts, '{"high": 1, "middle": 1}')
    with pytest.raises(UserError, match=f"cannot read {tmp_path / 'none'}"):
        read_transcripts(tmp_path / "none")
    with pytest.raises(UserError, match="go together, got x and None"):
        FilterArguments(filter_transcripts="x")
