"""Transcripts against references: what is matched, what is told, what is counted, what is shown."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from hf_components.runtime.errors import UserError
from hf_components.scoring.comparison import distinct_names, evaluate, plot_evaluation, tables
from hf_components.scoring.transcripts import References, align, read_transcripts, references_of_manifest

pytestmark = pytest.mark.unit

REFERENCES = References(
    ["u1", "u2", "u3", "u4"],
    ["the red cat", "a dog", "one two three", "um"],
    ["c1", "c1", "c2", "c3"],
    ["12+", "12+", "5-7", "5-7"],
)
BASE = ["the red cat cat cat cat cat", "a dog", "1 2 4", ""]
OTHER = ["the cat", "a dog", "one two three", ""]


def lines(path, *rows: dict):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def transcript(name: str, text: str = "") -> dict:
    return {"utterance_id": name, "orthographic_text": text}


@pytest.fixture(scope="module")
def result():
    return evaluate({"base": BASE, "other": OTHER}, REFERENCES, num_bootstrap=100, seed=0, worst=2)


def test_every_rate_overall_and_per_group(result):
    figures, _ = result
    base = figures["systems"]["base"]
    # "one two three" is one number for the normaliser, 123, and "1 2 4" is three
    assert (base["reference_words"], base["insertions"], base["substitutions"]) == (6, 6, 1)
    assert (base["wer"], base["wer_clipped"]) == (7 / 6, 4 / 6)
    assert base["per_group"]["12+"]["wer"] == 4 / 5
    assert base["per_group"]["12+"]["wer_interval"] is None  # one child
    for rate in ("wer", "wer_clipped", "cer", "cer_clipped"):
        low, high = base[f"{rate}_interval"]
        assert 0 <= low <= base[rate] <= high
    assert figures["references"] == {"utterances": 4, "speakers": 3, "groups": {"5-7": 2, "12+": 2}}


def test_intervals_are_over_utterances_where_a_speaker_is_unknown():
    for speakers, known in ((["unknown"] * 4, None), (["c1", "c1", "unknown", "c3"], 2)):
        references = dataclasses.replace(REFERENCES, speakers=speakers)
        figures, _ = evaluate({"base": BASE, "other": OTHER}, references, num_bootstrap=100, seed=0, worst=2)
        assert figures["references"]["speakers"] == known and figures["bootstrap"]["unit"] == "utterance"
        assert figures["systems"]["base"]["wer_interval"] is not None
        (table, *_, differences) = tables(figures)
        assert "bootstrap over utterances" in table.caption and "over utterances" in differences.caption
        assert set(table.columns[2].cells) == {"unknown"}


def test_every_system_is_compared_with_those_before_it(result):
    (line,) = result[0]["differences"]
    assert (line["a"], line["b"], line["units"]) == ("base", "other", 3)
    assert line["difference"] == pytest.approx(1 / 6 - 7 / 6)
    assert line["interval"][0] <= line["difference"] <= line["interval"][1]
    three = evaluate({"x": BASE, "y": OTHER, "z": BASE}, REFERENCES, num_bootstrap=0, seed=0, worst=0)[0][
        "differences"
    ]
    assert [(line["a"], line["b"]) for line in three] == [("x", "y"), ("x", "z"), ("y", "z")]


def test_utterances_with_most_errors_are_listed_and_all_are_kept(result):
    figures, utterances = result
    assert figures["systems"]["base"]["worst"] == [
        {
            "id": "u1",
            "group": "12+",
            "errors": 4,
            "reference_words": 3,
            "reference": "the red cat",
            "prediction": BASE[0],
        },
        {
            "id": "u3",
            "group": "5-7",
            "errors": 3,
            "reference_words": 1,
            "reference": "one two three",
            "prediction": "1 2 4",
        },
    ]
    assert [row["id"] for row in figures["systems"]["other"]["worst"]] == ["u1"]  # the others have no errors
    assert [row["id"] for row in utterances] == ["u1", "u3", "u2", "u4"]
    assert utterances[0] == {
        "id": "u1",
        "speaker_id": "c1",
        "group": "12+",
        "reference": "the red cat",
        "errors": {"base": 4, "other": 1},
        "predictions": {"base": BASE[0], "other": "the cat"},
    }
    json.dumps(result)


def test_tables_show_groups_by_age_and_text_as_it_is(result):
    console = Console(record=True, width=160)
    shown = evaluate({"a[b]": ["[x] the red cat", "", "", ""]}, REFERENCES, num_bootstrap=10, seed=0, worst=3)[0]
    console.print(*tables(result[0]), *tables(shown))
    text = console.export_text()
    assert text.index("5-7") < text.index("12+") < text.index("all")
    assert "116.7" in text and "most errors" in text and "4 of 3" in text
    assert "a[b]: error rates" in text and "[x] the red cat" not in text  # no error, not listed
    assert "Difference in WER" in text


def test_plot_is_a_picture(result, tmp_path):
    plot_evaluation(tmp_path / "a.png", result[0])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_counts_as_empty_and_what_is_unknown_is_left_out(caplog):
    texts, counts = align("a.jsonl", {"u3": "x", "u1": "the red cat", "z": "?", "u4": "y"}, REFERENCES)
    assert (texts, counts) == (["the red cat", "", "x", "y"], {"missing": 1, "unknown": 1})
    assert "a.jsonl lacks 1 of 4 utterances, which count as empty: u2" in caplog.text
    assert "a.jsonl has 1 ids that are not among the references and are left out: z" in caplog.text
    message = "no transcript of any of the 4 utterances, such as u1; it holds z: does it belong to another split"
    with pytest.raises(UserError, match=message):
        align("a.jsonl", {"z": ""}, REFERENCES)


def test_a_doubled_id_is_named_with_its_lines(tmp_path):
    file = lines(tmp_path / "a.jsonl", transcript("u1"), transcript("u2", "b"), transcript("u1", "c"))
    with pytest.raises(UserError, match="a.jsonl, line 3: utterance_id u1 is already on line 1"):
        read_transcripts(file)
    assert read_transcripts(lines(tmp_path / "a.jsonl", transcript("u2", "b"), transcript("u1"))) == {
        "u2": "b",
        "u1": "",
    }
    with pytest.raises(UserError, match="line 1: orthographic_text must be a string, got None"):
        read_transcripts(lines(tmp_path / "b.jsonl", {"utterance_id": "u1", "orthographic_text": None}))


def test_references_of_a_manifest(tmp_path, caplog):
    rows = [
        {"utterance_id": "u1", "child_id": "c1", "age_bucket": "5-7", "orthographic_text": "(um) Hi"},
        {"utterance_id": "u2", "child_id": "c2", "age_bucket": None, "orthographic_text": "b"},
        {"utterance_id": "u3", "child_id": "c2"},
    ]
    found = references_of_manifest(lines(tmp_path / "a.jsonl", *rows))
    assert (found.ids, found.texts, found.speakers, found.groups) == (
        ["u1", "u2"],
        ["(um) Hi", "b"],
        ["c1", "c2"],
        ["5-7", "unknown"],
    )
    assert "1 rows of" in caplog.text and "are not scored: line 3" in caplog.text
    with pytest.raises(UserError, match="has no row with orthographic_text to score against; give references"):
        references_of_manifest(lines(tmp_path / "b.jsonl", rows[2]))
    with pytest.raises(UserError, match="line 2: utterance_id u1 is already on line 1"):
        references_of_manifest(lines(tmp_path / "c.jsonl", rows[0], rows[0]))
    with pytest.raises(UserError, match=r"line 1: age_bucket: expected a string or a number, got \[5\]"):
        references_of_manifest(lines(tmp_path / "d.jsonl", rows[0] | {"age_bucket": [5]}))


def test_references_are_plain_text_and_a_change_of_their_score_is_told(tmp_path, caplog):
    texts = ["I don\u2019t", "it&#39;s", "x\u200by", "caf\u00e9", "\u201cyes\u201d \u2026 it's"]
    rows = [
        {"utterance_id": f"u{number}", "child_id": "c", "age_bucket": number, "orthographic_text": text}
        for number, text in enumerate(texts)
    ]
    found = references_of_manifest(lines(tmp_path / "a.jsonl", *rows))
    assert found.texts == ["I don't", "it's", "xy", "caf\u00e9", "\u201cyes\u201d \u2026 it's"]
    assert found.groups == ["0", "1", "2", "3", "4"]
    assert "3 references of" in caplog.text and "as plain text" in caplog.text and "line 1, 2, 3" in caplog.text


def test_transcripts_that_are_not_plain_are_told_and_stay(tmp_path, caplog):
    texts = {"u0": "I don\u2019t", "u1": "it's", "u2": "\u201ccafe\u0301\u201d \u2026", "u3": "x\u200by"}
    rows = [{"utterance_id": name, "orthographic_text": text} for name, text in texts.items()]
    assert read_transcripts(lines(tmp_path / "a.jsonl", *rows)) == texts
    assert "2 transcripts of" in caplog.text and "count as errors, such as u0; write them" in caplog.text


def test_names_are_as_short_as_tells_them_apart():
    assert distinct_names(["runs/a.jsonl", "b.jsonl"]) == ["a", "b"]
    assert distinct_names(["x/one/p.jsonl", "x/two/p.jsonl"]) == ["one/p", "two/p"]
    assert distinct_names([]) == []
    with pytest.raises(UserError, match="the same file is given twice"):
        distinct_names(["a.jsonl", "a.jsonl"])


def test_intervals_hold_the_rates_of_a_random_corpus():
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["cat", "dog", "sun"], 5)) for _ in range(60)]
    heard = [" ".join(word if rng.random() > 0.2 else "moon" for word in text.split()) for text in words]
    references = References([f"u{i}" for i in range(60)], words, [f"c{i % 10}" for i in range(60)], ["x"] * 60)
    figures, _ = evaluate({"a": heard}, references, num_bootstrap=500, seed=1, worst=0)
    low, high = figures["systems"]["a"]["wer_interval"]
    assert low < figures["systems"]["a"]["wer"] < high and 0.05 < high - low < 0.25


@pytest.mark.parametrize(
    ("language", "told"), [("zh", True), ("Thai", True), ("en", False), (None, False), ("de", False)]
)
def test_words_of_a_script_without_spaces_are_warned_of(caplog, language, told):
    references = References(["a"], ["\u4f60\u597d"], ["s"], ["g"])
    evaluate({"x": ["\u4f60"]}, references, num_bootstrap=0, seed=0, worst=0, language=language)
    assert ("without spaces" in caplog.text) == told
