"""What a user is told when the LLM cannot be loaded."""

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from parsing import parse
from tiny_llm import save_tiny_llm, script

from hf_components.checkpoints import language_models
from hf_components.checkpoints.language_models import predict_llm
from hf_components.correction.arguments import CorrectionArguments
from hf_components.correction.corrector import TranscriptCorrector
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

load = TranscriptCorrector.from_pretrained


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return save_tiny_llm(tmp_path_factory.mktemp("llm"))


def test_without_the_hub():
    with pytest.raises(UserError, match="someone/llm is not in its cache.*make models/smollm2"):
        load("someone/llm")


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no folder .*nowhere.*make models/smollm2"):
        load(tmp_path / "nowhere")


def test_folder_that_is_none(tmp_path, llm):
    with pytest.raises(UserError, match="has no config.json; give another folder, or use the small one"):
        load(tmp_path)
    with pytest.raises(UserError, match="there is no none.gguf in"):
        load(llm, gguf_file="none.gguf")
    (tmp_path / "small.gguf").touch()
    with pytest.raises(UserError, match="has no config.json; --gguf_file small.gguf loads the file there"):
        load(tmp_path)
    (tmp_path / "config.json").write_text((llm / "config.json").read_text())
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path)


def test_a_batch_of_none_is_told_before_loading():
    with pytest.raises(UserError, match="--llm_batch_size must be at least 1, got 0"):
        parse(CorrectionArguments, llm_batch_size=0)


def test_model_without_chat_template(tmp_path):
    with pytest.raises(UserError, match="no chat template"):
        load(save_tiny_llm(tmp_path, template=None))


@pytest.mark.parametrize(
    ("error", "advice"), [(GatedRepoError, "gated.*hf auth login"), (RepositoryNotFoundError, "no such repository")]
)
def test_what_the_hub_refuses(monkeypatch, error, advice):
    def refuse(*args, **kwargs):
        raise OSError("as transformers says it") from error.__new__(error)  # they are made from a reply of the Hub

    monkeypatch.setattr(language_models.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(UserError, match=advice):
        load("someone/llm")


def test_too_little_memory_is_told_before_loading(monkeypatch, llm):
    monkeypatch.setattr(language_models, "free_memory", lambda device: 1000)
    monkeypatch.setattr(language_models.AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(
        UserError, match="needs about .* GiB of memory, cpu has 0.0 GiB free; choose a smaller --llm_model"
    ):
        load(llm)


def test_too_little_memory_while_loading(monkeypatch, llm):
    def refuse(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(language_models.AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(UserError, match="does not fit into the memory"):
        load(llm)


def test_four_bits_need_bitsandbytes(monkeypatch, llm):
    monkeypatch.setattr(language_models, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        load(llm, quantization="4bit")


def test_unknown_quantization(llm):
    with pytest.raises(UserError, match="auto, 4bit, none, got '8bit'"):
        load(llm, quantization="8bit")


def test_auto_is_4_bit_on_cuda_only(monkeypatch, llm, caplog):
    config = language_models.AutoConfig.from_pretrained(llm)
    monkeypatch.setattr(language_models, "is_bitsandbytes_available", lambda: True)
    assert not language_models._in_4_bit(config, "auto", torch.device("cpu"))
    assert language_models._in_4_bit(config, "auto", torch.device("cuda"))
    assert not language_models._in_4_bit(config, "none", torch.device("cuda"))
    monkeypatch.setattr(language_models, "is_bitsandbytes_available", lambda: False)
    assert not language_models._in_4_bit(config, "auto", torch.device("cuda"))
    assert "pip install bitsandbytes" in caplog.text
    config.quantization_config = {"quant_method": "awq"}
    assert not language_models._in_4_bit(config, "auto", torch.device("cuda"))
    with pytest.raises(UserError, match="already quantised .awq."):
        language_models._in_4_bit(config, "4bit", torch.device("cuda"))


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of all weights, with what bitsandbytes keeps beside them."""
    found = list(model.parameters())
    for state in [weight.quant_state for weight in found if hasattr(weight, "quant_state")]:
        found += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    storages = [value.untyped_storage() for value in found]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("quantization", ["4bit", "none"])
def test_predicted_memory_is_that_of_the_loaded_weights(tmp_path, tied, quantization):
    pytest.importorskip("bitsandbytes")
    save_tiny_llm(tmp_path, hidden_size=128, tie_word_embeddings=tied)
    model = load(tmp_path, quantization=quantization, dtype="bfloat16").model
    assert predict_llm(str(tmp_path), None, quantization, "bfloat16") == (stored_bytes(model), quantization == "4bit")


def test_4_bit_weights_answer_on_the_cpu(llm):
    pytest.importorskip("bitsandbytes")
    corrector = load(llm, quantization="4bit")
    assert corrector.model.is_loaded_in_4bit
    assert "bitsandbytes" in type(corrector.model.model.layers[0].mlp.down_proj).__module__
    assert corrector.correct(["the cat sat"])[0].proposed is not None


def test_corrections_of_4_bits_are_those_of_a_batch_of_one(llm):
    """The replies are the model's own, not scripted; the gate looks at them as at those of float32."""
    pytest.importorskip("bitsandbytes")
    texts = ["the cat sat", "on the mat", ""]
    corrector = load(llm, quantization="4bit", batch_size=2)
    found = corrector.correct(texts)
    alone = load(llm, quantization="4bit", batch_size=1).correct(texts)
    assert [one.heard for one in found] == texts and found[2].reason == "nothing heard"
    assert [(one.proposed, one.text) for one in found] == [(one.proposed, one.text) for one in alone]
    script(corrector, lambda text: text.replace("sat", "sits"))
    assert corrector.correct(texts[:1])[0].text == "the cat sits"
