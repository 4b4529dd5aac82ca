"""Peak memory of a training, found by taking one step on fake tensors: no weights, no data, no GPU.

A fake tensor has a shape, a type and a device, and no values. So a step of Whisper large-v3 runs here in seconds.
"""

import copy
import dataclasses
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch._subclasses import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCTC, PreTrainedConfig, PreTrainedModel, Wav2Vec2Config, WhisperConfig
from transformers.initialization import no_init_weights

from hf_components.asr import Ctc, family_of
from hf_components.checkpoints import read_config
from hf_components.runtime import UserError
from hf_components.training.lora import LoraArguments, add_lora
from hf_components.whisper import DynamicContextWhisper
from hf_components.whisper.routed_lora import RoutedLinear

GIB = 2**30
# A GPU holds more than tensors: CUDA's context, its libraries, and gaps between blocks. A guess, not measured here.
BESIDE_TENSORS = 1 * GIB
GPU_SIZES = (8, 16, 24, 80)  # GiB
BATCHES = (1, 8, 64)  # the batches whose memory is predicted; that of others lies on lines between them
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}

Batch = Mapping[str, Any]
Loss = Callable[[PreTrainedModel, Batch], torch.Tensor]

# Width, layers of encoder and decoder, attention heads.
WHISPER_SIZES = {
    "tiny": (384, 4, 4, 6),
    "base": (512, 6, 6, 8),
    "small": (768, 12, 12, 12),
    "medium": (1024, 24, 24, 16),
    "large": (1280, 32, 32, 20),
    "large-v2": (1280, 32, 32, 20),
    "large-v3": (1280, 32, 32, 20),
    "large-v3-turbo": (1280, 32, 4, 20),
}
WAV2VEC2_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
WAV2VEC2_SIZES = {"base": {}, "base-960h": {}, "large-960h-lv60-self": WAV2VEC2_LARGE, "xls-r-300m": WAV2VEC2_LARGE}


@dataclass(frozen=True)
class TrainingStep:
    """What decides how much memory a training step takes, besides the model and what is trained of it.

    Attributes:
        seconds: length of the longest clips, with their padding. Whisper hears 30 s in some batches, however short the
            clips are; see `full_context_fraction`.
        tokens: length of the longest text.
        precision: "no" is float32; in the others weights and gradients are float32 too, under autocast.
    """

    batch_size: int = 8
    seconds: float = 30.0
    tokens: int = 128
    precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False

    def batch(self, model: PreTrainedModel) -> dict[str, Any]:
        """A batch of that size, of zeros."""
        config = model.config
        family = family_of(model)
        tokens = min(self.tokens, family.longest_labels(model) or self.tokens)
        labels = torch.zeros(self.batch_size, tokens, dtype=torch.long)
        if family.has_mel_features or model.main_input_name == "input_features":
            frames = min(2 * round(50 * self.seconds), 2 * config.max_source_positions)
            features = torch.zeros(self.batch_size, config.num_mel_bins, frames)
        else:
            features = torch.zeros(self.batch_size, round(16000 * self.seconds))
        return {
            model.main_input_name: features,
            "attention_mask": torch.ones(self.batch_size, features.shape[-1], dtype=torch.long),
            "labels": labels,
        }


