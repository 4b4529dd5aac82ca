"""Loading checkpoints, and what is said of those that cannot be loaded."""

import json
import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_speech import save_multilingual_whisper, save_tiny_whisper, tiny_moe, tiny_processor, tiny_whisper
from tiny_vocoder import save_tiny_vocoder
from transformers import AutoModel, WhisperForConditionalGeneration

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.asr import load_asr
from hf_components.asr.transcriber import Transcriber
from hf_components.checkpoints.generation import prompt_of
from hf_components.checkpoints.language_models import load_llm
from hf_components.checkpoints.loading import (
    BEAMS,
    code_among,
    language_of,
    load_model,
    load_moe_whisper,
    load_processor,
    load_whisper,
    merge_adapter,
    read_config,
    save_processor,
)
from hf_components.checkpoints.saving import check_savable, save_whisper
from hf_components.moe.benchmark.systems import load_system
from hf_components.runtime.errors import UserError
from hf_components.speech import load_corpus
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.units.learning import load_encoder
from hf_components.whisper import DynamicContextWhisper

pytestmark = pytest.mark.unit


def test_a_stock_checkpoint_loads_with_its_processor(tmp_path):
    model, processor = load_whisper(str(save_tiny_whisper(tmp_path)))
    assert type(model) is DynamicContextWhisper and not model.training and model.audio_context == "full"
    expected = tiny_whisper().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert processor.tokenizer("red").input_ids == tiny_processor().tokenizer("red").input_ids


def test_a_mixture_loads(tmp_path):
    tiny_moe(routing="soft").save_pretrained(tmp_path)
    save_processor(tiny_processor(), tmp_path)
    model, _ = load_moe_whisper(str(tmp_path))
    assert model.config.routing == "soft" and len(model.routed_layers()) > 0


def test_a_mixture_is_no_plain_whisper(tmp_path):
    tiny_moe().save_pretrained(tmp_path)
    save_processor(tiny_processor(), tmp_path)
    with pytest.raises(UserError, match="mixes experts, but a plain Whisper is needed; recipes/merge_moe_whisper.py"):
        load_whisper(str(tmp_path))


@pytest.mark.parametrize("saved", ["de", "german", "<|de|>"])
def test_the_language_is_the_checkpoints_unless_another_is_given(tmp_path, caplog, saved):
    folder = str(save_multilingual_whisper(tmp_path, saved))
    for model, processor in (load_whisper(folder), load_whisper(folder, "de")):
        assert (model.generation_config.language, processor.tokenizer.language) == ("de", "de")
        assert language_of(model) == "de"
    assert (
        language_of(WhisperForConditionalGeneration.from_pretrained(folder)) == "de"
        and language_of(tiny_whisper()) == "en"
    )
    assert Transcriber.from_pretrained(folder).model.generation_config.language == "de"
    model, processor = load_whisper(folder, "en")
    assert (model.generation_config.language, processor.tokenizer.language) == ("en", "en")
    for word in ("EN", "en-US", "English"):
        assert load_whisper(folder, word)[0].generation_config.language == "en"
    assert not caplog.records
    with pytest.raises(UserError, match="a language must be a code such as en, .* got 'xx'"):
        load_whisper(folder, "xx")
    with pytest.raises(UserError, match="--language must be a code that .* knows, such as en; got 'fr'"):
        load_whisper(folder, "fr")


def test_a_language_that_is_not_known_is_told(tmp_path, caplog):
    assert load_whisper(str(save_multilingual_whisper(tmp_path / "many")))[0].generation_config.language == "en"
    assert "does not say which one it writes: using en; choose one with --language" in caplog.text
    caplog.clear()
    folder = str(save_tiny_whisper(tmp_path / "english"))
    load_whisper(folder), load_whisper(folder, "en"), load_whisper(folder, "EN")
    assert not caplog.records
    load_whisper(folder, "de")
    assert "knows only English, so --language de has no effect" in caplog.text


@pytest.mark.parametrize(
    ("language", "tokens", "code"),
    [
        ("jv", ["<|jw|>", "<|en|>"], "jw"),
        ("nb", ["<|no|>"], "no"),
        ("cmn", ["<|zh|>"], "zh"),
        ("jv", ["<|jv|>", "<|jw|>"], "jv"),
        ("nb", ["<|en|>"], "nb"),
    ],
)
def test_languages_that_whisper_has_under_another_code(language, tokens, code):
    assert code_among(language, tokens) == code


