"""The confidence of recognisers in their words, and their times."""

import json
import math

import numpy as np
import pytest
import soundfile
import torch
from every_model import EVERY
from tiny_ctc import save_tiny_wav2vec2
from tiny_speech import tone

from dataset_scripts.demo_recordings import new_utterances
from hf_components.asr import Transcriber, load_recogniser, read_words, transcribe_to_file
from hf_components.asr.ctc import aligned
from hf_components.asr.recordings import Files
from hf_components.asr.words import Word, as_lists, from_lists, in_words
from hf_components.runtime import UserError


def test_a_word_is_as_sure_as_its_tokens():
    log_probs = [math.log(p) for p in (0.5, 0.5, 0.9, 0.4, 0.9)]
    words = in_words("see you", ["S", "EE", "|", "Y", "OU"], log_probs, "|")
    assert [word.text for word in words] == ["see", "you"]
    assert [word.confidence for word in words] == pytest.approx([0.5, 0.6])
    words = in_words("see you", ["see", "\u0120y", "ou"], [math.log(p) for p in (0.3, 0.4, 0.9)])
    assert [word.confidence for word in words] == pytest.approx([0.3, 0.6])
    unlike = in_words("see you too", ["see", "\u0120you"], [math.log(0.2), math.log(0.8)])
    assert {round(word.confidence, 6) for word in unlike} == {0.4}


def test_tokens_are_aligned_with_the_frames_they_are_in():
    frames = torch.full((8, 4), 0.01)
    for frame, token in enumerate([0, 1, 1, 0, 2, 2, 2, 0]):
        frames[frame, token] = 0.97
    first, second = aligned(frames.log(), [1, 2], blank=0)
    assert (first.start, first.end, second.start, second.end) == (1, 3, 4, 7)
    assert first.log_prob == pytest.approx(math.log(0.97), abs=1e-5)
    assert [token.log_prob for token in aligned(frames[:1].log(), [1, 2], blank=0)] == [-np.inf] * 2
    assert aligned(frames.log(), [], blank=0) == []


@pytest.mark.parametrize("name", ["whisper", "hubert", "parakeet ctc", "moonshine"])
def test_every_word_that_is_heard_has_a_confidence(name, tmp_path):
    transcriber = Transcriber.from_pretrained(EVERY[name](tmp_path / "model"), max_new_tokens=6, num_beams=1)
    clips = {i: tone(i, i, 0.5 + 0.3 * i) for i in range(3)}
    texts = transcriber._transcribe(clips)
    transcriber.word_confidences = True
    heard = transcriber._hear(clips)
    assert {i: one.text for i, one in heard.items()} == texts
    for one in heard.values():
        assert [word.text for word in one.words] == one.text.split()
        assert all(0 <= word.confidence <= 1 for word in one.words)


def test_words_of_a_long_recording_have_its_times(tmp_path):
    transcriber = Transcriber.from_pretrained(save_tiny_wav2vec2(tmp_path / "model"), word_confidences=True)
    clip = np.concatenate([tone(i, i, 20.0) for i in range(2)])
    words = transcriber._hear({0: clip})[0].words
    times = [time for word in words if word.start is not None for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] > 30


def test_words_are_written_and_read_again(tmp_path):
    transcriber = Transcriber.from_pretrained(save_tiny_wav2vec2(tmp_path / "model"), word_confidences=True)
    soundfile.write(tmp_path / "a.wav", tone(0, 0, 1.0), 16_000)
    out = tmp_path / "heard.jsonl"
    transcribe_to_file(transcriber, Files({"a": tmp_path / "a.wav"}), out, order=["a"], identity={}, resume=True)
    (words,) = read_words(out).values()
    assert " ".join(word.text for word in words) == json.loads(out.read_text())["orthographic_text"]


@pytest.mark.parametrize("words", ["a", [["a"]], [["a", 2.0]], [[1, 0.5]], [["a", None]], [["a", 0.5, "soon"]]])
def test_words_of_other_forms_are_refused(words):
    with pytest.raises(UserError, match="other.jsonl.*confidence from 0 to 1"):
        from_lists(words, "other.jsonl")


def test_words_of_other_tools_may_lack_times():
    assert from_lists([["a", 0.5], ["b", 1, 0.25, 0.5]], "") == [Word("a", 0.5), Word("b", 1, 0.25, 0.5)]
    assert as_lists([Word("a", 0.123456), Word("b", 1.0, 0.2, 0.3)]) == [["a", 0.1235, None, None], ["b", 1, 0.2, 0.3]]


def test_voices_have_no_confidences(tmp_path):
    model = Transcriber.from_pretrained(EVERY["whisper"](tmp_path / "model"))
    with pytest.raises(UserError, match="without voices"):
        Transcriber(model.model, model.processor, voices=object(), word_confidences=True)


def test_pocketsphinx_hears_with_times_and_confidences(tmp_path):
    pytest.importorskip("pocketsphinx")

    _, text, samples, rate = next(iter(new_utterances("clean", 1, 1, 0)))
    soundfile.write(tmp_path / "a.wav", samples, rate)
    (tmp_path / "b.wav").write_bytes(b"no audio")
    files = Files({name: tmp_path / f"{name}.wav" for name in "ab"})
    recogniser, out = load_recogniser("pocketsphinx"), tmp_path / "heard.jsonl"
    heard = {one.id: one for part in recogniser.stream(files) for one in part}
    words = heard["a"].words
    assert words and heard["a"].text == " ".join(word.text for word in words)
    metrics = transcribe_to_file(recogniser, files, out, order=files.ids, identity={}, resume=True)
    assert metrics["failed"] == 1 and [word.text for word in read_words(out)["a"]] == heard["a"].text.split()
    assert all(0 <= word.confidence <= 1 and 0 <= word.start < word.end <= 10 for word in words)
    assert heard["b"].problem.startswith("unreadable audio") and heard["b"].text == ""
