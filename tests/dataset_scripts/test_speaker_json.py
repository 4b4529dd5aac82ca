import json
import os
import shutil

import datasets
import numpy as np
import pytest
import soundfile
from make_corpus import add_entry, add_speaker, noise, small_corpus

from dataset_scripts import SpeakerJson
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import decode
from hf_components.speech.corpus import waveforms

pytestmark = pytest.mark.unit


@pytest.fixture
def root(tmp_path):
    return small_corpus(tmp_path / "corpus")


@pytest.fixture
def build(tmp_path, root):
    def run(num_proc=None, **options):
        builder = SpeakerJson(data_dir=str(root), cache_dir=tmp_path / "cache", **options)
        builder.download_and_prepare(num_proc=num_proc)
        return builder.as_dataset().cast_column("audio", datasets.Audio(decode=False)), builder.rejections()

    return run


def test_rows_of_both_splits(build, root):
    corpus, rejected = build()
    assert {split: rows.num_rows for split, rows in corpus.items()} == {"train": 6, "dev": 3}
    assert rejected == []
    row = corpus["train"][4]
    assert {key: value for key, value in row.items() if key != "audio"} == {
        "id": "B/1",
        "text": "Sentence 1 of B.",
        "raw_text": "Sentence 1 of B.",
        "speaker_id": "B",
        "group": "unknown",
        "etiology": None,
        "duration": 0.3,
        "source_file": "Train/B/1.wav",
        "unintelligible_words": 0,
        "references": ["sentence one of b"] * 2,
    }
    assert corpus["dev"]["group"][:] == ["ALS"] * 3
    assert row["audio"]["bytes"][:4] == b"fLaC"
    assert np.array_equal(waveforms([row])[0], decode(root / "Train/B/1.wav"))


def test_markup_is_cleaned_and_kept_in_raw_text(build, root):
    add_speaker(root, "Dev", "D", {"a.wav": "(um) call {u: mom} [cough] now"})
    row = build(disfluencies="drop")[0]["dev"].filter(lambda row: row["speaker_id"] == "D")[0]
    assert (row["text"], row["raw_text"], row["unintelligible_words"]) == (
        "call now",
        "(um) call {u: mom} [cough] now",
        1,
    )
    assert row["references"] == ["call unk now", "call unk now"]


def test_two_references_with_and_without_disfluencies_whatever_the_text_keeps(build, root):
    add_speaker(root, "Test2", "D", {"a.wav": "#dis\n(I w-*) I like {w:2} (cs: the ~T ~V) show"})
    for disfluencies, text in (("keep", "I w- I like the T V show"), ("drop", "I like the T V show")):
        row = build(disfluencies=disfluencies)[0]["test2"][0]
        assert row["text"] == text
        assert row["references"] == ["i w i like unk unk the tv show", "i like unk unk the tv show"]


