"""Rows that CTC cannot learn from are named and left out; the others are written in the letters of the vocabulary."""

import logging

import pytest
import torch
from tiny_ctc import tiny_ctc_processor, tiny_wav2vec2
from tiny_speech import rows

from hf_components.asr.ctc import writable
from hf_components.asr.families import family_of
from hf_components.runtime.errors import UserError
from hf_components.training.learnable import frames_needed, keep_learnable

pytestmark = pytest.mark.unit


def with_texts(texts: list[str], seconds: float):
    corpus = rows(len(texts), seconds=seconds)
    return corpus.remove_columns("text").add_column("text", texts)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Turn on the light, please.", "TURN ON THE LIGHT PLEASE"),
        ("it\u2019s  well-known", "IT'S WELL KNOWN"),
        ("at 5 a.m.!", "AT 5 AM"),
        ("\u201ccaf\u00e9\u201d", "CAF\u00c9"),
    ],
)
def test_case_and_punctuation_follow_the_vocabulary(text, written):
    assert writable(tiny_ctc_processor().tokenizer, text) == written


def test_labels_are_read_back_as_they_were_written():
    processor = tiny_ctc_processor()
    ids = family_of(tiny_wav2vec2()).tokenize(processor, "Hello, all!")
    assert processor.tokenizer.decode(ids, group_tokens=False) == "HELLO ALL"
    assert processor.tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("labels", [[5, 6, 7], [5, 5], [5, 5, 5, 6, 6]])
def test_frames_needed_are_the_fewest_with_a_finite_loss(labels):
    def loss(frames: int) -> float:
        return float(
            torch.nn.functional.ctc_loss(
                torch.zeros(frames, 1, 9).log_softmax(-1),
                torch.tensor([labels]),
                torch.tensor([frames]),
                torch.tensor([len(labels)]),
            )
        )

    needed = frames_needed(labels)
    assert loss(needed) < float("inf") and loss(needed - 1) == float("inf")


def test_frames_are_those_that_the_model_writes():
    model = tiny_wav2vec2()

    def count_frames(seconds: float) -> int:
        return family_of(model).count_frames(model, tiny_ctc_processor(), [seconds])[0]

    for seconds in (0.2, 0.5, 1.234):
        frames = model(torch.zeros(1, round(seconds * 16_000))).logits.shape[1]
        assert count_frames(seconds) == frames
    assert count_frames(0.01) == count_frames(0.2)  # extended by silence


def test_unlearnable_rows_are_left_out_and_named(caplog):
    corpus = with_texts(["red sun", "caf\u00e9 5", "5 dogs", "green " * 8, "Moon!", "..."], seconds=0.5)  # 24 frames
    with caplog.at_level(logging.WARNING):
        kept = keep_learnable(corpus, tiny_wav2vec2(), tiny_ctc_processor())
    assert kept["id"][:] == ["u0", "u4"]
    empty, unknown, short = [record.getMessage() for record in caplog.records]
    assert empty == "1 of 6 transcripts have no character that the tokenizer can write and are not trained on: u5"
    assert unknown.startswith("2 of 6 transcripts") and "('5' in 2, '\u00c9' in 1)" in unknown and "u1, u2" in unknown
    assert short.startswith("1 of 6 utterances") and "u3 (24 frames, 55 needed)" in short


def test_speed_of_augmentation_counts():
    corpus, model, processor = with_texts(["a" * 12, "red"], seconds=0.5), tiny_wav2vec2(), tiny_ctc_processor()
    assert len(keep_learnable(corpus, model, processor)) == 2
    assert keep_learnable(corpus, model, processor, fastest=1.1)["id"][:] == ["u1"]


def test_nothing_is_said_of_rows_that_fit(caplog):
    corpus = rows(3, seconds=0.6)
    with caplog.at_level(logging.WARNING):
        assert keep_learnable(corpus, tiny_wav2vec2(), tiny_ctc_processor()) is corpus
    assert not caplog.records


def test_nothing_left_is_an_error():
    message = "of 2, 1 have characters that .*, 0 have no character that it has, and 1 are too short"
    with pytest.raises(UserError, match=message):
        keep_learnable(with_texts(["5", "green " * 20], 0.5), tiny_wav2vec2(), tiny_ctc_processor())
