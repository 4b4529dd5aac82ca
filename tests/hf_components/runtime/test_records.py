"""Records that are read back: their form, and folders whose files must be those that were written."""

import pytest

from hf_components.runtime.errors import UserError
from hf_components.runtime.records import check_files, describe_files, read_record

pytestmark = pytest.mark.unit
FORM = {"step": int, "loss?": (float, int, None), "names": [str], "of": {str: {"n": int}}, "any?": object}
GOOD = '{"step": 4, "loss": 0.5, "names": ["a"], "of": {"x": {"n": 1}}, "more": 1}'
DAMAGE = {
    "empty": b"",
    "cut": GOOD[:20].encode(),
    "zeros": bytes(40),
    "no_utf8": b'{"step": "\xff"}',
    "utf16": GOOD.encode("utf-16"),
    "null": b"null",
    "list": b"[]",
    "number": b"7",
    "deep": b"[" * 100_000,
    "half_surrogate": GOOD.replace('"a"', r'"\ud800"').encode(),
    "missing": b'{"names": [], "of": {}}',
    "text_for_number": GOOD.replace("4", '"4"').encode(),
    "bool_for_number": GOOD.replace("4", "true").encode(),
    "null_for_number": GOOD.replace("4", "null").encode(),
    "float_for_int": GOOD.replace("4", "4.5").encode(),
    "nan": GOOD.replace("0.5", "NaN").encode(),
    "infinity": GOOD.replace("0.5", "1e999").encode(),
    "list_for_object": GOOD.replace('{"x": {"n": 1}}', "[]").encode(),
    "text_for_list": GOOD.replace('["a"]', '"a"').encode(),
    "number_in_list": GOOD.replace('["a"]', '["a", 1]').encode(),
    "in_an_object": GOOD.replace('{"n": 1}', '{"n": "1"}').encode(),
    "long_number": GOOD.replace("4", "4" * 5000).encode(),
}


def test_a_good_record_is_returned(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + GOOD, encoding="utf-8")
    record = read_record(tmp_path / "a.json", FORM, "delete it")
    assert record["step"] == 4 and record["more"] == 1


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_named_with_a_remedy(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json is damaged: .*; delete it$"):
        read_record(tmp_path / "a.json", FORM, "delete it")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_record_that_cannot_be_read_is_named(tmp_path, make):
    make(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"a\.json cannot be read: .*; delete it$"):
        read_record(tmp_path / "a.json", FORM, "delete it")


def test_files_as_written_are_not_read_again(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"content")
    described = describe_files(tmp_path)
    assert set(described) == {"a.parquet"}
    monkeypatch.setattr("hf_components.runtime.records.file_digest", lambda path: pytest.fail("it was read"))
    check_files(tmp_path, described, "make it again")


def test_a_touched_file_is_read_and_found_the_same(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"content")
    described = describe_files(tmp_path)
    (tmp_path / "a.parquet").touch()
    check_files(tmp_path, described, "make it again")
    (tmp_path / "a.parquet").write_bytes(b"Content")
    with pytest.raises(UserError, match="a.parquet has another content; make it again"):
        check_files(tmp_path, described, "make it again")
