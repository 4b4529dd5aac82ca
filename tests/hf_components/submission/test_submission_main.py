"""`main.py` of a package: what it reads, what it says, and that it writes what the model behind it writes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from every_model import EVERY
from tiny_speech import rows, save_tiny_whisper, tone
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from hf_components.asr.packing import load_packable, write_package, write_test_data
from hf_components.asr.transcriber import Transcriber
from hf_components.speech.audio import decode
from hf_components.speech.cutting import cut_at_quiet
from hf_components.submission import main as submission

pytestmark = pytest.mark.unit


def save_tiny_wav2vec2(folder: Path) -> Path:
    folder.mkdir()
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(["<pad>", "|", "<unk>", *"ABCDEFGH"])})
    )
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    torch.manual_seed(0)
    Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=len(tokenizer),
            pad_token_id=0,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(16,) * 7,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
        )
    ).save_pretrained(folder)
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer).save_pretrained(folder)
    return folder


EVERY_KIND = ("whisper", "wav2vec2", "parakeet ctc", "parakeet tdt", "moonshine", "qwen3-asr", "glm-asr")


@pytest.fixture(scope="module", params=EVERY_KIND)
def transcriber(request, tmp_path_factory) -> Transcriber:
    folder = tmp_path_factory.mktemp("model") / "model"
    save = {"whisper": save_tiny_whisper, "wav2vec2": save_tiny_wav2vec2}.get(request.param, EVERY[request.param])
    transcriber = load_packable(str(save(folder)), "en", None, 8)
    transcriber.batch_size = submission.BATCH_SIZE["cpu"]  # some models hear how far a clip is padded
    return transcriber


@pytest.fixture
def unpacked(transcriber, tmp_path, monkeypatch) -> Path:
    """A working directory with test data; the package is unpacked beside them, as a competition does."""
    write_package(tmp_path / "submission.zip", transcriber, torch.float32)
    shutil.unpack_archive(tmp_path / "submission.zip", tmp_path / "src")
    write_test_data(tmp_path / "data", rows(9))
    monkeypatch.setattr(submission, "HERE", tmp_path / "src")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "submission" / "submission.jsonl").open(encoding="utf-8")]


def test_writes_what_the_model_writes(unpacked, transcriber, capsys):
    expected = [transcript.text for transcript in transcriber.transcribe_corpus(rows(9))]
    submission.main()
    assert written(unpacked) == [
        {"utterance_id": f"u{i}", "orthographic_text": text} for i, text in enumerate(expected)
    ]
    assert len(set(expected)) > 1
    log = capsys.readouterr().err.splitlines()
    assert "100 % in" in log[-2] and "0 s to go" in log[-2]
    report = json.loads(log[-1].partition(" finished ")[2])
    assert (report["utterances"], report["unreadable"]) == (9, 0)
    submission.main()  # again, over the first one
    assert [row["orthographic_text"] for row in written(unpacked)] == expected


def test_every_id_once_in_the_order_of_the_format_and_empty_where_nothing_can_be_read(unpacked, capsys):
    data = unpacked / "data"
    (data / "audio_1").mkdir()
    (data / "audio" / "3.flac").rename(data / "audio_1" / "3.flac")  # found there
    (data / "audio" / "4.flac").unlink()
    (data / "audio" / "5.flac").write_bytes(b"not audio")
    soundfile.write(data / "audio" / "6.flac", np.zeros(0), 16_000)
    soundfile.write(data / "audio" / "7.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    (data / "audio" / "7.wav").rename(data / "audio" / "7.flac")
    order = ["u8", "u7", "u6", "stranger", "u5", "u4", "u3", "u8"]
    lines = "".join(json.dumps({"utterance_id": name, "orthographic_text": ""}) + "\r\n" for name in order)
    (data / "submission_format.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode() + b'{"utterance_id": "u2')
    submission.main()
    texts = {row["utterance_id"]: row["orthographic_text"] for row in written(unpacked)}
    assert list(texts) == [row["utterance_id"] for row in written(unpacked)] == order[:-1]
    assert [name for name, text in texts.items() if not text] == ["u7", "u6", "stranger", "u5", "u4"]
    log = capsys.readouterr().err
    for message in (
        "u7 gets an empty text: .*holds samples that are not finite",
        "stranger .* has no audio_path in utterance_metadata",
        "u5 .*Error opening .*5.flac",
        "u4 .*4.flac is not in .*audio",
        "line 9, is not JSON with an utterance_id and is left out",
        '"unreadable": 5',
    ):
        assert re.search(message, log), message


def test_a_broken_row_or_recording_costs_its_own_text(unpacked, transcriber, capsys):
    kept = rows(9).select([0, *range(6, 9)])  # in one batch, as here: some models hear how far a clip is padded
    heard = [transcript.text for transcript in transcriber.transcribe_corpus(kept)]
    expected = [heard[0], *[""] * 5, *heard[1:]]
    data = unpacked / "data"
    flac = bytearray((data / "audio" / "1.flac").read_bytes())
    flac[21] &= 0xF0  # the length in the header, 36 bits: 0 is unknown
    flac[22:26] = bytes(4)
    (data / "audio" / "1.flac").write_bytes(flac)
    metadata = [json.loads(line) for line in (data / submission.METADATA).open()]
    metadata[2]["audio_path"] = None
    del metadata[3]["audio_path"]
    metadata[4]["audio_path"] = 4
    metadata[5]["audio_path"] = "a\0b"
    lines = [json.dumps(row).encode() for row in metadata]
    lines += [b"[]", b"7", b'{"audio_path": "audio/6.flac"}', b'{"utterance_id": []}', b'{"utterance_id": "caf\xe9"}']
    (data / submission.METADATA).write_bytes(b"\n".join(lines))
    submission.main()
    assert [row["orthographic_text"] for row in written(unpacked)] == expected
    log = capsys.readouterr().err
    for message in (
        "u1 .*its header gives no length",
        "u2 .* has no audio_path",
        "u3 .* has no audio_path",
        "u4 .*TypeError",
        "u5 gets an empty text",
        "line 10, .*left out",
        "line 14, .*left out",
        '"unreadable": 5',
    ):
        assert re.search(message, log), message


def test_a_recording_that_breaks_off_while_it_is_read_costs_its_own_text(unpacked, monkeypatch, capsys):
    read = submission.read_audio

    def fail(file):
        if file.name == "3.flac":
            raise MemoryError
        return read(file)

    monkeypatch.setattr(submission, "read_audio", fail)
    submission.main()
    assert [row["utterance_id"] for row in written(unpacked) if not row["orthographic_text"]] == ["u3"]
    assert "u3 gets an empty text: MemoryError" in capsys.readouterr().err


def test_a_recording_is_found_by_its_whole_path_before_its_name(tmp_path):
    folders = [tmp_path, tmp_path / "audio_0", tmp_path / "audio_1"]
    for path in ("a.flac", "audio_0/b.flac", "audio_1/b.flac", "audio_1/x/a.flac", "audio_1/c.flac"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert submission.find_file("x/a.flac", folders) == tmp_path / "audio_1" / "x" / "a.flac"
    assert submission.find_file("b.flac", folders) == tmp_path / "audio_0" / "b.flac"
    assert submission.find_file("elsewhere/c.flac", folders) == tmp_path / "audio_1" / "c.flac"
    (tmp_path / "audio_1" / "cafe\u0301 d.flac").touch()
    for spelling in ("caf\u00e9 d.flac", "cafe\u0301%20d.flac", "elsewhere\\caf%C3%A9 d.flac"):
        assert submission.find_file(spelling, folders) == tmp_path / "audio_1" / "cafe\u0301 d.flac"
    with pytest.raises(
        FileNotFoundError, match="elsewhere/b.flac is not in .*could be any of .*audio_0/b.flac, .*audio_1/b"
    ):
        submission.find_file("elsewhere/b.flac", folders)


def test_repetitions_are_merged_before_blanks_go(tmp_path):
    letters = ["<pad>", "|", "<unk>", *"HELO"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(letters)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    frames = ["<pad>", *"HHEEL", "<pad>", *"LLO", "|", "|", *"HO", "<pad>", "<pad>", "O", "<pad>"]
    assert submission.collapse(tokenizer, torch.tensor([letters.index(frame) for frame in frames]), 0) == "HELLO HOO"


def test_data_beside_main_are_used_if_the_working_directory_has_none(unpacked, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(
        SystemExit, match=f"error: there is no data/utterance_metadata.jsonl .*{elsewhere}, nor in .*src"
    ):
        submission.main()
    (unpacked / "data").rename(unpacked / "src" / "data")
    submission.main()
    assert len(written(unpacked / "src")) == 9


def test_a_long_recording_is_cut_where_the_library_cuts_it():
    clip = np.concatenate([tone(0, i, 1.0) for i in range(75)])
    for start in (24, 27.5, 51):
        clip[int(start * 16_000) : int((start + 0.5) * 16_000)] = 0
    pieces = list(submission.cut(clip))
    assert len(pieces) == 3 and max(map(len, pieces)) <= submission.LONGEST
    assert all(np.array_equal(a, b) for a, b in zip(pieces, cut_at_quiet(clip, 30.0, 16_000), strict=True))


def test_texts_of_a_long_recording_are_joined(unpacked, transcriber):
    clip = np.concatenate([tone(0, i, 1.0) for i in range(40)])
    soundfile.write(unpacked / "data" / "audio" / "0.flac", clip, 16_000)
    submission.main()
    expected = transcriber.transcribe(unpacked / "data" / "audio" / "0.flac")
    assert written(unpacked)[0]["orthographic_text"] == expected != ""


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (8_000, 1), (44_100, 2), (48_000, 2)])
def test_audio_of_any_rate_is_as_the_library_decodes_it(tmp_path, rate, channels):
    time = np.arange(rate) / rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * time) * np.hanning(rate)
    soundfile.write(tmp_path / "a.wav", np.stack([wave] * channels, axis=1), rate)
    found = submission.read_audio(tmp_path / "a.wav")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, decode(tmp_path / "a.wav"), atol=2e-3)


def test_a_very_short_clip_is_extended(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(3) / 2, 16_000)
    assert len(submission.read_audio(tmp_path / "a.wav")) == submission.SHORTEST


def test_a_batch_too_large_for_the_gpu_is_divided(monkeypatch):
    asked = []

    class Extractor:
        def __call__(self, pieces, **_):
            asked.append(len(pieces))
            if len(pieces) > 2:
                raise torch.cuda.OutOfMemoryError
            raise StopIteration(pieces)

    class Model:
        config, device, dtype = type("Config", (), {}), torch.device("cpu"), torch.float32
        config.submission = {"kind": "whisper"}

    processor = type("Processor", (), {"feature_extractor": Extractor()})
    with pytest.raises(StopIteration):
        submission.decode(Model, processor, [1, 2, 3, 4, 5])
    assert asked == [5, 2]


def test_many_complaints_do_not_fill_the_log(capsys):
    complain = submission.Complaints()
    for number in range(500):
        complain(f"u{number}", "x" * 1000)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == submission.MOST_COMPLAINTS + 1 and max(map(len, lines)) < 320 and len(complain.ids) == 500


def test_a_batch_counts_pieces():
    clips = [("a", None, 70.0), ("b", None, 31.0), ("c", None, 3.0), ("d", None, 2.0), ("e", None, 1.0)]
    assert [[clip[0] for clip in batch] for batch in submission.in_batches(clips, 3)] == [
        ["a"],
        ["b", "c"],
        ["d", "e"],
    ]
    assert [len(batch) for batch in submission.in_batches(clips[:1], 1)] == [1]