def test_half_an_adapter_is_named(tmp_path):
    get_peft_model(tiny_whisper(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not an adapter of"):
        merge_adapter(tiny_whisper(), str(tmp_path))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="there is no folder models/none"):
        load_whisper("models/none")
    with pytest.raises(UserError, match="is not a checkpoint that can be loaded"):
        load_whisper(str(tmp_path))
    with pytest.raises(UserError, match="is not a checkpoint that can be loaded"):
        load_whisper("someone/whisper-that-does-not-exist")
    with pytest.raises(UserError, match="has no Whisper processor"):
        load_processor(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="is not a checkpoint that can be loaded"):
        load_whisper(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not a checkpoint that can be loaded"):
        load_whisper(str(tmp_path))


def test_a_tokenizer_without_its_vocabulary_is_named(tmp_path):
    folder = save_tiny_whisper(tmp_path / "whisper")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="whisper has a tokenizer without words; copy tokenizer.json"):
        Transcriber.from_pretrained(str(folder), device="cpu")


def test_half_a_weights_file_is_named(tmp_path):
    folder = save_tiny_whisper(tmp_path / "whisper")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a checkpoint that can be loaded"):
        load_whisper(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_named(tmp_path, value):
    model = tiny_whisper()
    model.model.encoder.conv1.bias.data[0] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="NaN or infinite weights, such as model.encoder.conv1.bias"):
        load_whisper(str(tmp_path))


def test_plain_whisper_is_no_mixture(tmp_path):
    with pytest.raises(UserError, match="not a checkpoint of MoeWhisper.* lacks .*lora"):
        load_moe_whisper(str(save_tiny_whisper(tmp_path)))


def as_of_2022(folder, **fields):
    """The checkpoint without its generation config, and with old fields in its `config.json`."""
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return str(folder)


@pytest.mark.parametrize("given, written", [(None, "de"), ("de", "de"), ("en", "en")])
def test_an_old_multilingual_checkpoint_gets_todays_generation_config(tmp_path, given, written):
    ids = tiny_processor().tokenizer.get_vocab()
    prompt = [[1, ids["<|en|>"] + 2], [2, ids["<|transcribe|>"]], [3, ids["<|notimestamps|>"]]]
    folder = as_of_2022(save_multilingual_whisper(tmp_path / "old"), forced_decoder_ids=prompt, suppress_tokens=[7])
    model, processor = load_whisper(folder, given)
    generation = model.generation_config
    assert (generation.is_multilingual, generation.language, generation.task) == (True, written, "transcribe")
    assert generation.forced_decoder_ids is None and generation.suppress_tokens == [7]
    assert generation.max_length == model.config.max_target_positions
    assert prompt_of(generation) == processor.tokenizer.prefix_tokens
    check_savable(model, processor)
    save_whisper(model, processor, tmp_path / "new")
    again, _ = load_whisper(str(tmp_path / "new"))
    assert prompt_of(again.generation_config) == processor.tokenizer.prefix_tokens


@pytest.mark.parametrize(
    "harm", [lambda content: b"", lambda content: content[: len(content) // 2], lambda content: b"[]"]
)
def test_a_damaged_generation_config_is_named(tmp_path, harm):
    """Without it the model would write another language, and tokens that are suppressed."""
    file = save_multilingual_whisper(tmp_path / "many") / "generation_config.json"
    file.write_bytes(harm(file.read_bytes()))
    for load in (load_whisper, Transcriber.from_pretrained):
        with pytest.raises(UserError, match=r"generation_config.json is damaged: .*; copy it from the base model"):
            load(str(file.parent))


def test_an_old_english_checkpoint_gets_todays_generation_config(tmp_path):
    today = save_tiny_whisper(tmp_path / "today")
    wanted = load_whisper(str(today))[0].generation_config
    model, processor = load_whisper(as_of_2022(save_tiny_whisper(tmp_path / "old")))
    found = model.generation_config
    for name in ("is_multilingual", "no_timestamps_token_id", "prev_sot_token_id", "max_length", "eos_token_id"):
        assert getattr(found, name) == getattr(wanted, name), name
    save_whisper(model, processor, tmp_path / "new")


def test_fields_of_an_old_generation_config_are_kept(tmp_path):
    folder = save_tiny_whisper(tmp_path)
    fields = json.loads((folder / "generation_config.json").read_text())
    for name in ("no_timestamps_token_id", "is_multilingual", "prev_sot_token_id"):
        del fields[name]
    (folder / "generation_config.json").write_text(json.dumps(fields | {"max_length": 33, "num_beams": 3}))
    model, processor = load_whisper(str(folder))
    assert (model.generation_config.max_length, model.generation_config.num_beams) == (33, 3)
    assert model.generation_config.suppress_tokens == fields["suppress_tokens"]
    check_savable(model, processor)


def test_a_whisper_searches_with_beams_unless_its_checkpoint_says_otherwise(tmp_path):
    model, processor = load_whisper(str(save_tiny_whisper(tmp_path / "base")))
    save_whisper(model, processor, tmp_path / "tuned")
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "tuned")
    assert stock.generation_config.num_beams == model.generation_config.num_beams == BEAMS > 1
    features = torch.randn(2, 80, 2 * stock.config.max_source_positions)
    expected = stock.generate(features, num_beams=BEAMS, max_new_tokens=6)
    assert torch.equal(stock.generate(features, max_new_tokens=6), expected)


def test_what_could_not_be_saved_is_told_before_training(tmp_path):
    model, processor = load_whisper(str(save_multilingual_whisper(tmp_path, "de")))
    model.generation_config.task = "translate"
    with pytest.raises(UserError, match="could not be saved: the prompt of generate would differ when it is loaded"):
        check_savable(model, processor)


NOWHERE = ["runs/none/model", "/no/where", "./none", "../none", "~/none", "models/none", "a b/c"]


def load_system_of(name: str):
    return load_system("moe", {"moe": name}, None, None)


@pytest.mark.parametrize("name", NOWHERE)
@pytest.mark.parametrize(
    "load",
    [
        load_whisper,
        load_processor,
        read_config,
        load_moe_whisper,
        load_system_of,
        lambda name: load_model(AutoModel, name),
        lambda name: merge_adapter(tiny_whisper(), name),
        lambda name: load_asr(name),
        lambda name: load_encoder(name, 1, 4),
        lambda name: load_llm(name, None, "none", torch.float32, torch.device("cpu")),
        lambda name: load_corpus(name),
    ],
)
def test_a_path_that_is_not_there_is_no_repository(load, name):
    with pytest.raises(UserError, match=re.escape(f"there is no folder {name}")) as caught:
        load(name)
    assert "repo" not in str(caught.value).lower()


def test_a_folder_above_the_model_names_it(tmp_path):
    save_tiny_whisper(tmp_path / "runs" / "model")
    with pytest.raises(UserError, match="did you mean .*runs/model"):
        load_whisper(str(tmp_path / "runs"))
    with pytest.raises(UserError, match="there is no folder .*run/model; did you mean .*runs"):
        load_whisper(str(tmp_path / "run" / "model"))


def test_a_release_says_where_its_vocoder_is(tmp_path):
    model = AcousticUnitsModel.from_encoder("mfcc", None, 4)
    model.save_pretrained(tmp_path)
    vocoder = save_tiny_vocoder(tmp_path / "vocoder")
    with pytest.raises(UserError, match=f"it is of type acoustic_units, not unit_hifigan; did you mean {vocoder}"):
        load_model(UnitHifiGanModel, str(tmp_path))


ABSURD = (10**6, 10**12, -1, 1e400, None, "16", [16], {})
FIELDS = ("encoder_layers", "d_model", "vocab_size", "max_source_positions", "encoder_attention_heads", "num_mel_bins")
MIXED = ("num_experts", "lora_rank", "router_hidden_size", "router_layer", "experts_per_utterance")


@pytest.mark.parametrize("field", [*FIELDS, *MIXED])
def test_a_configuration_of_absurd_values_is_refused_by_its_name(tmp_path, field):
    load = load_moe_whisper if field in MIXED else load_whisper
    if field in MIXED:
        tiny_moe().save_pretrained(tmp_path)
        save_processor(tiny_processor(), tmp_path)
    else:
        save_tiny_whisper(tmp_path)
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())
    for value in ABSURD:
        file.write_text(json.dumps({**good, field: value}))
        try:
            load(str(tmp_path))  # null and true may be read as a default
        except UserError as error:
            assert str(tmp_path) in str(error), (value, str(error))
        else:
            assert value is None or field in ("router_layer", "experts_per_utterance"), value


@pytest.mark.parametrize("value", [10**9, 1e400, "8", None, [], -1])
def test_an_adapter_of_an_absurd_rank_is_refused_by_its_name(tmp_path, value):
    get_peft_model(tiny_whisper(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "r": value}))
    with pytest.raises(UserError, match=str(tmp_path)):
        merge_adapter(tiny_whisper(), str(tmp_path))
