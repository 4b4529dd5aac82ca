"""Files beside the weights of a Whisper that contradict them, or each other: the right text, or a refusal by name."""

import json
import logging
import shutil

import pytest
import soundfile
from tiny_speech import save_multilingual_whisper, save_tiny_whisper, tone

from hf_components.asr.transcriber import Transcriber
from hf_components.checkpoints.loading import load_whisper
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit
KINDS = {"english": save_tiny_whisper, "multilingual": save_multilingual_whisper}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whispers")
    for kind, save in KINDS.items():
        save(folder / kind)
    soundfile.write(folder / "a.wav", tone(0, 0, 1.0), 16_000)
    return folder


def changed(folder, kind: str, file: str, **fields):
    """A copy of a checkpoint with other fields in a file; None leaves a field out."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / kind, copy)
    path = copy / file
    content = json.loads(path.read_text())
    part = content["feature_extractor"] if file == "processor_config.json" else content
    part.update(fields)
    for name in [name for name, value in fields.items() if value is None]:
        del part[name]
    path.write_text(json.dumps(content))
    return copy


def text_of(model, folder) -> str:
    return Transcriber.from_pretrained(model, max_new_tokens=8).transcribe(folder / "a.wav")


HARMLESS = [
    ("english", {"language": "en", "task": "transcribe"}),
    ("english", {"language": "de"}),
    ("english", {"forced_decoder_ids": [[1, 5], [2, 6]]}),  # a prompt of 2022, of another model
    ("english", {"forced_decoder_ids": "x"}),
    ("english", {"lang_to_id": {"<|en|>": 258}, "task_to_id": {"transcribe": 260}}),
    ("english", {"max_length": 448}),
    ("multilingual", {"lang_to_id": None}),
    ("multilingual", {"task_to_id": {}}),
    ("multilingual", {"return_timestamps": True}),
    ("multilingual", {"return_dict_in_generate": True}),
    ("multilingual", {"unknown_to_us": 1}),
]


@pytest.mark.parametrize(("kind", "fields"), HARMLESS, ids=str)
def test_the_text_is_that_of_the_checkpoint(folder, kind, fields):
    assert text_of(changed(folder, kind, "generation_config.json", **fields), folder) == text_of(folder / kind, folder)


def test_a_language_of_an_english_model_is_warned_of(folder, caplog):
    with caplog.at_level(logging.WARNING):
        load_whisper(str(changed(folder, "english", "generation_config.json", language="de")))
    assert "knows only English, so its saved language de has no effect" in caplog.text


WRONG = {
    "generation_config.json": [
        ({"language": 7}, "language must be a word, got 7"),
        ({"task": "sing"}, "task must be transcribe or translate, got 'sing'"),
        ({"is_multilingual": "no"}, "is_multilingual must be true or false, got 'no'"),
        ({"decoder_start_token_id": None}, r"decoder_start_token_id must be \d+, the tokenizer's .*, got None"),
        ({"no_timestamps_token_id": 10**6}, r"no_timestamps_token_id must be \d+"),
        ({"eos_token_id": [3, 4]}, r"eos_token_id must be \d+"),
        ({"pad_token_id": 10**6}, "pad_token_id must be an id from 0 to"),
        ({"lang_to_id": {"<|en|>": 3}}, r"lang_to_id, <\|en\|>, must be \d+"),
        ({"task_to_id": {"transcribe": 259}}, "task_to_id, transcribe, must be"),  # as in large-v2 and large-v3
        ({"suppress_tokens": [-1]}, "suppress_tokens must be a list of ids from 0 to"),
        ({"begin_suppress_tokens": "x"}, "begin_suppress_tokens must be a list"),
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1, got 0"),
        ({"num_beams": "2"}, "num_beams must be a whole number of at least 1, got '2'"),
        ({"length_penalty": "x"}, "length_penalty must be a number"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number above 0"),
        ({"num_beam_groups": 2}, "num_beam_groups must be 1"),
        ({"stop_strings": ["a"]}, "stop_strings must be left out"),
    ],
    "processor_config.json": [
        ({"sampling_rate": 8000}, "sampling_rate must be 16000, got 8000"),
        ({"feature_size": 128}, "feature_size must be 80, got 128"),
        ({"hop_length": 80}, "hop_length must be 160"),
        ({"chunk_length": 10}, "nb_max_frames must be 3000, got 1000"),
        ({"padding_value": "x"}, "padding_value must be 0"),
        ({"dither": "x"}, "dither must be a number from 0 to 1"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, "the feature extractor must be that of a Whisper"),
    ],
    "tokenizer_config.json": [({"tokenizer_class": "BertTokenizer"}, "the tokenizer must be that of a Whisper")],
    "config.json": [({"encoder_layers": 2}, "encoder.layers.2.* which its config.json leaves out")],
}


@pytest.mark.parametrize(
    ("file", "fields", "message"), [(file, *case) for file, cases in WRONG.items() for case in cases], ids=str
)
def test_what_cannot_be_right_is_refused_by_name(folder, file, fields, message):
    with pytest.raises(UserError, match=message):
        load_whisper(str(changed(folder, "multilingual", file, **fields)))
