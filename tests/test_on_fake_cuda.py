"""Every model that is trained here runs on a pretended GPU: no tensor stays on the CPU, and no types are mixed.

Fake tensors have a device and a type, and their operations refuse what CUDA's would refuse, also without a GPU.
"""

from contextlib import contextmanager

import pytest
import torch
from tiny_ctc import tiny_wav2vec2
from tiny_ssl import CONFIGS, save_tiny_ssl
from tiny_vocoder import tiny_vocoder
from tiny_whisper import WINDOW, tiny_base, tiny_moe
from torch._subclasses import FakeTensorMode

from hf_components.acoustic_units import AcousticUnitsModel, whisper_encoder
from hf_components.acoustic_units.cut_encoder import hidden_states
from hf_components.acoustic_units.nearest import nearest_centroid
from hf_components.asr import family_of
from hf_components.training import TrainingStep, WithoutValues, with_fake_tensors
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.whisper import DynamicContextWhisper, WhisperForCTC

pytestmark = pytest.mark.integration

SHORT = 1.0  # seconds: positions represent the silence after it
WHOLE = WINDOW / 100


def plain_whisper():
    return DynamicContextWhisper(tiny_base().config)


def whisper_ctc():
    return WhisperForCTC.from_whisper(plain_whisper(), vocab_size=20, blank=0)


def moe(**config):
    return lambda: tiny_moe(router_noise_std=0.1, lora_dropout=0.1, **config)


RECOGNISERS = {
    "Whisper": plain_whisper,
    "Whisper with a CTC head": whisper_ctc,
    "wav2vec2": tiny_wav2vec2,
    "wav2vec2 with layer norm": lambda: tiny_wav2vec2(feat_extract_norm="layer"),
    **{
        f"{routing}, {mixture}": moe(routing=routing, mixture=mixture, shared_expert=mixture == "weights")
        for routing in ("hard", "top_k", "soft")
        for mixture in ("weights", "logits")
    },
    "merge": moe(mixture="merge", shared_expert=True),
    "beta": moe(beta=0.7, shared_expert=True),
}
PRECISIONS = ("float32", "autocast", "bfloat16")


@contextmanager
def pretended_gpu(model: torch.nn.Module, precision: str):
    """The model in training on a fake GPU, in float32, in bfloat16, or with bfloat16 under autocast."""
    if precision == "bfloat16":
        model.to(torch.bfloat16)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", precision == "autocast")
    try:
        with FakeTensorMode():
            with_fake_tensors(model.train(), "cuda")
            with WithoutValues(model):
                yield
    finally:
        torch.set_autocast_enabled("cuda", False)


def batch_for(model: torch.nn.Module, seconds: float) -> dict[str, torch.Tensor]:
    with torch.device("cuda"):
        batch = TrainingStep(batch_size=3, seconds=seconds, tokens=5).batch(model)
    batch[model.main_input_name] = batch[model.main_input_name].to(model.dtype)
    return batch


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", RECOGNISERS)
def test_recognisers(name, precision):
    model = RECOGNISERS[name]()
    with pretended_gpu(model, precision):
        batch = batch_for(model, WHOLE if name == "merge" else SHORT)
        if family_of(model).blank(model) is not None:
            del batch["labels"]  # the CTC loss looks at values
            found = model(**batch)
        else:
            found = family_of(model).score(model, batch).outputs
            assert found.loss.device.type == "cuda"
        assert found.logits.device.type == "cuda"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shared", [False, True])
def test_given_experts_and_their_losses(shared, precision):
    model = tiny_moe(shared_expert=shared, routing="soft")
    model.train_only(experts=True, router=True)
    with pretended_gpu(model, precision):
        batch = batch_for(model, SHORT)
        losses, trunk_states = model.expert_losses(batch["input_features"], batch["labels"], batch["attention_mask"])
        assert losses.device.type == trunk_states.device.type == "cuda"
        given = torch.ones(3, model.config.num_experts, device="cuda")
        assert model(**batch, expert_weights=given).loss.device.type == "cuda"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", ["istft", "hifigan"])
def test_vocoder(head, precision):
    model: UnitHifiGanModel = tiny_vocoder(head)
    with pretended_gpu(model, precision):
        units = torch.zeros(2, 50, dtype=torch.long, device="cuda")
        mask = torch.ones(2, 50, dtype=torch.long, device="cuda")
        assert model(units, mask).device.type == "cuda"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("encoder", ["hubert-batch-norm", "wav2vec2-large", "wavlm-base"])
def test_encoders_of_units(encoder, precision, tmp_path):
    folder = save_tiny_ssl(tmp_path / "encoder", CONFIGS[encoder])
    model = AcousticUnitsModel.from_encoder(str(folder), 1, num_units=4)
    with pretended_gpu(model.encoder, precision):  # centroids stay in float32
        with_fake_tensors(model, "cuda")
        waveforms = torch.zeros(2, 16000, device="cuda")
        lengths = torch.full((2,), 16000, device="cuda")
        frames = model.num_frames(lengths)
        features = hidden_states(model.encoder, waveforms, lengths, frames, True)
        units, distances = nearest_centroid(features.flatten(0, 1), model.centroids)
        assert units.device.type == distances.device.type == "cuda"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_whisper_encoder_of_units(precision):
    model = tiny_base().model.encoder
    with pretended_gpu(model, precision):
        mels = torch.zeros(2, 100, 80, device="cuda", dtype=model.dtype)
        lengths = torch.full((2,), 50, device="cuda")
        assert whisper_encoder._encode(model, mels, lengths).device.type == "cuda"


def test_a_tensor_left_on_the_cpu_and_a_mix_of_types_are_found():
    model = plain_whisper()
    with pretended_gpu(model, "float32"):
        batch = batch_for(model, SHORT)
        with pytest.raises(RuntimeError, match="two different devices"):
            model(**{**batch, "labels": batch["labels"].cpu()})
        with pytest.raises(RuntimeError, match="type"):
            model(**{**batch, "input_features": batch["input_features"].bfloat16()})
