"""Records that are read back: their form, and folders whose files must be those that were written."""

import hashlib
import json
import os

import pytest

from hf_components.runtime import records
from hf_components.runtime.errors import UserError
from hf_components.runtime.records import check_files, describe_files, read_record, sealed

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


def test_every_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"content")
    described = describe_files(tmp_path)
    assert set(described) == {"a.parquet"}
    read = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(file.name) or digest(file, name))
    records._digest.cache_clear()
    for _ in range(2):
        check_files(tmp_path, described, "make it again")
    assert read == [str(tmp_path / "a.parquet")]


def test_a_decayed_file_is_found_though_size_and_time_are_the_same(tmp_path):
    file = tmp_path / "a.parquet"
    file.write_bytes(b"content")
    described = describe_files(tmp_path)
    time = file.stat().st_mtime_ns
    file.write_bytes(b"Content")
    os.utime(file, ns=(time, time))
    with pytest.raises(UserError, match=r"a.parquet has another content; make it again"):
        check_files(tmp_path, described, "make it again")


def test_what_earlier_versions_recorded_is_checked_too(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"content")
    described = {name: {**was, "changed": [1, 2]} for name, was in describe_files(tmp_path).items()}
    check_files(tmp_path, described, "make it again")


def test_files_for_people_may_be_edited(tmp_path):
    (tmp_path / "README.md").write_text("a card")
    described = describe_files(tmp_path)
    (tmp_path / "README.md").write_text("a better card")
    check_files(tmp_path, described, "make it again")


def test_any_change_of_a_sealed_record_is_found(tmp_path):
    file = tmp_path / "a.json"
    record = sealed({"wer": 0.25, "names": ["a"], "of": {"x": None}})
    file.write_text(json.dumps(record))
    assert read_record(file, {"wer": float}, "make it again") == record
    assert sealed(record) == record
    for changed in ({"wer": 0.26}, {"names": ["b"]}, {"of": {"x": 1}}, {"more": 1}, {"seal": "0"}, {"seal": None}):
        file.write_text(json.dumps(record | changed))
        with pytest.raises(UserError, match=r"a.json is damaged, or was edited: .*; make it again"):
            read_record(file, {"wer": float}, "make it again")


def test_a_record_without_a_seal_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"wer": 0.25}')
    assert read_record(tmp_path / "a.json", {"wer": float}, "make it again") == {"wer": 0.25}
