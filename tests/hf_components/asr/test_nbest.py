"""N-best lists by CTC, against the sum over all paths and against greedy decoding."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from every_model import EVERY
from tiny_ctc import tiny_ctc_processor, tiny_wav2vec2
from tiny_speech import tone

from hf_components.asr.ctc import Ctc
from hf_components.asr.nbest import n_best_family, prefix_beam_search
from hf_components.asr.transcriber import Transcriber

pytestmark = pytest.mark.unit


def by_all_paths(log_probs: np.ndarray, blank: int) -> dict[tuple[int, ...], float]:
    found: dict[tuple[int, ...], float] = defaultdict(float)
    frames, tokens = log_probs.shape
    for path in itertools.product(range(tokens), repeat=frames):
        labels = tuple(token for token, _ in itertools.groupby(path) if token != blank)
        found[labels] += np.exp(log_probs[range(frames), path].sum())
    return {labels: np.log(found[labels]) for labels in sorted(found, key=lambda labels: -found[labels])}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("blank", [0, 2])
def test_it_sums_over_all_paths(seed, blank):
    log_probs = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)).log_softmax(-1).numpy()
    expected = by_all_paths(log_probs, blank)
    found = prefix_beam_search(log_probs, blank, width=1000)
    assert list(found) == list(expected) and list(found.values()) == pytest.approx(list(expected.values()), abs=1e-5)
    assert set(list(prefix_beam_search(log_probs, blank, width=30))[:3]) & set(list(expected)[:3])


def test_a_letter_said_twice_needs_a_blank_between():
    sure = np.log(np.full((3, 2), 1e-9))
    sure[range(3), [1, 0, 1]] = 0
    assert next(iter(prefix_beam_search(sure, 0, 4))) == (1, 1)
    sure[1] = np.log([1e-9, 1])
    assert next(iter(prefix_beam_search(sure, 0, 4))) == (1,)


def test_padding_changes_no_list_and_sure_models_write_what_greedy_ones_do():
    model, processor = tiny_wav2vec2(), tiny_ctc_processor()
    model.lm_head.weight.data *= 1000  # sure of every frame
    transcriber = Transcriber(model, processor)
    clips = {i: tone(i, i, 0.4 + 0.3 * i) for i in range(3)}
    greedy = transcriber._transcribe(clips)
    assert isinstance(transcriber.family, Ctc)
    transcriber.family = n_best_family(transcriber.family, 4)
    together = {i: text.split("\n") for i, text in transcriber._transcribe(clips).items()}
    alone = {i: transcriber._transcribe({i: clip})[i].split("\n") for i, clip in clips.items()}
    assert together == alone and all(len(set(texts)) == len(texts) <= 4 for texts in together.values())
    assert {i: " ".join(text.split()) for i, text in greedy.items()} == {i: texts[0] for i, texts in together.items()}


@pytest.mark.parametrize("name", ["wav2vec2", "parakeet ctc"])
def test_both_forms_of_masks_leave_out_the_padding(name, tmp_path):
    transcriber = Transcriber.from_pretrained(EVERY[name](tmp_path / "model"), dtype="float32")
    transcriber.family = n_best_family(transcriber.family, 3)
    clips = {i: tone(i, i, 0.4 + 0.6 * i) for i in range(2)}
    assert transcriber._transcribe(clips)[0] == transcriber._transcribe({0: clips[0]})[0]