class PeakMeter(TorchDispatchMode):
    """Counts the bytes of all tensors that live at the same time, real ones or fake ones.

    Args:
        model: its weights count too.
    Attributes:
        now, peak: bytes of the weights, and of the tensors that operations in the `with` block have made and that are
            still there; and the most that these ever were.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        for value in (*model.parameters(), *model.buffers()):
            self._count(value.untyped_storage())

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.device):  # most calls only ask where a tensor is
            return made
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:  # a view, or a result written in place
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class WithoutValues(TorchDispatchMode):
    """Answers for fake tensors what depends on values: conditions hold, masks keep everything, all experts are active.

    That is the most memory that values can lead to.

    Args:
        model: the model, whose number of experts is the answer to a question for a number.
    """

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.slots = max((part.num_experts for part in model.modules() if isinstance(part, RoutedLinear)), default=1)

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        aten = torch.ops.aten
        if function is aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else self.slots
        if function is aten.nonzero.default:
            return aten.new_zeros(args[0], (args[0].numel(), args[0].dim()), dtype=torch.long)
        if function is aten.masked_select.default:
            return aten.clone(aten.reshape(args[0], (-1,)))
        if function is aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            mask = args[1][0]
            return aten.clone(aten.reshape(args[0], (mask.numel(), *args[0].shape[mask.dim() :])))
        return function(*args, **(kwargs or {}))


class FusedAttention(TorchFunctionMode):
    """Attention without dropout. It keeps no probabilities, as the fused attention of a GPU with dropout does not.

    On the CPU attention with dropout keeps them.
    """

    def __torch_function__(self, function, kinds, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is scaled_dot_product_attention:
            kwargs = {**kwargs, "dropout_p": 0.0}
        return function(*args, **kwargs)


def loss_of_texts(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """The loss of a training without regularisers."""
    family = family_of(model)
    if family.blank(model) is None:
        return family.score(model, batch).loss
    # The CTC loss depends on values; what it keeps is small beside an encoder.
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return model(**inputs).logits.float().log_softmax(-1).square().sum()


def take_step(
    model: PreTrainedModel, step: TrainingStep, optimizer: torch.optim.Optimizer, loss: Loss = loss_of_texts
) -> None:
    """One optimizer step, the same as `Trainer` takes it. Where the model has fake tensors, the batch is fake too."""
    batch = step.batch(model)
    with torch.autocast("cpu", AUTOCAST.get(step.precision), enabled=step.precision in AUTOCAST):
        value = loss(model, batch)
    value.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def ready(model: PreTrainedModel, step: TrainingStep) -> torch.optim.Optimizer:
    """Set a model up as `Trainer` does. The optimizer that is returned has the state that it has after a step."""
    model.train()
    if step.gradient_checkpointing:
        # A fake step draws no random numbers, so there is no state to keep.
        options = {"use_reentrant": False, "preserve_rng_state": False}
        model.gradient_checkpointing_enable(options)
        model.config.use_cache = False
    if step.precision in AUTOCAST:  # accelerate gives float32 to what is computed from outputs
        model.forward = types.MethodType(convert_outputs_to_fp32(model.forward.__func__), model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def with_fake_tensors(model: torch.nn.Module, device: str = "cpu") -> torch.nn.Module:
    """The same model, its weights and buffers replaced by fake ones on a device, which need not be there.

    Call this and use the model within a `FakeTensorMode`.
    """
    fakes: dict[torch.Tensor, torch.Tensor] = {}  # tied weights stay tied

    def fake(real: torch.Tensor) -> torch.Tensor:
        if real not in fakes:
            made = torch.empty(real.shape, dtype=real.dtype, device=device)
            is_weight = isinstance(real, torch.nn.Parameter)
            fakes[real] = torch.nn.Parameter(made, real.requires_grad) if is_weight else made
        return fakes[real]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake(value) for name, value in tensors.items() if value is not None})
    return model


def without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose weights and buffers have a size and no values."""
    empty: dict[int, torch.Tensor] = {}
    for value in (*model.parameters(), *model.buffers()):
        made = torch.empty_like(value, device="meta")
        is_weight = isinstance(value, torch.nn.Parameter)
        empty[id(value)] = torch.nn.Parameter(made, value.requires_grad) if is_weight else made
    return copy.deepcopy(model, empty)


