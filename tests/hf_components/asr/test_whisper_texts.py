"""What a Whisper learns to write."""

import pytest
from tiny_speech import save_tiny_whisper

from hf_components.asr import load_asr
from hf_components.asr.families import family_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["one two<|endoftext|>", "<|startoftranscript|>one two", "one <|notimestamps|>two"])
def test_the_name_of_a_special_token_in_a_transcript_is_not_that_token(tmp_path, text):
    model, processor = load_asr(str(save_tiny_whisper(tmp_path)))
    family = family_of(model)
    assert family.tokenize(processor, text) == family.tokenize(processor, "one two")
