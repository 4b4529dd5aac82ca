"""The predicted memory of a training step is that of a real one, and the batches that are named fit."""

import dataclasses

import pytest
import torch
from tiny_whisper import tiny_base
from torch.profiler import ProfilerActivity, profile
from transformers import Wav2Vec2Config, WhisperConfig

from hf_components.asr.ctc_from_scratch import NetworkArguments, build_wav2vec2
from hf_components.moe import ExpertArguments, loss_of_labels, loss_of_routing, mixture
from hf_components.runtime import UserError
from hf_components.training import TrainingStep, finetuned, known_config, largest_batches, loss_of_texts, predict_peak
from hf_components.training.fit import BESIDE_TENSORS, GIB, PeakMeter, new_model, ready, take_step

pytestmark = pytest.mark.integration

WHISPER = tiny_base(d_model=64, encoder_ffn_dim=256, decoder_ffn_dim=256).config
STEP = TrainingStep(batch_size=4, seconds=1.5, tokens=20)
EXPERTS = ExpertArguments(lora_rank=4)
WAV2VEC2 = build_wav2vec2(
    NetworkArguments(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, conv_dim=[8, 16, 16])
)[0].config


def allocated(build, step, loss) -> int:
    """The most bytes that torch's allocator gives out to a real training step, and to what is kept between steps."""
    torch.manual_seed(0)
    model = build()
    optimizer = ready(model, step)
    take_step(model, step, optimizer, loss)  # the first prepares kernels
    states = [value for state in optimizer.state.values() for value in state.values()]
    storages = [value.untyped_storage() for value in (*model.parameters(), *model.buffers(), *states)]
    peak = now = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take_step(model, step, optimizer, loss)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    ("build", "step", "loss"),
    [
        (finetuned(WHISPER), STEP, loss_of_texts),
        (finetuned(WHISPER), dataclasses.replace(STEP, precision="bf16"), loss_of_texts),
        (finetuned(WHISPER), dataclasses.replace(STEP, gradient_checkpointing=True), loss_of_texts),
        (finetuned(WHISPER, lora_rank=4), STEP, loss_of_texts),
        (finetuned(WHISPER, freeze="encoder"), STEP, loss_of_texts),
        (mixture(WHISPER, EXPERTS, experts=3), STEP, loss_of_labels),
        (mixture(WHISPER, EXPERTS, experts=3, train_router=True, routing="soft"), STEP, loss_of_routing),
        (finetuned(WAV2VEC2), STEP, loss_of_texts),
    ],
    ids=["all", "bf16", "checkpointing", "LoRA", "decoder", "experts", "joint", "wav2vec2"],
)
def test_prediction_is_what_a_real_step_takes(build, step, loss):
    assert predict_peak(build, step, loss) == pytest.approx(allocated(build, step, loss), rel=0.1)


def test_savings_are_predicted():
    whole = predict_peak(finetuned(WHISPER), STEP)
    assert predict_peak(finetuned(WHISPER), dataclasses.replace(STEP, gradient_checkpointing=True)) < whole
    assert predict_peak(finetuned(WHISPER), dataclasses.replace(STEP, batch_size=8)) > 1.5 * whole


@pytest.mark.parametrize("batch", [4, 30, 100])
def test_largest_batch_fits_and_not_much_is_left(batch):
    limit = predict_peak(finetuned(WHISPER), dataclasses.replace(STEP, batch_size=batch))
    (found,) = largest_batches(finetuned(WHISPER), STEP, [(limit + BESIDE_TENSORS) / GIB])
    assert 0.7 * batch <= found <= batch


def test_no_batch_fits_where_the_model_does_not():
    assert largest_batches(finetuned(WHISPER), STEP, [BESIDE_TENSORS / GIB]) == [0]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("openai/whisper-tiny", 37.8),
        ("openai/whisper-base.en", 72.6),
        ("openai/whisper-small", 241.7),
        ("openai/whisper-medium", 763.9),
        ("openai/whisper-large-v3", 1543.5),
        ("openai/whisper-large-v3-turbo", 808.9),
        ("facebook/wav2vec2-base-960h", 94.4),
        ("facebook/wav2vec2-large-960h-lv60-self", 315.5),
    ],
)
def test_known_sizes_have_as_many_weights_as_published(name, millions):
    with torch.device("meta"):
        assert new_model(known_config(name)).num_parameters() / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_folder_is_read(tmp_path):
    WhisperConfig(d_model=48).save_pretrained(tmp_path)
    assert known_config(str(tmp_path)).d_model == 48


def test_other_families_are_refused():
    config = Wav2Vec2Config()
    config.model_type = "moonshine"
    with pytest.raises(
        UserError, match="training a moonshine takes cannot be predicted.*per_device_train_batch_size 1"
    ):
        new_model(config)


def test_meter_counts_what_lives():
    layer = torch.nn.Linear(10, 10, bias=False)  # 400 bytes
    with PeakMeter(layer) as meter:
        made = torch.zeros(100)
        view = made[:50]
        del made
        assert meter.now == 800  # the view keeps all of it
        del view
        torch.zeros(25)
    assert (meter.now, meter.peak) == (400, 800)
