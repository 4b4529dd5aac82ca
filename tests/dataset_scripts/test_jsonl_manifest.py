import hashlib
import json
import logging
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from make_corpus import add_audio, children_corpus, manifest_row, noise, write_manifest

from dataset_scripts import JsonlManifest
from dataset_scripts.jsonl_manifest import JsonlManifestConfig
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import decode
from hf_components.speech.corpus import waveforms

pytestmark = pytest.mark.unit


@pytest.fixture
def root(tmp_path):
    return children_corpus(tmp_path / "corpus")


@pytest.fixture
def build(tmp_path, root):
    def run(num_proc=None, **options):
        where = {} if "samples" in options or "manifest" in options else {"data_dir": str(root)}
        builder = JsonlManifest(cache_dir=tmp_path / "cache", **{"val_ratio": 0.34, **where, **options})
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset().cast_column("audio", datasets.Audio(decode=False)), builder.rejections()

    return run


def rows(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "train.jsonl").read_text().splitlines()]


def kept(corpus: datasets.DatasetDict) -> set[str]:
    return {name for part in corpus.values() for name in part["id"][:]}


def append(root: Path, *lines: str | bytes | dict) -> None:
    with (root / "train.jsonl").open("ab") as file:
        for line in lines:
            line = json.dumps(line) if isinstance(line, dict) else line
            file.write((line if isinstance(line, bytes) else line.encode()) + b"\n")


def test_rows_of_both_splits(build, root):
    corpus, rejected = build()
    assert {split: part.num_rows for split, part in corpus.items()} == {"train": 12, "dev": 6} and not rejected
    assert not set(corpus["train"]["speaker_id"]) & set(corpus["dev"]["speaker_id"])
    assert sorted(set(corpus["dev"]["group"])) == ["5-7", "8-11"]
    row = next(row for part in corpus.values() for row in part if row["id"] == "U_4")
    assert {key: value for key, value in row.items() if key != "audio"} == {
        "id": "U_4",
        "text": "words of U_4",
        "raw_text": "words of U_4",
        "speaker_id": "C_1",
        "group": "8-11",
        "duration": 0.3,
        "source_file": "audio_1/audio/U_4.flac",
        "session_id": "S_C_1",
        "age_bucket": "8-11",
        "phonetic_text": None,
    }
    assert np.array_equal(waveforms([row])[0], decode(root / "audio_1/audio/U_4.flac"))


def test_every_bad_line_is_listed_with_its_number_and_the_others_stay(build, root, tmp_path):
    good = len(rows(root))
    add_audio(tmp_path, "outside")
    for name in ("a", "b", "c"):
        add_audio(root / "audio_0", name)
    soundfile.write(root / "audio_0" / "audio" / "silent.flac", noise(0), 16_000)
    (root / "audio_0" / "audio" / "text.flac").write_text("I am a text file.")
    (root / "audio_1" / "audio" / "link.flac").symlink_to(tmp_path / "nowhere.flac")
    add_audio(root / "audio_1", "differ", seed=1)
    add_audio(root / "audio_2", "differ", seed=2)
    bad = [
        ('{"utterance_id": "cut", "child_id": "C_0", "orthog', "not JSON"),
        ('["a", "list"]', "not a row"),
        (b'{"utterance_id": "\xff"}', "not UTF-8 text"),
        ('{"utterance_id": "\\ud800", "child_id": "C_0", "audio_path": "x"}', "not UTF-8 text"),
        ("[" * 100_000, "not JSON"),
        ({"utterance_id": "x", "audio_path": "audio/x.flac"}, "missing field"),
        (manifest_row("x", " "), "missing field"),
        (manifest_row("x", True), "wrong type"),
        (manifest_row("x", "C_0", age=[5]), "wrong type"),
        (manifest_row("x", "C_0", age=True), "wrong type"),
        (manifest_row("x", "C_0", orthographic_text=["a"]), "wrong type"),
        (manifest_row("x", "C_0", audio_duration_sec="2.0"), "wrong type"),
        (manifest_row("x", "C_0", audio_duration_sec=True), "wrong type"),
        (manifest_row("x", "C_0", audio_path=float("nan")), "missing field"),
        (manifest_row("x", "C_0", audio_duration_sec=10**400), "wrong type"),
        (manifest_row("U_0", "C_0"), "duplicate id"),
        (manifest_row("U_0", "C_1"), "duplicate id"),
        (manifest_row("a", "C_0", md5_hash="0" * 32), "checksum mismatch"),
        (manifest_row("absent", "C_0"), "missing file"),
        (manifest_row("n" * 300, "C_0"), "missing file"),
        (manifest_row("x", "C_0", audio_path=str(tmp_path / "audio" / "outside.flac")), "path outside the corpus"),
        (manifest_row("x", "C_0", audio_path="../../audio/outside.flac"), "path outside the corpus"),
        (manifest_row("x", "C_0", audio_path="audio/../audio/a.flac"), "path outside the corpus"),
        (manifest_row("x", "C_0", audio_path="nul\0.flac"), "path outside the corpus"),
        (manifest_row("x", "C_0", audio_path="..\\..\\audio\\outside.flac"), "path outside the corpus"),
        (manifest_row("x", "C_0", audio_path="%2e%2e/%2e%2e/audio/outside.flac"), "path outside the corpus"),
        (manifest_row("x", "C_0", audio_path="C:\\audio\\outside.flac"), "path outside the corpus"),
        (manifest_row("link", "C_0"), "missing file"),
        (manifest_row("differ", "C_0"), "ambiguous audio"),
        (manifest_row("b", "C_0", orthographic_text=" "), "empty transcript"),
        (manifest_row("c", "C_0", orthographic_text=None), "missing transcript"),
        (manifest_row("silent", "C_0"), "empty audio"),
        (manifest_row("text", "C_0"), "unreadable audio"),
    ]
    append(root, *(line for line, _ in bad))
    for num_proc in (None, 2):
        shutil.rmtree(root.parent / "cache", ignore_errors=True)
        corpus, rejected = build(num_proc=num_proc)
        assert {row["line"]: row["reason"] for row in rejected} == {
            good + 1 + number: reason for number, (_, reason) in enumerate(bad)
        }
        assert all(row["manifest"] == "train.jsonl" and row["detail"] for row in rejected)
        assert sum(part.num_rows for part in corpus.values()) == good  # rows in = rows out + rejected
        assert len(rejected) == len(bad)


