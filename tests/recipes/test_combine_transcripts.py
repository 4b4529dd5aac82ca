"""A vote over the transcripts of several systems, in words and in IPA."""

import json

import pytest

from hf_components.runtime.errors import UserError
from recipes import combine_transcripts

pytestmark = pytest.mark.integration


def write(folder, name: str, texts: list[str], field: str = "orthographic_text") -> str:
    lines = [json.dumps({"utterance_id": f"u{i}", field: text}) + "\n" for i, text in enumerate(texts)]
    (folder / name).write_text("".join(lines))
    return str(folder / name)


def combined(folder, files: list[str], *flags: str) -> list[dict]:
    output = folder / "out" / "combined.jsonl"
    combine_transcripts.main(["--predictions", *files, "--output_jsonl", str(output), *flags])
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_most_systems_decide_on_each_word_and_the_first_where_votes_are_equal(tmp_path):
    files = [
        write(tmp_path, "a.jsonl", ["the cat sat", "one"]),
        write(tmp_path, "b.jsonl", ["a cat sat", "two"]),
        write(tmp_path, "c.jsonl", ["the cat sad", "three"]),
    ]
    assert combined(tmp_path, files) == [
        {"utterance_id": "u0", "orthographic_text": "the cat sat"},
        {"utterance_id": "u1", "orthographic_text": "one"},
    ]
    assert combined(tmp_path, files, "--method", "nearest")[0]["orthographic_text"] == "the cat sat"


def test_sounds_are_voted_on_one_by_one(tmp_path):
    spoken = ["k\u00e6t s\u00e6t", "k\u025bt s\u00e6t", "k\u00e6 s\u00e6d"]
    files = [write(tmp_path, f"{i}.jsonl", [text], "phonetic_text") for i, text in enumerate(spoken)]
    (line,) = combined(tmp_path, files, "--target", "phonetic_text")
    assert line == {"utterance_id": "u0", "phonetic_text": "k\u00e6t s\u00e6t"}


def test_mistakes_are_named(tmp_path):
    one = write(tmp_path, "a.jsonl", ["x"])
    with pytest.raises(UserError, match="two files or more, got 1"):
        combined(tmp_path, [one])
    with pytest.raises(UserError, match="same ids; only one of them has u1"):
        combined(tmp_path, [one, write(tmp_path, "b.jsonl", ["x", "y"])])
    with pytest.raises(UserError, match="--output_jsonl .*a.jsonl would replace .*a.jsonl, which is read"):
        combined(tmp_path, [one, one], "--output_jsonl", str(one))
    with pytest.raises(UserError, match="line 1, has no phonetic_text"):
        combined(tmp_path, [one, one], "--target", "phonetic_text")
