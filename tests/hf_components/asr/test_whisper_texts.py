"""What a Whisper learns to write."""

import logging

import pytest
import soundfile
from tiny_speech import save_tiny_whisper, tone

from hf_components.asr import Transcriber, load_asr
from hf_components.asr.families import family_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["one two<|endoftext|>", "<|startoftranscript|>one two", "one <|notimestamps|>two"])
def test_the_name_of_a_special_token_in_a_transcript_is_not_that_token(tmp_path, text):
    model, processor = load_asr(str(save_tiny_whisper(tmp_path)))
    family = family_of(model)
    assert family.tokenize(processor, text) == family.tokenize(processor, "one two")


def test_what_every_batch_would_be_warned_of_is_not_said(tmp_path, monkeypatch):
    """transformers warns of arguments that Whisper's `generate` gives itself."""
    said = []
    logger = logging.getLogger("transformers.generation.utils")
    monkeypatch.setattr(logger, "level", logging.WARNING)  # recipes raise that of all of transformers
    logger.manager._clear_cache()
    monkeypatch.setattr(logger, "handle", lambda note: said.append(note.getMessage()) if logger.filter(note) else None)
    model = Transcriber.from_pretrained(str(save_tiny_whisper(tmp_path / "model")), max_new_tokens=4)
    soundfile.write(tmp_path / "a.wav", tone(0, 1, 1.0), 16_000)
    model.transcribe(tmp_path / "a.wav")
    assert said == []
    logger.warning("something else")
    assert said == ["something else"]
