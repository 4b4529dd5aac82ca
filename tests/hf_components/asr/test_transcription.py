"""Transcribe a corpus: order, batches, expert weights."""

import pytest
import torch
from tiny_speech import rows, tiny_moe, tiny_processor, tiny_whisper

from hf_components.asr.transcriber import transcribe
from hf_components.speech.batching import duration_batches

pytestmark = pytest.mark.unit


def test_batches_hold_every_index_once_longest_first():
    durations = [3.0, 9.0, 1.0, 9.0, 5.0]
    assert duration_batches(durations, 2) == [[1, 3], [4, 0], [2]]


def test_text_comes_in_the_order_of_the_corpus():
    corpus, model = rows(9), tiny_whisper().train()
    together = transcribe(model, tiny_processor(), corpus, batch_size=4, max_new_tokens=8)
    assert model.training
    alone = [transcribe(model, tiny_processor(), corpus.select([i]), max_new_tokens=8)[0] for i in range(9)]
    assert together == alone and len(set(together)) > 1
    assert max(map(len, together)) <= 8  # a token is a letter


def test_expert_weights_stay_with_their_rows():
    corpus, model = rows(6), tiny_moe(min_audio_context=400)  # one context for all, so that batches do not matter
    chosen = torch.eye(3)[[2, 0, 1, 0, 2, 1]]
    together = transcribe(model, tiny_processor(), corpus, batch_size=4, expert_weights=chosen, max_new_tokens=8)
    for i in range(6):
        alone = transcribe(
            model, tiny_processor(), corpus.select([i]), expert_weights=chosen[i : i + 1], max_new_tokens=8
        )
        assert alone == together[i : i + 1]
    others = transcribe(model, tiny_processor(), corpus, expert_weights=chosen.roll(1, dims=1), max_new_tokens=8)
    assert others != together