def test_a_row_says_of_an_address_a_home_folder_and_a_key_given_twice_what_to_do(build, root):
    twice = json.dumps(manifest_row("a", "C_0")).replace('"child_id"', '"utterance_id": "b", "child_id"')
    append(
        root,
        manifest_row("x", "C_0", audio_path="https://example.org/x.flac"),
        manifest_row("y", "C_0", audio_path="~/y.flac"),
        twice,
    )
    _, rejected = build()
    details = sorted(f"{row['reason']}: {row['detail']}" for row in rejected)
    assert len(details) == 3
    assert details[0] == "key given twice: the key 'utterance_id' is given twice; leave one out"
    assert "missing file: https://example.org/x.flac is an address; download" in details[1]
    assert "missing file: no file at ~/y.flac, where ~ is no home folder" in details[2]


def test_byte_order_mark_carriage_returns_blank_lines_and_a_missing_last_line_end(build, root):
    text = (root / "train.jsonl").read_text()
    expected = kept(build()[0])
    (root / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").rstrip().encode())
    corpus, rejected = build()
    assert not rejected and kept(corpus) == expected
    assert all("\r" not in value for part in corpus.values() for value in part["text"])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"train\.jsonl is empty; no line can be used: each must be a JSON object"),
        (b"\n\r\n", r"train\.jsonl is empty"),
        (b"id,child\nU_0,C_0\n", r"train\.jsonl, line 1: not JSON.*looks like a table.*pandas"),
        (b'\n[\n {"utterance_id": "a"}\n]\n', r"train\.jsonl, line 2: not JSON.*one JSON array"),
        (
            b'{"id": "a", "speaker": "b"}\n',
            "line 1: missing field: utterance_id, .*has id, speaker; .*--fields utterance_id=",
        ),
        ('{"utterance_id": "a"}'.encode("utf-16"), r"train\.jsonl, line 1: not .*iconv -f UTF-16"),
    ],
)
def test_a_file_that_is_no_manifest_stops_with_file_and_line(build, root, content, message):
    (root / "train.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        build()


def test_which_file_is_the_manifest(build, root):
    write_manifest(root / "other.jsonl", rows(root)[:3])
    with pytest.raises(UserError, match=r"several manifests, other\.jsonl, train\.jsonl; say which"):
        build()
    assert kept(build(manifest=str(root / "other.jsonl"))[0]) == {"U_0", "U_1", "U_2"}  # data_dir is its folder
    for path in root.glob("*.jsonl"):
        path.unlink()
    with pytest.raises(UserError, match=r"has no \*\.jsonl file"):
        build()
    with pytest.raises(UserError, match="cannot read the manifest"):
        build(manifest=str(root / "absent.jsonl"))


def test_samples_in_memory_and_a_bad_one_among_them(build, root):
    samples = [*rows(root), manifest_row("gone", "C_0"), "no row", {"utterance_id": object()}]
    corpus, rejected = build(samples=samples, audio_dirs=[str(root / f"audio_{n}") for n in range(3)])
    assert kept(corpus) == {f"U_{n}" for n in range(18)}
    assert sorted((row["manifest"], row["line"], row["reason"]) for row in rejected) == [
        ("samples", 19, "missing file"),
        ("samples", 20, "not a row"),
        ("samples", 21, "not JSON"),
    ]
    assert {row["source_file"] for row in corpus["dev"]} < {f"audio_{n % 3}/audio/U_{n}.flac" for n in range(18)}


def test_audio_is_found_by_path_and_by_bare_name_in_every_folder(build, root, tmp_path):
    listed = [
        manifest_row("deep", "C_0"),
        manifest_row("bare", "C_0"),
        manifest_row("top", "C_1", audio_path="top.flac"),
        manifest_row("linked", "C_1"),
    ]
    add_audio(root / "audio_2", "deep")
    shutil.move(add_audio(root / "audio_1", "bare"), root / "audio_1" / "bare.flac")
    shutil.move(add_audio(root, "top"), root / "top.flac")
    add_audio(tmp_path / "other_disk", "linked")
    (root / "audio_3").symlink_to(tmp_path / "other_disk")
    write_manifest(root / "train.jsonl", listed)
    corpus, rejected = build(val_ratio=0)
    assert not rejected
    assert {row["id"]: row["source_file"] for row in corpus["train"]} == {
        "deep": "audio_2/audio/deep.flac",
        "bare": "audio_1/bare.flac",
        "top": "top.flac",
        "linked": "audio_3/audio/linked.flac",
    }
    corpus, rejected = build(val_ratio=0, audio_dirs=[str(root / "audio_1"), str(root / "audio_3")])
    assert kept(corpus) == {"bare", "linked"}
    assert {row["detail"] for row in rejected} == {
        "no file at audio/deep.flac in any of audio_1, audio_3",
        "no file at top.flac in any of audio_1, audio_3",
    }


def test_copies_that_are_alike_are_told_and_those_that_differ_are_told_apart_by_checksum(build, root, caplog):
    for folder in ("audio_0", "audio_1", "audio_2"):
        add_audio(root / folder, "twice", seed=3)
        path = add_audio(root / folder, "differ", seed=int(folder[-1]))
    append(
        root,
        manifest_row("twice", "C_0"),
        manifest_row("differ", "C_0", md5_hash=hashlib.md5(path.read_bytes()).hexdigest().upper()),
    )
    with caplog.at_level(logging.WARNING):
        corpus, rejected = build(val_ratio=0)
    assert not rejected
    sources = {row["id"]: row["source_file"] for row in corpus["train"]}
    assert (sources["twice"], sources["differ"]) == ("audio_0/audio/twice.flac", "audio_2/audio/differ.flac")
    assert "2 recordings, such as twice, are in several folders" in caplog.text


def test_durations_that_are_not_the_recordings_are_told_and_the_recordings_kept(build, root, caplog):
    add_audio(root / "audio_0", "long", seconds=2)
    append(root, manifest_row("long", "C_0", audio_duration_sec=3.0))
    with caplog.at_level(logging.WARNING):
        corpus, _ = build(val_ratio=0)
    assert corpus["train"].filter(lambda row: row["id"] == "long")["duration"][0] == 2.0
    assert "1 recordings, such as long, are of another duration" in caplog.text


def test_recordings_that_are_silent_too_loud_or_named_twice_are_told(build, root, caplog):
    soundfile.write(root / "audio_0/audio/silent.wav", np.full(8000, 0.25), 16_000)
    soundfile.write(root / "audio_0/audio/loud.wav", 10 * noise(0.5), 16_000, subtype="FLOAT")
    soundfile.write(root / "audio_0/audio/twice.wav", 0.1 * noise(0.5), 16_000)
    files = {"silent": "audio/silent", "loud": "audio/loud", "one": "audio/twice", "two": "./audio/twice"}
    append(root, *(manifest_row(name, "C_0", audio_path=f"{file}.wav") for name, file in files.items()))
    with caplog.at_level(logging.WARNING):
        _, rejected = build()
    told = caplog.text
    assert not rejected
    assert "1 recordings, such as silent, are silent" in told
    assert "1 recordings, such as loud, are louder than full scale" in told
    assert "by one, two; each row gets all of its sound" in told


def test_other_names_of_fields(build, root):
    renamed = [
        {
            {"utterance_id": "id", "child_id": "speaker", "orthographic_text": "sentence"}.get(key, key): value
            for key, value in row.items()
        }
        for row in rows(root)
    ]
    write_manifest(root / "train.jsonl", renamed)
    with pytest.raises(UserError, match="missing field: utterance_id, child_id"):
        build()
    corpus, rejected = build(fields={"utterance_id": "id", "child_id": "speaker", "orthographic_text": "sentence"})
    assert not rejected and corpus["train"].num_rows == 12 and corpus["train"]["text"][0].startswith("words of U_")
    with pytest.raises(UserError, match="fields maps 'speaker', which is none of utterance_id"):
        build(fields={"speaker": "child_id"})


def test_metadata_alone_is_kept_on_request(build, root):
    metadata = [{key: value for key, value in row.items() if key != "orthographic_text"} for row in rows(root)]
    write_manifest(root / "train.jsonl", metadata)
    with pytest.raises(UserError, match="no usable utterance: 18 missing transcript"):
        build()
    corpus, rejected = build(require_text=False, val_ratio=0)
    assert not rejected and set(corpus["train"]["text"]) == {""} and set(corpus["train"]["raw_text"]) == {None}


def test_a_validation_manifest_is_the_split_and_shares_no_child(build, root):
    every = rows(root)
    write_manifest(root / "train.jsonl", every[:12])
    (root / "val").mkdir()
    val = write_manifest(root / "val" / "train.jsonl", every[12:])  # of the same name
    corpus, _ = build(val_manifest=str(val))
    assert set(corpus["dev"]["id"]) == {row["utterance_id"] for row in every[12:]} and corpus["train"].num_rows == 12
    write_manifest(val, every[11:])
    with pytest.raises(UserError, match=r"1 children, such as C_3, are in .*splits must not share a speaker"):
        build(val_manifest=str(val))


def test_a_recorded_split_is_used_again(build, root, tmp_path):
    record = tmp_path / "splits.json"
    sides = {"train": ["C_0", "C_1", "C_2", "C_3", "C_4", "elsewhere"], "dev": ["C_5"]}
    record.write_text(json.dumps({"speakers": sides}))
    corpus, _ = build(split_file=str(record))
    assert set(corpus["dev"]["speaker_id"]) == {"C_5"} and corpus["train"].num_rows == 15
    record.write_text(json.dumps({"speakers": sides | {"train": ["C_0"]}}))
    with pytest.raises(UserError, match="does not say where 4 children of the manifest belong, such as C_1"):
        build(split_file=str(record))


def test_a_given_split_by_recording_may_share_a_child(build, root, tmp_path):
    """Such as the only narrator of a corpus."""
    files = [json.loads(line)["audio_path"] for line in (root / "train.jsonl").read_text().splitlines()]
    record = tmp_path / "splits.json"
    sides = {"train": files[3:], "dev": files[:3]}
    record.write_text(json.dumps({"split_by": "recording", "recordings": sides}))
    corpus, _ = build(split_file=str(record))
    assert corpus["dev"].num_rows == 3 and corpus["train"].num_rows == len(files) - 3
    record.write_text(json.dumps({"split_by": "recording", "recordings": sides | {"train": files[4:]}}))
    with pytest.raises(UserError, match="does not say where 1 recordings of the manifest belong, such as "):
        build(split_file=str(record))


def test_an_age_with_one_child_stays_in_train(build, root, caplog):
    for name in ("one", "two"):
        add_audio(root / "audio_0", name)
        append(root, manifest_row(name, "C_alone", "3-4"))
    with caplog.at_level(logging.WARNING):
        corpus, _ = build()
    assert {"one", "two"} <= set(corpus["train"]["id"])
    assert "the stratum 3-4 has one speaker, C_alone, who stays in train" in caplog.text


def test_an_age_that_is_not_given_is_a_group_of_its_own(build, root):
    for number in range(4):
        add_audio(root / "audio_0", f"old_{number}")
        append(root, manifest_row(f"old_{number}", f"C_old_{number % 2}", age=None))
    corpus, _ = build(val_ratio=0.5)
    ages = {row["id"]: (row["group"], row["age_bucket"]) for part in corpus.values() for row in part}
    assert {ages[f"old_{number}"] for number in range(4)} == {("unknown", None)}
    assert "unknown" in corpus["train"]["group"][:] and "unknown" in corpus["dev"]["group"][:]


def test_changed_files_are_not_served_from_the_cache(build, root):
    assert "words of U_0" in {text for part in build()[0].values() for text in part["text"]}
    (root / "train.jsonl").write_text((root / "train.jsonl").read_text().replace("words of U_0", "others of U_0"))
    assert "others of U_0" in {text for part in build()[0].values() for text in part["text"]}
    add_audio(root / "audio_0", "U_0", seconds=0.5)
    append(root, manifest_row("fresh", "C_0", audio_path="audio/U_0.flac"))
    corpus, rejected = build(audio_dirs=[str(root / f"audio_{n}") for n in range(3)])
    assert [row["reason"] for row in rejected] == ["checksum mismatch"] and "fresh" in kept(corpus)


def test_wrong_options(build, root, tmp_path):
    for options, message in (
        ({"val_ratio": 1.0}, r"val_ratio must lie in \[0, 1\)"),
        ({"stratify_by": "age"}, "age_bucket, none, got 'age'"),
        ({"audio_dirs": ["audio_0"]}, r"names audio_0, which is no folder; did you mean .*corpus/audio_0\?"),
        ({"audio_dirs": ["nowhere"]}, "names nowhere, which is no folder; check the path"),
        ({"val_manifest": "a", "split_file": "b"}, "val_manifest and split_file are both given"),
        ({"samples": [], "manifest": "x", "data_dir": str(root)}, "manifest and samples are both given"),
        ({"samples": [], "data_dir": str(root)}, "samples is empty"),
        ({"samples": []}, "data_dir must be a folder, got None"),
    ):
        with pytest.raises(UserError, match=message):
            build(**options)


def test_recordings_of_one_name_in_several_folders_are_told_apart_by_their_paths(build, tmp_path, caplog):
    folder = tmp_path / "same_names"
    for number in range(2):
        (folder / f"c{number}").mkdir(parents=True)
        soundfile.write(folder / f"c{number}" / "000.wav", noise(0.3, seed=number), 16_000)
    listed = [manifest_row(f"U_{number}", f"C_{number}", audio_path=f"c{number}/000.wav") for number in range(2)]
    manifest = write_manifest(folder / "train.jsonl", listed)
    corpus, rejected = build(manifest=str(manifest), val_ratio=0)
    sources = {row["id"]: row["source_file"] for row in corpus["train"]}
    assert sources == {"U_0": "c0/000.wav", "U_1": "c1/000.wav"} and not rejected and "alike" not in caplog.text

    (folder / "c0" / "000.wav").unlink()
    corpus, rejected = build(manifest=str(manifest), val_ratio=0)
    assert kept(corpus) == {"U_1"} and rejected[0]["reason"] == "missing file"
    assert (
        "c1/000.wav may be another recording, since several paths of the manifest end in 000.wav"
        in rejected[0]["detail"]
    )

    listed[0]["md5_hash"] = f" {hashlib.md5((folder / 'c1' / '000.wav').read_bytes()).hexdigest()}\n"
    corpus, rejected = build(manifest=str(write_manifest(manifest, listed)), val_ratio=0)
    assert kept(corpus) == {"U_0", "U_1"} and not rejected


def test_the_transcript_is_kept_as_it_is_given(build, root):
    given = " (the doggie) runs {laugh: home} [noise]\n"
    write_manifest(root / "train.jsonl", [row | {"orthographic_text": given} for row in rows(root)])
    corpus, _ = build()
    assert set(corpus["train"]["text"]) == {given.strip()} and set(corpus["train"]["raw_text"]) == {given}


def test_white_space_around_ids_and_ids_that_are_integers(build, root):
    odd = [
        row
        | {
            "utterance_id": f" {row['utterance_id']} ",
            "child_id": f"{row['child_id']} " if number % 2 else row["child_id"],
            "session_id": number,
        }
        for number, row in enumerate(rows(root))
    ]
    odd[0] |= {"utterance_id": 7, "md5_hash": " "}
    expected = {name for name in kept(build()[0]) if name != "U_0"} | {"7"}
    write_manifest(root / "train.jsonl", odd)
    corpus, rejected = build()
    assert not rejected and kept(corpus) == expected
    assert "17" in {row["session_id"] for part in corpus.values() for row in part}
    assert not set(corpus["train"]["speaker_id"]) & set(corpus["dev"]["speaker_id"])
    assert {name for part in corpus.values() for name in part["speaker_id"]} == {f"C_{n}" for n in range(6)}


@pytest.mark.parametrize("data_dir", [None, "."])
def test_a_manifest_that_is_not_there_is_named_and_not_its_folder(data_dir):
    with pytest.raises(UserError, match="cannot read the manifest /no/where.jsonl: there is no such file"):
        JsonlManifestConfig(data_dir=data_dir, manifest="/no/where.jsonl")
