"""Each family against transformers' own pipeline or `generate`; what is served, and what is said of the rest."""

import dataclasses
import json

import pytest
import soxr
import tiny_models
import torch
from every_model import EVERY
from peft import LoraConfig, get_peft_model
from tiny_encoder_decoders import save_seamless
from tiny_speech import save_tiny_whisper, tiny_moe, tiny_processor, tiny_whisper, tone
from transformers import AutoModelForSeq2SeqLM, AutoProcessor, WhisperForConditionalGeneration, pipeline

from hf_components.asr import audio_llms, families
from hf_components.asr.families import FAMILIES, family_of, load_asr
from hf_components.asr.seq2seq import EncoderDecoder
from hf_components.checkpoints.loading import merge_adapter, save_processor
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import log_mel
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration

pytestmark = pytest.mark.unit

GREEDY = {"max_new_tokens": 10, "num_beams": 1}
CLIPS = [tone(i % 3, i, 0.5 + 0.4 * i) for i in range(4)]
GENERATES = ("moonshine", "moonshine streaming", "speech2text", "speecht5", "two put together", "seamless")
WITH_PIPELINE = (
    "wav2vec2",
    "wav2vec2 without mask",
    "hubert",
    "w2v-bert",
    "parakeet ctc",
    "granite 5",
    "lasr",
    "parakeet tdt",
    "parakeet rnnt",
    "nemotron streaming",
    *GENERATES,
)


def written(folder, clips) -> list[str]:
    model, processor = load_asr(str(folder))
    family = family_of(model)
    return family.decode(model, processor, family.inputs(processor, clips), **GREEDY)


@pytest.mark.parametrize("name", WITH_PIPELINE)
def test_what_is_written_is_what_the_pipeline_writes(name, tmp_path):
    folder = EVERY[name](tmp_path)
    language = {"tgt_lang": "eng"} if name == "seamless" else {}
    options = {"generate_kwargs": GREEDY | language} if name in GENERATES else {}
    reference = pipeline("automatic-speech-recognition", model=str(folder))
    expected = [reference(clip.copy(), **options)["text"].replace("<unk>", "") for clip in CLIPS[:2]]
    texts = [written(folder, [clip])[0] for clip in CLIPS[:2]]
    assert texts == expected and len(set(texts)) == 2


ASKED = {
    "canary": lambda processor, clip: processor.apply_transcription_request(clip, source_language="en"),
    "cohere": lambda processor, clip: processor(clip, language="en", sampling_rate=16_000),
    "qwen3-asr": lambda processor, clip: processor.apply_transcription_request(clip, language="en"),
    "fun-asr": lambda processor, clip: processor.apply_transcription_request(clip, language="en"),
    "granite": lambda processor, clip: processor(
        processor.tokenizer.apply_chat_template(
            [{"role": "user", "content": "<|audio|>can you transcribe the speech into a written format?"}],
            tokenize=False,
            add_generation_prompt=True,
        ),
        clip,
        return_tensors="pt",
    ),
    **dict.fromkeys(
        ("glm-asr", "moss", "audio flamingo", "nemotron transcribe"),
        lambda processor, clip: processor.apply_transcription_request(clip, return_tensors="pt"),
    ),
}
READ = {"qwen3-asr": {"return_format": "transcription_only"}, "audio flamingo": {"strip_prefix": True}}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_written_is_what_generate_writes(name, tmp_path):
    folder = EVERY[name](tmp_path)
    model, _ = load_asr(str(folder))
    stock = type(model).from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    inputs = ASKED[name](processor, CLIPS[3])
    prompt = inputs["decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"]
    tokens = stock.generate(**{name: value for name, value in inputs.items() if torch.is_tensor(value)}, **GREEDY)
    assert torch.equal(tokens[:, : prompt.shape[1]], prompt)
    (expected,) = processor.decode(tokens[:, prompt.shape[1] :], skip_special_tokens=True, **READ.get(name, {}))
    assert written(folder, [CLIPS[3]]) == [expected] and expected


