"""Recordings that a manifest names: where they are found, and why they are not."""

import os
from pathlib import Path

import pytest
import soundfile
from make_corpus import add_audio, add_speaker, manifest_row, noise, write_manifest

from dataset_scripts.audio_folder import AudioFolder
from dataset_scripts.jsonl_manifest import JsonlManifest, JsonlManifestConfig
from dataset_scripts.speaker_json import SpeakerJson, SpeakerJsonConfig
from dataset_scripts.utterances import IN_MILLISECONDS, Reader, Rejection, Utterance
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import AudioError, decode

pytestmark = pytest.mark.unit


def reader(*folders: Path, **options) -> Reader:
    return Reader(tuple((folder.name, folder.resolve()) for folder in folders), **options)


def rejection(of: Reader, file: str) -> Rejection:
    with pytest.raises(Rejection) as problem:
        of.path(file)
    return problem.value


def test_links_of_the_users_own_folder_are_followed(tmp_path):
    blobs = tmp_path / "blobs"
    snapshot = tmp_path / "snapshots" / "abc" / "audio"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    soundfile.write(blobs / "5f", noise(0.2), 16_000, format="WAV")
    (snapshot / "a.wav").symlink_to("../../../blobs/5f")
    (snapshot.parent / "linked").symlink_to(blobs)
    found = reader(snapshot.parent)
    assert found.path("audio/a.wav") == snapshot / "a.wav"
    row, _ = found.read(Utterance("a", "audio/a.wav", "x", "x", "s", "g"))
    assert row["source_file"] == "abc/audio/a.wav" and row["duration"] == pytest.approx(0.2)
    assert found.path("linked/5f").exists() and found.fingerprint("audio/a.wav") != found.fingerprint("audio/b.wav")


def test_a_link_that_data_made_to_a_file_elsewhere_is_refused(tmp_path):
    root = tmp_path / "repository" / "corpus"
    annex = tmp_path / "repository" / ".git" / "annex" / "objects"
    annex.mkdir(parents=True)
    (root / "audio").mkdir(parents=True)
    for file in (tmp_path / "secret.wav", annex / "x.wav", root / "own.wav"):
        soundfile.write(file, noise(0.2), 16_000)
    (root / "audio" / "out.wav").symlink_to(tmp_path / "secret.wav")
    (root / "audio" / "chain.wav").symlink_to("out.wav")
    (root / "audio" / "annex.wav").symlink_to("../../.git/annex/objects/x.wav")
    (root / "audio" / "within.wav").symlink_to("../own.wav")
    found = reader(root)
    for name in ("audio/annex.wav", "audio/within.wav"):
        assert found.path(name).exists()
    for name in ("audio/out.wav", "audio/chain.wav"):
        problem = rejection(found, name)
        assert problem.reason == "path outside the corpus"
        assert problem.detail.endswith("copy the recording, or link its folder")


@pytest.mark.parametrize("make_inner", [False, True])
def test_a_split_and_a_speaker_that_are_links(tmp_path, make_inner):
    disk = tmp_path / "disk"
    add_speaker(disk, "Train", "A", {"1.wav": "hi"})
    root = tmp_path / "corpus"
    root.mkdir()
    if make_inner:
        (root / "Train").mkdir()
        (root / "Train" / "A").symlink_to(disk / "Train" / "A")
    else:
        (root / "Train").symlink_to(disk / "Train")
    listing = SpeakerJson(data_dir=str(root), cache_dir=tmp_path / "cache").read_manifests()
    (utterance,) = listing.splits["train"]
    assert SpeakerJsonConfig(data_dir=str(root)).reader([]).path(utterance.file).exists()


@pytest.mark.parametrize("name", ["a.wav", "\u00e9.wav"])
def test_a_link_to_nothing_says_so(tmp_path, name):
    (tmp_path / name).symlink_to("../.git/annex/objects/x.wav")
    problem = rejection(reader(tmp_path), name if name == "a.wav" else "e\u0301.wav")
    assert problem.reason == "missing file"
    assert "is a link to ../.git/annex/objects/x.wav, where nothing is: fetch its content (git annex" in problem.detail


def test_links_to_nothing_among_speakers(tmp_path):
    root = tmp_path / "corpus"
    add_speaker(root, "Train", "A", {"1.wav": "hi"})
    (root / "Train" / "B").symlink_to(tmp_path / "nowhere")
    (root / "Train" / "C").mkdir()
    (root / "Train" / "C" / "C.json").symlink_to("../../.git/annex/objects/c")
    listing = SpeakerJson(data_dir=str(root), cache_dir=tmp_path / "cache").read_manifests()
    assert [(row["id"], row["file"], row["split"]) for row in listing.rejected] == [
        ("B", "Train/B", "train"),
        ("C", "Train/C/C.json", "train"),
    ]
    assert all("is a link to" in row["detail"] for row in listing.rejected)
    (root / "Dev").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="Dev is a link to .*nowhere, where nothing is"):
        SpeakerJson(data_dir=str(root), cache_dir=tmp_path / "cache").read_manifests()


