"""What is written with voices in an evaluation."""

from dataclasses import replace

import pytest
from tiny_speech import rows, tiny_moe, tiny_processor, tiny_whisper
from tiny_voices import random_lora, voting, with_examples

from hf_components.asr import Transcriber, Voices
from hf_components.voices.evaluation import written_with

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("weights", [None, [0.5, 0.25, 0.25]])
def test_a_vote_is_what_its_voice_writes(weights):
    model = tiny_whisper() if weights is None else tiny_moe(router_layer=1)
    said = ("red cat", "green dog")
    voices = {
        "control context": with_examples(model, "anna", *said, weights=weights),
        "control lora": random_lora(model, "anna", seed=1, weights=weights),
        "control vote": voting(model, "anna", *said, seed=1, weights=weights),
    }
    transcriber = Transcriber(model, tiny_processor(), max_new_tokens=8)
    before = [one.text for one in transcriber.transcribe_corpus(rows(4))]
    found = written_with(transcriber, rows(4), voices, before)
    alone = Voices(model, {"anna": voices["control vote"]}, {"anna": "somewhere"})
    expected = replace(transcriber, voices=alone).transcribe_corpus(rows(4))
    assert found["control vote"] == [one.text for one in expected]
    assert list(found) == ["control context", "control lora", "control vote"]