def test_every_bad_row_is_listed_with_its_reason_and_the_others_stay(build, root, tmp_path):
    folder = add_speaker(
        root, "Train", "X", {"good.wav": "fine", "empty.wav": "", "markup.wav": "[noise]", "none.wav": None}
    )
    (folder / "zero.wav").write_bytes(b"")
    (folder / "text.wav").write_text("I am a text file.")
    soundfile.write(folder / "silent.wav", noise(0), 16_000)
    soundfile.write(folder / "nan.wav", np.full(800, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(folder / "cut.wav", noise(1), 16_000)
    os.truncate(folder / "cut.wav", 9000)
    soundfile.write(folder / "cut.flac", noise(1), 16_000)
    os.truncate(folder / "cut.flac", 9000)
    soundfile.write(tmp_path / "outside.wav", noise(1), 16_000)
    (folder / "link.wav").symlink_to(tmp_path / "nowhere.wav")
    expected = {
        "X/empty": "empty transcript",
        "X/markup": "empty transcript",
        "X/none": "missing transcript",
        "X/zero": "empty audio",
        "X/text": "unreadable audio",
        "X/silent": "empty audio",
        "X/nan": "non-finite samples",
        "X/cut": "truncated audio",
        "X/link": "missing file",
        "X/../../../outside": "path outside the corpus",
        "X/../../Dev/C/0": "path outside the corpus",
        str(tmp_path / "outside"): "path outside the corpus",
        "X/absent": "missing file",
        "X/" + "n" * 300: "missing file",
        "X/.": "missing file",
        "X/nul\0": "path outside the corpus",
        "X/good": "duplicate id",
    }
    for name in (
        "zero.wav",
        "text.wav",
        "silent.wav",
        "nan.wav",
        "cut.wav",
        "link.wav",
        "../../../outside.wav",
        "../../Dev/C/0.wav",
        str(tmp_path / "outside.wav"),
        "absent.wav",
        "n" * 300 + ".wav",
        "",
        "nul\0.wav",
        "good.wav",
    ):
        add_entry(folder, name)
    for num_proc in (None, 2):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        corpus, rejected = build(num_proc=num_proc)
        found = {row["id"].replace("X//", "/"): row["reason"] for row in rejected}
        assert found == expected
        assert len(rejected) + corpus["train"].num_rows == 6 + 4 + 14  # rows in = rows out + rejected
        assert all(row["file"] and row["detail"] and row["split"] == "train" for row in rejected)
        assert corpus["train"].filter(lambda row: row["speaker_id"] == "X")["id"][:] == ["X/good"]


def test_a_usable_row_is_no_duplicate_of_an_unusable_one(build, root):
    folder = add_speaker(root, "Train", "X", {"b.wav": "here"})
    manifest = json.loads((folder / "X.json").read_text())
    manifest["Files"].insert(0, {"Filename": "b.mp3", "Prompt": {"Transcript": "gone"}})
    (folder / "X.json").write_text(json.dumps(manifest))
    corpus, rejected = build()
    assert "here" in corpus["train"]["text"][:]
    assert [row["reason"] for row in rejected] == ["missing file"]


def test_long_recordings_are_kept_whole_in_their_own_split(build, root):
    add_speaker(root, "Train", "L", {"long.wav": "many words"}, seconds=40)
    corpus, rejected = build()
    assert corpus["train_long"]["duration"][:] == [40.0]
    assert len(waveforms(corpus["train_long"])[0]) == 40 * 16_000
    assert corpus["train"].num_rows == 6 and not rejected
    assert "dev_long" not in corpus


def test_short_recordings_are_rejected_on_request(build, root):
    add_speaker(root, "Dev", "S", {"short.wav": "a"}, seconds=0.05)
    _, rejected = build(min_duration=0.1)
    assert [(row["id"], row["reason"]) for row in rejected] == [("S/short", "too short")]


def test_8_khz_stereo_becomes_16_khz_mono(build, root):
    folder = add_speaker(root, "Dev", "N", {"a.wav": "narrow"})
    soundfile.write(folder / "a.wav", noise(1, rate=8000, channels=2), 8000)
    row = build()[0]["dev"].filter(lambda row: row["speaker_id"] == "N")[0]
    assert row["duration"] == 1.0
    assert waveforms([row])[0].shape == (16_000,)


def test_changed_files_are_not_served_from_the_cache(build, root):
    assert build()[0]["dev"]["text"][0] == "Sentence 0 of C."
    manifest = root / "Dev" / "C" / "C.json"
    manifest.write_text(manifest.read_text().replace("Sentence 0", "Sentence zero"))
    assert build()[0]["dev"]["text"][0] == "Sentence zero of C."
    soundfile.write(root / "Dev" / "C" / "0.wav", noise(0.5), 16_000)
    assert build()[0]["dev"]["duration"][0] == 0.5


def test_rejections_stay_with_the_cache(build, root):
    add_entry(root / "Dev" / "C", "absent.wav")
    assert build()[1] == build()[1] != []


@pytest.mark.parametrize(
    "content, message",
    [
        ('{\n "Files": [\n  {"Filename": }', r"C\.json, line 3: not JSON"),
        ("", r"C\.json, line 1: not JSON"),
        ('{"Files": ' + "[" * 100_000, r"C\.json: not JSON that can be read: maximum recursion.*; repair it"),
        ('{"Files": ' + "9" * 5_000 + "}", r"C\.json: not JSON that can be read: Exceeds the limit.*; repair it"),
        (
            '{"Files": [{"Filename": "0.wav", "Filename": "1.wav"}]}',
            r"C\.json: the key 'Filename' is given twice; leave",
        ),
        ('{"Etiology": "ALS"}', r"C\.json, line 1: Files must be a list of recordings, it has Etiology"),
        ('{\n"Files": {}\n}', r"C\.json, line 2: Files must be a list of recordings, got an object"),
        ('["a"]', r"C\.json, line 1: expected an object with Files, got a list"),
        ('{"Etiology": 3, "Files": []}', "Etiology must be a string, got a number"),
        (
            '{"Files": [\n {"Filename": "0.wav"},\n {"Filename": 7}]}',
            r"line 3: Files\[1\]: Filename must be a string, got a num",
        ),
        ('{"Files": [{"Filename": "0.wav"},\n "1.wav"]}', r"line 2: Files\[1\]: expected an object with Filename"),
        (
            '{"Files": [{"Filename": "0.wav", "Prompt": "hi"}]}',
            "Prompt must be an object with Transcript, got a string",
        ),
        (
            '{"Files": [{"Filename": "0.wav", "Prompt": {"Transcript": ["hi"]}}]}',
            "Transcript must be a string, got a list",
        ),
        ('{"Files": [{"Filename": "0.wav", "Prompt": {"Transcript": "\\ud800"}}]}', "not UTF-8 text"),
        (b'{"Files":\n "\xff"}', r"line 2: not UTF-8 text"),
    ],
)
def test_a_manifest_that_is_not_what_it_claims_stops_with_file_and_line(build, root, content, message):
    path = root / "Dev" / "C" / "C.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("content", ["", '{"Files": 3}', None])
def test_a_broken_speaker_may_be_rejected(build, root, content):
    (root / "Train" / "A" / "A.json").unlink()
    if content is not None:
        (root / "Train" / "A" / "A.json").write_text(content)
    corpus, (row,) = build(broken_speakers="reject")
    assert row["id"] == "A" and row["reason"] == "broken speaker JSON" and row["split"] == "train"
    assert row["file"] == "Train/A/A.json" and "A.json" in row["detail"]
    assert corpus["train"].num_rows == 3 and "A" not in corpus["train"]["speaker_id"]


def test_a_speaker_without_manifest_stops(build, root):
    (root / "Train" / "A" / "A.json").unlink()
    with pytest.raises(UserError, match=r"cannot read .*A\.json"):
        build()


def test_a_speaker_in_both_splits_stops_by_folder_or_by_name_within(build, root):
    folder = add_speaker(root, "Dev", "A", {"0.wav": "again"})
    with pytest.raises(UserError, match="speaker A is in the splits train and dev"):
        build()
    shutil.rmtree(folder)
    renamed = add_speaker(root, "Dev", "other", {"0.wav": "again"})
    manifest = json.loads((renamed / "other.json").read_text())
    for key in ("Contributor ID", "Contributor_ID", "contributorId", "Speaker ID", "participant_id"):
        (renamed / "other.json").write_text(json.dumps({key: "A"} | manifest))
        with pytest.raises(UserError, match="speaker A is in the splits train and dev"):
            build()


def test_one_contributor_under_two_folder_names_stops(build, root):
    for split, name in (("Train", "first"), ("Test2", "second")):
        folder = add_speaker(root, split, name, {"0.wav": "again"})
        manifest = json.loads((folder / f"{name}.json").read_text())
        (folder / f"{name}.json").write_text(json.dumps({"Contributor ID": 17} | manifest))
    with pytest.raises(UserError, match="speaker 17 is in the splits train and test2"):
        build()


def test_one_contributor_with_two_folders_of_a_split_is_warned_of(build, root, caplog):
    for name in ("first", "second"):
        folder = add_speaker(root, "Train", name, {"0.wav": name})
        manifest = json.loads((folder / f"{name}.json").read_text())
        (folder / f"{name}.json").write_text(json.dumps({"Contributor ID": 17} | manifest))
    assert {"first", "second"} < set(build()[0]["train"]["speaker_id"])
    assert "1 speakers have several folders, such as 17: first, second; each folder counts as a speaker" in caplog.text


def test_recordings_of_both_splits_under_two_names_are_warned_of(build, root, caplog):
    build()
    assert "3 recordings of train are in dev too, under other names, such as A/0 and C/0" in caplog.text
    caplog.clear()
    for i in range(3):
        sound, rate = soundfile.read(root / "Dev" / "C" / f"{i}.wav")
        soundfile.write(root / "Dev" / "C" / f"{i}.wav", 0.9 * sound, rate)
    build()
    assert "under other names" not in caplog.text


def test_numbered_tests_are_splits_and_other_folders_are_named(build, root, caplog):
    for split in ("Test1", "TEST2", "Unassigned"):
        add_speaker(root, split, f"in {split}", {"0.wav": "hi"})
    corpus, rejected = build()
    assert {split: rows.num_rows for split, rows in corpus.items()} == {"train": 6, "dev": 3, "test1": 1, "test2": 1}
    assert [(row["id"], row["file"], row["reason"]) for row in rejected] == [
        ("in Unassigned", "Unassigned/in Unassigned", "unknown split folder")
    ]
    assert "left out Unassigned; only folders named Train, Dev, Test" in caplog.text
    (root / "Test2").mkdir()
    with pytest.raises(UserError, match="holds TEST2 and Test2; a split has one folder"):
        build()


def test_one_speaker_is_a_corpus(build, root):
    shutil.rmtree(root / "Dev")
    shutil.rmtree(root / "Train" / "A")
    corpus, _ = build()
    assert {split: set(rows["speaker_id"]) for split, rows in corpus.items()} == {"train": {"B"}}


def test_sampling_is_per_split(build):
    corpus, _ = build(sampling="stratified", max_samples=2)
    assert sorted(corpus["train"]["group"]) == ["ALS", "unknown"]
    assert corpus["dev"].num_rows == 2


def test_wrong_options_and_folders(build, root, tmp_path):
    for options, message in (
        ({"disfluencies": "maybe"}, "keep, drop, got 'maybe'"),
        ({"percent": 0}, "percent"),
        ({"min_duration": 40.0}, "min_duration must lie in"),
    ):
        with pytest.raises(UserError, match=message):
            build(**options)
    with pytest.raises(UserError, match="data_dir must be a folder"):
        SpeakerJson(data_dir=str(tmp_path / "absent"))
    shutil.rmtree(root / "Train")
    shutil.rmtree(root / "Dev")
    with pytest.raises(UserError, match="has no folder Train, Dev or Test"):
        build()


def test_a_corpus_without_any_usable_row_stops(build, root):
    for path in root.rglob("*.wav"):
        path.unlink()
    with pytest.raises(UserError, match="no usable utterance: 9 missing file"):
        build()
