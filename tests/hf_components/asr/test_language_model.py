"""A language model reads texts, and chooses among those that a CTC model may have heard."""

import pytest
import torch
from every_model import EVERY
from tiny_ctc import tiny_ctc_processor, tiny_wav2vec2
from tiny_llm import save_tiny_llm
from tiny_speech import save_tiny_whisper, tone

from hf_components.asr import nbest
from hf_components.asr.language_model import LanguageModel
from hf_components.asr.nbest import WEIGHT, n_best, n_best_family
from hf_components.asr.transcriber import Transcriber
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> LanguageModel:
    folder = save_tiny_llm(tmp_path_factory.mktemp("llm"), template=None)  # a base model, which cannot chat
    return LanguageModel.from_pretrained(str(folder))


def test_probabilities_are_those_of_each_text_alone(language_model, monkeypatch):
    texts = ["she read the whole book", "a", "", "she read", "a"]
    monkeypatch.setattr("hf_components.asr.language_model.TOKENS_PER_BATCH", 40)
    found = language_model.log_probs(texts)
    for text, log_prob in zip(texts, found, strict=True):
        row = torch.tensor([language_model.tokenizer(f"<s>{text}</s>", add_special_tokens=False).input_ids])
        loss = language_model.model(input_ids=row, labels=row).loss
        assert log_prob == pytest.approx(-loss.item() * (row.shape[1] - 1), rel=1e-4)
    assert language_model.log_probs([]) == []


def test_capitals_are_read_in_lower_case(language_model):
    loud, quiet, mixed = language_model.log_probs(["SHE READ", "she read", "She read"])
    assert loud == quiet != mixed


class LikesLetters:
    """A language model that knows how probable a letter is."""

    name = "letters"

    def __init__(self, **letters: float):
        self.letters = letters
        self.asked: list[str] = []

    def log_probs(self, texts):
        self.asked += texts
        return [sum(self.letters.get(letter, 0.0) for letter in text) for text in texts]


def test_frames_and_language_model_choose_together():
    transcriber = Transcriber(tiny_wav2vec2(), tiny_ctc_processor())
    clips = {i: tone(i, i, 0.4 + 0.3 * i) for i in range(3)}
    likeliest = transcriber._transcribe(clips)
    transcriber.family = n_best_family(transcriber.family, 6)
    lists = {i: text.split("\n") for i, text in transcriber._transcribe(clips).items()}
    letters = LikesLetters(**dict.fromkeys("aeiou", -5.0), b=3.0)
    transcriber.choose_by(letters, 6)
    chosen = transcriber._transcribe(clips)
    assert all(chosen[i] in lists[i] for i in clips) and chosen != likeliest
    assert sorted(letters.asked) == sorted({text for texts in lists.values() for text in texts})
    inputs = transcriber.family.inputs(transcriber.processor, [clips[0]])
    with torch.inference_mode():
        (scored,) = n_best(transcriber.model, transcriber.processor, inputs, 6)
    read = letters.log_probs(list(scored))
    total = {text: scored[text] + WEIGHT * told for text, told in zip(scored, read, strict=True)}
    assert list(scored) == lists[0] and chosen[0] == max(total, key=total.get)


def test_the_family_of_the_model_still_prepares_its_inputs(tmp_path):
    transcriber = Transcriber.from_pretrained(EVERY["whisper ctc"](tmp_path / "model"), dtype="float32")
    clips = {i: tone(i, i, 0.4 + 0.6 * i) for i in range(2)}
    transcriber.choose_by(LikesLetters(), nbest.CHOICES)
    assert transcriber._transcribe(clips)[0] == transcriber._transcribe({0: clips[0]})[0]


def test_a_decoder_needs_no_language_model(tmp_path):
    transcriber = Transcriber.from_pretrained(save_tiny_whisper(tmp_path / "model"))
    with pytest.raises(UserError, match="this is a Whisper model, whose decoder knows its language already"):
        transcriber.choose_by(LikesLetters())