def test_audio_of_another_rate_is_what_the_model_hears(tmp_path):
    folder = EVERY["vibevoice"](tmp_path)
    model, processor = load_asr(str(folder))
    clip = soxr.resample(CLIPS[2], 16_000, 24_000)
    inputs = processor.apply_transcription_request(clip, return_tensors="pt")
    tokens = model.generate(**inputs, sample=False, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    (expected,) = processor.decode(tokens, return_format="transcription_only")
    assert written(folder, [CLIPS[2]]) == [expected] and expected


def test_a_language_is_asked_for(tmp_path):
    model, processor = load_asr(str(EVERY["seamless"](tmp_path / "seamless")))
    family = family_of(model)
    for language, token in (("fr", "__fra__"), ("fra", "__fra__"), ("en", "__eng__"), (None, "__eng__")):
        first = family.inputs(processor, CLIPS, language=language)["decoder_input_ids"]
        assert set(processor.tokenizer.convert_ids_to_tokens(first[:, 0])) == {token}
    with pytest.raises(UserError, match="SeamlessM4T cannot transcribe language 'de': its vocabulary has no __deu__"):
        family.inputs(processor, CLIPS, language="de")
    model, processor = load_asr(str(EVERY["nemotron 3.5"](tmp_path / "nemotron")))
    assert set(family_of(model).inputs(processor, CLIPS, language="de")["prompt_ids"].tolist()) == {9}
    with pytest.raises(UserError, match="Nemotron 3.5 cannot transcribe language 'tlh'"):
        family_of(model).inputs(processor, CLIPS, language="tlh")


def test_whisper_writes_what_stock_whisper_writes_of_30_seconds(tmp_path):
    folder = save_tiny_whisper(tmp_path)
    stock, processor = WhisperForConditionalGeneration.from_pretrained(folder).eval(), tiny_processor()
    features = log_mel(processor.feature_extractor, CLIPS, 3000)
    expected = processor.batch_decode(stock.generate(features, **GREEDY), skip_special_tokens=True)
    assert written(folder, CLIPS) == expected and len(set(expected)) > 1


def test_a_mixture_is_told_from_a_plain_whisper(tmp_path):
    tiny_moe(routing="soft").save_pretrained(tmp_path / "moe")
    save_processor(tiny_processor(), tmp_path / "moe")
    assert isinstance(load_asr(str(tmp_path / "moe"))[0], MoeWhisperForConditionalGeneration)
    assert type(load_asr(str(save_tiny_whisper(tmp_path / "plain")))[0]) is DynamicContextWhisper


def test_inputs_of_whisper_are_as_long_as_asked_and_masked():
    (whisper,) = [family for family in FAMILIES if family.name == "Whisper"]
    short, full = (whisper.inputs(tiny_processor(), CLIPS[:2], full_context=full) for full in (False, True))
    assert short["input_features"].shape == (2, 80, 92) and full["input_features"].shape == (2, 80, 3000)
    assert short["attention_mask"].sum(1).tolist() == full["attention_mask"].sum(1).tolist() == [52, 92]


def test_the_mask_is_given_where_the_extractor_asks_for_it(tmp_path):
    for norm in ("layer", "group"):
        model, processor = load_asr(str(tiny_models.save_wav2vec2(tmp_path / norm, norm)))
        assert ("attention_mask" in family_of(model).inputs(processor, CLIPS)) == (norm == "layer")


def test_labels_are_in_the_case_of_the_vocabulary(tmp_path):
    model, processor = load_asr(str(tiny_models.save_wav2vec2(tmp_path / "upper")))
    assert (
        processor.tokenizer.decode(family_of(model).tokenize(processor, "Hello moon"), group_tokens=False)
        == "HELLO MOON"
    )
    model, processor = load_asr(str(tiny_models.save_parakeet(tmp_path / "lower")))
    assert (
        processor.tokenizer.decode(family_of(model).tokenize(processor, "hello moon"), group_tokens=False)
        == "hello moon"
    )


def test_what_cannot_be_done_is_told(tmp_path):
    model, processor = load_asr(str(tiny_models.save_wav2vec2(tmp_path / "ctc")))
    family = family_of(model)
    with pytest.raises(UserError, match="CTC models decode greedily: num_beams must be 1, got 3"):
        family.decode(model, processor, family.inputs(processor, CLIPS), max_new_tokens=5, num_beams=3)
    model, processor = load_asr(str(tiny_models.save_canary(tmp_path / "canary")))
    with pytest.raises(UserError, match="Canary cannot transcribe language 'tlh'"):
        family_of(model).inputs(processor, CLIPS, language="tlh")
    model, processor = load_asr(str(save_seamless(tmp_path / "seamless")))
    with pytest.raises(UserError, match="SeamlessM4T models are supported for transcription, not for training"):
        family_of(model).tokenize(processor, "hello")
    with pytest.raises(UserError, match="SeamlessM4T models are supported for transcription, not for training"):
        family_of(model).prepare_for_training(model)


def test_what_is_not_served_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no folder ./none"):
        load_asr("./none")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    message = "is of type bert, which cannot transcribe; supported types are .*canary.*wav2vec2"
    with pytest.raises(UserError, match=message):
        load_asr(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dia"}))
    with pytest.raises(UserError, match="is of type dia, which reads text aloud and recognises no speech"):
        load_asr(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="is not a checkpoint that can be loaded"):
        load_asr(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds only an adapter: give its base model"):
        load_asr(str(tmp_path))


def test_a_package_that_is_missing_is_told_before_the_weights_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_llms, "is_mistral_common_available", lambda: False)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "voxtral"}))
    with pytest.raises(UserError, match="which needs mistral-common: pip install 'mistral-common>=1.11"):
        load_asr(str(tmp_path))


def test_a_language_model_of_which_nothing_is_known_is_told(tmp_path, monkeypatch):
    folder = EVERY["glm-asr"](tmp_path)
    (encoder_decoder,) = [family for family in FAMILIES if isinstance(family, EncoderDecoder)]
    unknown = dataclasses.replace(encoder_decoder, model_types=("glmasr",), model_class=AutoModelForSeq2SeqLM)
    monkeypatch.setattr(families, "FAMILIES", (unknown,))
    message = "is of type glmasr, a language model with audio input, but its prompt for transcription is not known"
    with pytest.raises(UserError, match=message):
        load_asr(str(folder))


def test_a_model_without_a_head_is_told(tmp_path):
    folder = tiny_models.save_wav2vec2(tmp_path)
    model, _ = load_asr(str(folder))
    model.wav2vec2.save_pretrained(folder)
    with pytest.raises(UserError, match="is not a checkpoint of Wav2Vec2ForCTC: it lacks lm_head.bias"):
        load_asr(str(folder))


def test_an_adapter_that_is_none_or_of_another_model_is_told(tmp_path):
    model, _ = load_asr(str(save_tiny_whisper(tmp_path / "model")))
    with pytest.raises(UserError, match="is not an adapter: it has no adapter_model.safetensors"):
        merge_adapter(model, str(tmp_path / "model"))
    for layers in (2, 4):
        other = get_peft_model(tiny_whisper(encoder_layers=layers), LoraConfig(target_modules=["q_proj"]))
        other.save_pretrained(tmp_path / "lora")
        with pytest.raises(
            UserError, match=r"is not an adapter of .*: one of the two has no .*encoder.layers.[23].*lora"
        ):
            merge_adapter(load_asr(str(tmp_path / "model"))[0], str(tmp_path / "lora"))