def predict_peak(
    build: Callable[[], PreTrainedModel], step: TrainingStep, loss: Loss = loss_of_texts, *, gpu: bool = False
) -> int:
    """The most bytes that tensors take during a step: weights, gradients, optimizer, activations, and the batch.

    Args:
        build: function that returns a new model in which only what is trained requires gradients; see `finetuned`.
        loss: what is minimised.
        gpu: a step of a GPU, whose attention is fused; else of the CPU.
    """
    with torch.device("meta"), no_init_weights():
        model = build()
    with FakeTensorMode():
        model = with_fake_tensors(model)
        with PeakMeter(model) as meter:
            optimizer = ready(model, step)
            with WithoutValues(model), FusedAttention() if gpu else nullcontext():
                take_step(model, step, optimizer, loss)
    return meter.peak


def largest_batches(
    build: Callable[[], PreTrainedModel], step: TrainingStep, sizes: Sequence[float], loss: Loss = loss_of_texts
) -> list[int]:
    """The largest batch that fits GPUs of so many GiB; 0: not even one utterance fits. See `predict_peak`.

    At each moment of a step memory grows in proportion to the batch, so the peak is the greatest of several straight
    lines. It bends upward: between two batches it lies below the line through their peaks.
    """
    peaks = [predict_peak(build, dataclasses.replace(step, batch_size=batch), loss, gpu=True) for batch in BATCHES]
    return [_largest(peaks, size * GIB - BESIDE_TENSORS) for size in sizes]


def _largest(peaks: Sequence[int], limit: float) -> int:
    if limit < peaks[0]:
        return 0
    index = max(i for i in range(len(BATCHES) - 1) if i == 0 or peaks[i] <= limit)
    each = (peaks[index + 1] - peaks[index]) / (BATCHES[index + 1] - BATCHES[index])
    return BATCHES[index] + int((limit - peaks[index]) / each)


def known_config(name: str) -> PreTrainedConfig:
    """The configuration of a checkpoint: of a Whisper or a usual wav2vec2 by its name alone, else of folder or Hub id.

    Raises:
        UserError: there is no such checkpoint.
    """
    publisher, _, model = name.rpartition("/")
    size = model.removeprefix("whisper-")
    if publisher == "openai" and size.removesuffix(".en") in WHISPER_SIZES:
        return whisper_config(size)
    if publisher == "facebook" and model.removeprefix("wav2vec2-") in WAV2VEC2_SIZES:
        return Wav2Vec2Config(vocab_size=32, **WAV2VEC2_SIZES[model.removeprefix("wav2vec2-")])
    fields = read_config(name)
    return AutoConfig.for_model(**fields)


def whisper_config(size: str) -> WhisperConfig:
    """The configuration of a Whisper that OpenAI published, such as "small.en"."""
    width, encoder_layers, decoder_layers, heads = WHISPER_SIZES[size.removesuffix(".en")]
    newer = size.startswith("large-v3")
    return WhisperConfig(
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        num_mel_bins=128 if newer else 80,
        vocab_size=51866 if newer else 51864 if size.endswith(".en") else 51865,
    )


def new_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model without trained weights: a Whisper, or one with a CTC head."""
    config = copy.deepcopy(config)  # a training changes it
    if config.model_type == "whisper":
        model = DynamicContextWhisper(config)
    elif config.model_type in Ctc.model_classes:
        model = AutoModelForCTC.from_config(config)
    else:
        raise UserError(
            f"the memory that training a {config.model_type} takes cannot be predicted, only that of a Whisper or a "
            "CTC model such as wav2vec2: name one of these, or try it on the GPU itself, from "
            "--per_device_train_batch_size 1 upwards"
        )
    model.tie_weights()
    return model


def finetuned(
    config: PreTrainedConfig, *, lora_rank: int | None = None, freeze: str | None = None
) -> Callable[[], PreTrainedModel]:
    """Function that returns a new model to fine-tune: all of it, or a LoRA of this rank.

    Args:
        freeze: "encoder" or "decoder", which is not trained; or None.
    """

    def build() -> PreTrainedModel:
        model = new_model(config)
        family_of(model).prepare_for_training(model, freeze=freeze)
        if lora_rank:
            add_lora(model, LoraArguments(lora_rank=lora_rank), freeze=freeze)
        return model

    return build