@pytest.mark.parametrize(
    "text",
    ["../a.wav", "x/../a.wav", "/a.wav", "..\\a.wav", "x\\..\\a.wav", "%2e%2e/a.wav", "..%2Fa.wav", "C:\\a.wav"],
)
def test_the_text_of_a_manifest_never_leaves_the_corpus(tmp_path, text):
    add_audio(tmp_path, "a")
    (tmp_path / "corpus" / "x").mkdir(parents=True)
    soundfile.write(tmp_path / "a.wav", noise(0.1), 16_000)
    assert rejection(reader(tmp_path / "corpus", by_bare_name=True), text).reason == "path outside the corpus"


def test_another_spelling_is_found_and_a_similar_name_proposed(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    for name in ("cafe\u0301.wav", "a b.wav", "Case.WAV", "other.flac"):
        (audio / name).touch()
    (audio / os.fsdecode(b"stra\xdfe.wav")).touch()
    found = reader(tmp_path, audio, by_bare_name=True)
    assert found.path("audio/caf\u00e9.wav").name == "cafe\u0301.wav"
    assert found.path("far\\away\\a%20b.wav").name == "a b.wav"
    for given, meant in (
        ("audio/case.wav", "did you mean audio/Case.WAV"),
        ("audio/other.wav", "did you mean audio/other.flac"),
        ("audio/stra\u00dfe.wav", "audio/stra\\xdfe.wav (its name is not UTF-8"),
    ):
        assert meant in rejection(found, given).detail
    assert "did you mean" not in rejection(found, "audio/absent.wav").detail
    assert "is a folder" in rejection(found, "audio").detail


def test_two_spellings_side_by_side(tmp_path):
    for number, name in enumerate(("e\u0301.wav", "\u00e9.wav", "a b.wav", "a%20b.wav")):
        soundfile.write(tmp_path / name, noise(0.1, seed=number), 16_000)
    found = reader(tmp_path)
    assert found.path("\u00e9.wav").name == "\u00e9.wav" and found.path("e\u0301.wav").name == "e\u0301.wav"
    with pytest.raises(Rejection, match="differ and the manifest gives no checksum"):
        found.find(".\\a b.wav", None)


def test_names_that_are_not_utf8_are_rejected_and_the_others_stay(tmp_path):
    root = tmp_path / "corpus"
    (root / "clean").mkdir(parents=True)
    for name in (b"caf\xe9.wav", b"good.wav"):
        soundfile.write(root / "clean" / "good.wav", noise(0.3), 16_000)
        (root / "clean" / "good.wav").rename(root / "clean" / os.fsdecode(name))
    assert len(decode(root / "clean" / os.fsdecode(b"caf\xe9.wav"))) == 4800
    builder = AudioFolder(data_dir=str(root), cache_dir=tmp_path / "cache")
    builder.download_and_prepare()
    assert builder.as_dataset()["recordings"]["id"][:] == ["clean/good.wav"]
    (row,) = builder.rejections()
    assert (row["id"], row["reason"]) == ("clean/caf\\xe9.wav", "name is not UTF-8") and "convmv" in row["detail"]
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    with pytest.raises(UserError, match=r"\\xff has a name that is not UTF-8"):
        AudioFolder(data_dir=str(odd), cache_dir=tmp_path / "cache")


def test_a_folder_that_is_not_utf8_has_a_printable_name_in_the_corpus(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    add_audio(tmp_path / "cafe", "U")
    (tmp_path / "cafe").rename(folder)
    write_manifest(tmp_path / "train.jsonl", [manifest_row("U", "C")])
    builder = JsonlManifest(data_dir=str(tmp_path), cache_dir=tmp_path.parent / "cache", val_ratio=0)
    builder.download_and_prepare()
    assert builder.as_dataset()["train"]["source_file"][:] == ["caf\\xe9/audio/U.flac"]


@pytest.mark.parametrize("there, is_found", [("e\u0301.json", True), ("E.json", False)])
def test_the_manifest_of_a_speaker_in_another_spelling(tmp_path, there, is_found):
    speaker = add_speaker(tmp_path / "corpus", "Train", "\u00e9" if is_found else "e", {"1.wav": "hi"})
    (speaker / f"{speaker.name}.json").rename(speaker / there)
    builder = SpeakerJson(data_dir=str(tmp_path / "corpus"), cache_dir=tmp_path / "cache")
    if is_found:
        assert len(builder.read_manifests().splits["train"]) == 1
    else:
        with pytest.raises(UserError, match=r"has no e.json; did you mean E.json\?"):
            builder.read_manifests()


def test_a_speaker_in_two_spellings_is_one_speaker(tmp_path):
    for split, name in (("Train", "\u00e9"), ("Dev", "e\u0301")):
        add_speaker(tmp_path / "corpus", split, name, {"1.wav": "hi"})
    with pytest.raises(UserError, match="is in the splits train and dev"):
        SpeakerJson(data_dir=str(tmp_path / "corpus"), cache_dir=tmp_path / "cache").read_manifests()


def test_truth_in_another_spelling(tmp_path, caplog):
    (tmp_path / "clean").mkdir()
    for name in ("cafe\u0301.wav", "B.wav"):
        (tmp_path / "clean" / name).touch()
    (tmp_path / "truth.jsonl").write_text(
        '{"file": "clean/caf\u00e9.wav", "text": "it\u2019s"}\n{"file": "clean/b.wav", "text": "x"}\n',
        encoding="utf-8",
    )
    listed = AudioFolder(data_dir=str(tmp_path), cache_dir=tmp_path / "cache").read_manifests().splits["recordings"]
    assert {row.text for row in listed} == {"it's", ""}
    assert "did you mean clean/B.wav?" in caplog.text


@pytest.mark.parametrize("content", [b"/annex/objects/SHA256E-s1--a.wav\n", b"../../.git/annex/objects/a/b/c"])
def test_a_pointer_of_git_annex_is_named(content):
    with pytest.raises(AudioError, match="run git annex get"):
        decode(content)


@pytest.mark.parametrize("given, remarks", [(None, []), (0.3, []), (300, [IN_MILLISECONDS]), (316, [IN_MILLISECONDS])])
def test_a_duration_in_milliseconds_is_understood(tmp_path, given, remarks):
    add_audio(tmp_path, "a")
    utterance = Utterance("a", "audio/a.flac", "x", "x", "s", "g", duration=given)
    row, odd = reader(tmp_path).read(utterance)
    assert row["duration"] == pytest.approx(0.3) and odd == remarks


def test_what_pandas_writes_for_missing_values_and_numbers(tmp_path):
    nan = float("nan")
    rows = [
        manifest_row("a", "C", age=5, audio_duration_sec=nan, md5_hash=nan, session_id=nan),
        manifest_row("b", "C", age=5.0, audio_duration_sec=120_000),
        manifest_row("c", "C", age=nan),
        manifest_row("d", "C", age=6.5, orthographic_text=nan),
    ]
    config = JsonlManifestConfig(manifest=str(write_manifest(tmp_path / "m.jsonl", rows)))
    ((listed, rejected),) = config.rows()
    assert [(row.group, row.raw_text) for row in listed] == [
        ("5", "words of a"),
        ("5", "words of b"),
        ("unknown", "words of c"),
        ("6.5", None),
    ]
    assert not rejected


@pytest.mark.parametrize("text", ["\u2026", "\u266a \u266a", "\u200b", "<|endoftext|>"])
def test_a_transcript_without_a_word_is_rejected_by_every_builder(tmp_path, text):
    add_audio(tmp_path, "a")
    config = JsonlManifestConfig(
        manifest=str(write_manifest(tmp_path / "m.jsonl", [manifest_row("a", "C", orthographic_text=text)]))
    )
    (((utterance,), _),) = config.rows()
    with pytest.raises(Rejection, match="empty transcript"):
        config.reader(config.files()).read(utterance)


def test_links_to_one_recording_are_told(tmp_path, caplog):
    add_audio(tmp_path, "a")
    (tmp_path / "audio" / "b.flac").symlink_to("a.flac")
    assert (
        len(AudioFolder(data_dir=str(tmp_path), cache_dir=tmp_path / "cache").read_manifests().splits["recordings"])
        == 2
    )
    assert "more than once, by links, such as audio/a.flac and audio/b.flac" in caplog.text


def test_a_manifest_or_a_folder_that_is_a_link_to_nothing(tmp_path):
    (tmp_path / "train.jsonl").symlink_to("nowhere")
    with pytest.raises(
        UserError, match="cannot read the manifest .*train.jsonl is a link to nowhere, where nothing is"
    ):
        JsonlManifestConfig(data_dir=str(tmp_path)).rows()
    with pytest.raises(UserError, match="data_dir must be a folder, .*train.jsonl is a link to nowhere"):
        AudioFolder(data_dir=str(tmp_path / "train.jsonl"), cache_dir=tmp_path / "cache")


def test_truth_of_two_spellings_side_by_side(tmp_path):
    for name in ("a b.wav", "a%20b.wav", "c d.wav"):
        (tmp_path / name).touch()
    truth = tmp_path / "truth.jsonl"
    truth.write_text(
        '{"file": "a b.wav", "text": "x"}\n{"file": "a%20b.wav", "text": "y"}\n{"file": "c%20d.wav", "text": "z"}\n'
    )
    listed = AudioFolder(data_dir=str(tmp_path), cache_dir=tmp_path / "cache").read_manifests().splits["recordings"]
    assert {row.id: row.text for row in listed} == {"a b.wav": "x", "a%20b.wav": "y", "c d.wav": "z"}
    truth.unlink()
    truth.symlink_to("nowhere")
    with pytest.raises(UserError, match="truth.jsonl is a link to nowhere, where nothing is"):
        AudioFolder(data_dir=str(tmp_path), cache_dir=tmp_path / "cache").read_manifests()
