"""A language model that hears corrects transcripts, behind the interface of the one that reads."""

import numpy as np
import pytest
import soundfile
from every_model import EVERY
from tiny_llm import save_tiny_llm
from tiny_speech import tone

from hf_components.asr import Files
from hf_components.correction import prompt
from hf_components.correction.arguments import CorrectionArguments, load_corrector
from hf_components.correction.hearing import HearingCorrector
from hf_components.correction.record import correct_to_file

pytestmark = pytest.mark.unit

TEXTS = ["a dog", "the cat sat on the mat", "it is"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("sound")
    for number in range(len(TEXTS)):
        soundfile.write(folder / f"{number}.wav", tone(number, number, 0.5 + 0.3 * number), 16_000)
    return Files({str(number): folder / f"{number}.wav" for number in range(len(TEXTS))})


@pytest.fixture(scope="module", params=["glm-asr", "audio flamingo"])
def llm(request, tmp_path_factory) -> str:
    return str(EVERY[request.param](tmp_path_factory.mktemp("llm") / "model"))


def load(llm: str, recordings: Files, **options) -> HearingCorrector:
    corrector = load_corrector(CorrectionArguments(llm_model=llm, llm_dtype="float32", **options))
    corrector.hear(recordings)
    return corrector


def test_batches_reply_as_one_by_one(llm, recordings):
    batch, single = (load(llm, recordings, llm_batch_size=size) for size in (3, 1))
    replies = [[correction.proposed for correction in one.correct(TEXTS)] for one in (batch, single)]
    assert isinstance(batch, HearingCorrector) and len(set(replies[1])) > 1
    # A random model goes on to the limit, which is that of the longest text in the batch.
    assert all(together.startswith(alone) for together, alone in zip(*replies, strict=True))


def test_the_recording_is_in_the_request(llm, recordings, monkeypatch):
    corrector = load(llm, recordings)
    given = []
    processor = type(corrector.processor)
    call = processor.__call__

    def noting(self, *args, **kwargs):
        given.append(kwargs)
        return call(self, *args, **kwargs)

    monkeypatch.setattr(processor, "__call__", noting)
    corrector.correct([[prompt.Guess("a dog", (None, 0.25)), prompt.Guess("a fog")], *TEXTS[1:]])
    order = sorted(range(len(TEXTS)), key=lambda i: -len(TEXTS[i]))
    assert all(np.array_equal(clip, recordings.read(i)) for clip, i in zip(given[0]["audio"], order, strict=True))
    request = given[0]["text"][order.index(0)]
    assert request.count("<|audio|>") == 1 and "1. a dog(0.25)\n2. a fog" in request and prompt.HEARD in request


def test_nothing_is_asked_twice(llm, recordings, tmp_path, monkeypatch):
    corrector = load(llm, recordings)
    found = correct_to_file(corrector, recordings.ids, TEXTS, tmp_path / "corrections.jsonl")
    monkeypatch.setattr(corrector.model, "generate", None)  # calling it would fail
    assert correct_to_file(corrector, recordings.ids, TEXTS, tmp_path / "corrections.jsonl") == found


def test_one_that_reads_is_asked_as_ever(tmp_path, recordings):
    corrector = load(str(save_tiny_llm(tmp_path / "llm")), recordings)
    assert not isinstance(corrector, HearingCorrector) and len(corrector.correct(TEXTS)) == len(TEXTS)
