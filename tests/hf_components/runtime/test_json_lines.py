"""JSON lines as other programs write them, and lines that are none."""

import gzip
import json

import pytest

from hf_components.runtime.errors import UserError
from hf_components.runtime.json_lines import as_label, id_field, label_field, read_by_id, read_json_lines, text_field

pytestmark = pytest.mark.unit


def test_blank_lines_byte_order_mark_and_crlf_are_allowed(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa9\xe2\x80\xa8"}\r\n\r\n  \n{"a": 2}')
    assert list(read_json_lines(tmp_path / "a.jsonl")) == [(1, {"a": "é\u2028"}), (4, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": "cut', "line 2: not JSON .*was the file cut short"),
        (b'{"a": "\xff"}', "line 2: not JSON .*utf-8"),
        (b"[" * 100_000, "line 2: not JSON"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "line 2: not JSON"),
        (b'{"a": "\\ud800"}', "line 2: not JSON .*surrogates"),
        (b"[1]", r"line 2: expected an object, got \[1\]"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "line 2: the key 'c' is given twice; leave one out"),
        (bytes(50), "line 2: not JSON"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" + line)
    with pytest.raises(UserError, match=message):
        list(read_json_lines(tmp_path / "a.jsonl"))


ROWS = '{"a": "\u00e9", "b": 1}\n{"a": "y", "b": 2}\n'


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        (ROWS.encode("utf-16"), "UTF-16.*iconv"),
        (ROWS.encode("utf-16-be"), "UTF-16.*iconv"),
        (ROWS.encode("latin-1"), "not UTF-8.*iconv"),
        (gzip.compress(ROWS.encode(), mtime=0), "gunzip"),
        (b"PK\3\4workbook", "save it as CSV"),
        (b'[{"a": 1},\n {"a": 2}]', "jq -c '.\\[\\]'"),
        (b'\n[\n {"a": 1}\n]', "jq -c '.\\[\\]'"),
        (b'{\n "a": 1\n}\n', r"jq -c \."),
        (b"{'a': 1}\n", "json.dumps"),
        (bytes(50), "begins with zeros"),
        (b'{"a": 1},\n{"a": 2},\n', "commas"),
        (b'{"a": 1}\r{"a": 2}\r', "carriage returns"),
        (b"\xef\xbb\xbfa,b\n1,2\n", "pandas"),
        (b"a\tb\n1\t2\n", "pandas"),
        (b'"a";"b"\r\n1;2\r\n', "pandas"),
        (b"hello\n", "was the file cut short"),
    ],
)
def test_what_a_file_is_instead_and_how_it_becomes_json_lines(tmp_path, content, remedy):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=f"a.jsonl, line .*{remedy}"):
        list(read_json_lines(tmp_path / "a.jsonl"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read .*a.jsonl: No such file"):
        list(read_json_lines(tmp_path / "a.jsonl"))


def test_a_field_must_hold_text():
    assert text_field({"a": ""}, "a", "f", 3) == ""
    with pytest.raises(UserError, match="f, line 3: a must be a string, got None; the line has b"):
        text_field({"b": 1}, "a", "f", 3)


def test_ids_lose_white_space_and_may_be_integers(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"utterance_id": " a "}\n\n{"utterance_id": 7}\n')
    assert [(line, name) for line, name, _ in read_by_id(tmp_path / "a.jsonl")] == [(1, "a"), (3, "7")]
    (tmp_path / "a.jsonl").write_text('{"utterance_id": "7 "}\n{"utterance_id": 7}\n')
    with pytest.raises(UserError, match="line 2: utterance_id 7 is already on line 1"):
        list(read_by_id(tmp_path / "a.jsonl"))
    for value in ("", " ", True, 1.5, None):
        with pytest.raises(UserError, match="f, line 3: a must be a string that is not empty, or an integer"):
            id_field({"a": value}, "a", "f", 3)


@pytest.mark.parametrize(
    "value, label",
    [("5-7", "5-7"), (" 5 ", "5"), (5, "5"), (5.0, "5"), (6.5, "6.5"), ("", None), (None, None), (float("nan"), None)],
)
def test_a_label_may_be_a_number(value, label):
    assert as_label(value) == label


@pytest.mark.parametrize("value", [True, ["5"], {"age": 5}])
def test_a_label_of_another_type_is_named(value):
    with pytest.raises(UserError, match="f, line 3: age: expected a string or a number, got"):
        label_field({"age": value}, "age", "f", 3)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_line(tmp_path, end):
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": f"x{end}y"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [row for _, row in read_json_lines(tmp_path / "a.jsonl")] == [{"a": f"x{end}y"}]
