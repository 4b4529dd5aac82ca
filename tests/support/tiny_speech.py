"""A tiny Whisper with a real processor, and a tiny prepared corpus of tones: built in code, offline.

The processor has Whisper's own feature extractor (30 s) and a byte-level tokenizer without merges.
"""

import functools
import tempfile
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
from make_corpus import add_speaker
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    TrainerCallback,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from hf_components.checkpoints.ctranslate2_import import load_tokenizer
from hf_components.checkpoints.generation import whisper_generation_config
from hf_components.checkpoints.loading import save_processor
from hf_components.moe.curriculum import RoutingArguments
from hf_components.moe.trainer import MoeTrainer
from hf_components.speech.audio import encode_flac
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.data import Draw
from hf_components.training.kl_to_base import KlToBaseArguments, KlToBaseTrainer
from hf_components.training.lora import LoraArguments, add_lora
from hf_components.training.teacher import BaseOfAdapter, Teacher
from hf_components.training.trainer import SpeechTrainer
from hf_components.whisper import DynamicContextWhisper, MoeWhisperForConditionalGeneration

SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|nocaptions|>",
    "<|notimestamps|>",
]
WORDS = ("red", "green", "blue", "sun", "moon", "cat", "dog")  # no numbers, which the normaliser joins
EXPERTS = 3


@functools.cache
def tiny_processor() -> WhisperProcessor:
    bytes_only = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    with tempfile.TemporaryDirectory() as folder:
        bytes_only.save(f"{folder}/tokenizer.json")
        tokenizer = load_tokenizer(Path(folder) / "tokenizer.json", vocab_size=10**6)
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer)


def tiny_whisper(
    seed: int = 0, encoder_layers: int = 3, positions: int = 64, width: int = 16
) -> DynamicContextWhisper:
    """Random weights, large enough that what is written depends on the audio; it writes letters only."""
    tokenizer = tiny_processor().tokenizer
    end, start = tokenizer.convert_tokens_to_ids(SPECIAL[:2])
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=80,
        d_model=width,
        encoder_layers=encoder_layers,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=width,
        decoder_ffn_dim=width,
        max_target_positions=positions,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=2 / width**0.5,  # so that a wider one is no louder
    )
    model = DynamicContextWhisper(config).eval()
    letters = tokenizer.convert_tokens_to_ids(list("Ġabcdefghijklmnopqrstuvwxyz"))
    suppressed = sorted(set(range(len(tokenizer))) - {end, *letters})
    model.generation_config = whisper_generation_config({"suppress_ids": suppressed}, tokenizer, config)
    return model


def save_tiny_whisper(folder: Path, **options) -> Path:
    """A stock Whisper checkpoint with its processor."""
    model = tiny_whisper(**options)
    stock = WhisperForConditionalGeneration(model.config)
    stock.load_state_dict(model.state_dict())
    stock.generation_config = model.generation_config
    stock.save_pretrained(folder)
    save_processor(tiny_processor(), folder)
    return folder


def save_multilingual_whisper(folder: Path, language: str | None = None) -> Path:
    """As `save_tiny_whisper`, of one that knows "en" and "de", with the language that it says it writes."""
    save_tiny_whisper(folder)
    ids = tiny_processor().tokenizer.get_vocab()
    generation = GenerationConfig.from_pretrained(folder)
    generation.is_multilingual, generation.language = True, language
    generation.lang_to_id = {
        "<|en|>": ids["<|en|>"],
        "<|de|>": ids["<|en|>"] + 2,
    }  # Whisper's first and third language
    generation.task_to_id = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    generation.save_pretrained(folder)
    return folder


def batch_of(trainer: SpeechTrainer, full_context: bool = False) -> dict[str, torch.Tensor]:
    return trainer.data_collator([trainer.train_dataset[Draw(i, 0, full_context)] for i in range(4)])


def tiny_moe(seed: int = 0, **config) -> MoeWhisperForConditionalGeneration:
    """Three experts that differ, and a router that tells the tones apart a little."""
    base = tiny_whisper(seed)
    model = MoeWhisperForConditionalGeneration.from_base(
        base,
        **{
            "num_experts": EXPERTS,
            "lora_rank": 2,
            "lora_alpha": 4,
            "shared_expert": True,
            "router_hidden_size": 8,
            "audio_context": "dynamic",
            "min_audio_context": 50,
            **config,
        },
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.routed_layers().values():
            layer.lora_b.copy_(0.2 * torch.randn(layer.lora_b.shape, generator=generator))
    return model


def tone(group: int, seed: int, seconds: float) -> np.ndarray:
    """float32 (samples,): a harmonic tone whose pitch depends on the group, over breath noise."""
    rng = np.random.default_rng([group, seed])
    time = np.arange(int(seconds * 16_000)) / 16_000
    pitch = 120 * 2.0**group * rng.uniform(0.95, 1.05)
    voice = sum(np.sin(2 * np.pi * n * pitch * time) / n for n in range(1, 6))
    return (0.1 * voice + 0.005 * rng.standard_normal(len(time))).astype(np.float32)


def sentence(seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, 1 + seed % 3).tolist())


def rows(count: int, *, first: int = 0, seconds: float | None = None) -> datasets.Dataset:
    """Rows as `load_corpus` gives them; clips of 0.4 to 1 s unless told."""
    lengths = [0.4 + 0.6 * ((7 * i) % 10) / 10 if seconds is None else seconds for i in range(first, first + count)]
    clips = [encode_flac(tone(i % 3, i, length)) for i, length in enumerate(lengths, first)]
    return datasets.Dataset.from_dict(
        {
            "id": [f"u{i}" for i in range(first, first + count)],
            "audio": [{"bytes": clip, "path": None} for clip in clips],
            "text": [sentence(i) for i in range(first, first + count)],
            "speaker_id": [f"s{i % 4}" for i in range(first, first + count)],
            "group": [("low", "middle", "high")[i % 3] for i in range(first, first + count)],
            "duration": lengths,
        }
    )


def speaker_folder(root: Path) -> Path:
    """The speaker-JSON layout: two speakers of each of three groups to train on, one of each to test on."""
    for split, speakers in (("Train", 2), ("Dev", 1)):
        for group, name in enumerate(("low", "middle", "high")):
            for number in range(speakers):
                first = 4 * number + (100 if split == "Dev" else 0)
                seeds = range(first, first + 4)
                transcripts = {f"{seed}.wav": sentence(seed) for seed in seeds}
                folder = add_speaker(root, split, f"{split}-{name}-{number}", transcripts, etiology=name)
                for seed in seeds:
                    soundfile.write(folder / f"{seed}.wav", tone(group, seed, 0.4 + 0.1 * (seed % 5)), 16_000)
    return root


def training_arguments(folder: Path, kind: type = SpeechTrainingArguments, **options) -> SpeechTrainingArguments:
    """Nothing random, nothing written, plain gradients; `options` change that."""
    return kind(
        **{
            "output_dir": str(folder),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "full_context_fraction": 0.0,
            "time_masks": 0,
            "mel_masks": 0,
            "warmup_steps": 0,
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "dataloader_pin_memory": False,
            "max_new_tokens": 6,
            **options,
        }
    )


class GradientRecorder(TrainerCallback):
    """Keeps the gradients of every optimizer step, by parameter name."""

    def __init__(self):
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append(
            {
                name: parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        )


def gradient_of_one_step(
    folder: Path, batch_size: int, accumulation: int, *, routing: str | None, mixture: str = "weights"
) -> dict[str, torch.Tensor]:
    """Train one step on eight utterances with the real trainer and return what reached the optimizer.

    Args:
        batch_size: utterances per micro-batch and process.
        accumulation: micro-batches per step.
        routing: of a MoE-Whisper with every routing loss on and its base beside it; None trains a whole Whisper.
    """
    recorder = GradientRecorder()
    # Clips of one length: padding is part of what the encoder hears, and would differ between splits.
    common = (
        training_arguments(
            folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            num_train_epochs=1,
        ),
        tiny_processor(),
        rows(8, seconds=0.6),
    )
    if routing is None:
        trainer = SpeechTrainer(tiny_whisper(), *common, callbacks=[recorder])
    else:
        model = tiny_moe(mixture=mixture, experts_per_utterance=2)
        model.train_only(experts=True, router=True)
        phases = {"soft": (1, 0), "top_k": (0, 1), "hard": (0, 0)}[routing]
        losses = RoutingArguments(
            soft_routing_epochs=phases[0],
            topk_routing_epochs=phases[1],
            router_noise_std=0.0,
            load_balance_coef=0.5,
            routing_alignment_coef=0.5,
            routing_entropy_coef=0.5,
        )
        trainer = MoeTrainer(
            model,
            *common,
            routing=losses,
            kl=KlToBaseArguments(kl_to_base_coef=0.5),
            base=Teacher(tiny_whisper()),
            callbacks=[recorder],
        )
        trainer.usage = torch.tensor([0.5, 0.3, 0.2])  # as in the middle of a run: a loss that is not constant
    trainer.train()
    (gradients,) = recorder.steps
    return {name.removeprefix("module."): gradient for name, gradient in gradients.items()}


def gradient_near_base(folder: Path, batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
    """As `gradient_of_one_step`, of a LoRA that is held near its base."""
    model, recorder = tiny_whisper(), GradientRecorder()
    torch.manual_seed(0)
    lora = add_lora(model, LoraArguments(lora_rank=2, lora_dropout=0.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    args = training_arguments(
        folder, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, num_train_epochs=1
    )
    KlToBaseTrainer(
        model,
        args,
        tiny_processor(),
        rows(8, seconds=0.6),
        kl=KlToBaseArguments(kl_to_base_coef=2.0),
        base=BaseOfAdapter(lora),
        callbacks=[recorder],
    ).train()
    (gradients,) = recorder.steps
    return {name.removeprefix("module."): gradient for name, gradient in gradients.items()}


REGULARISERS = {
    "ema_decay": 0.9,
    "l2_to_start": 0.1,
    "consistency_coef": 0.5,
    "concatenate": 0.5,
    "speed_factors": [0.9, 1.0, 1.1],
}


def move(model: torch.nn.Module) -> None:
    """Change the trained weights, by the same numbers each time."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def regularised_gradient(
    folder: Path, batch_size: int, accumulation: int, moved: bool = False, **options
) -> dict[str, torch.Tensor]:
    """As `gradient_of_one_step`, of a whole Whisper with regularisers, which may have moved away from its start."""
    recorder = GradientRecorder()
    args = training_arguments(
        folder,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        **options,
    )
    trainer = SpeechTrainer(tiny_whisper(), args, tiny_processor(), rows(8, seconds=0.6), callbacks=[recorder])
    if moved:
        move(trainer.model)
    trainer.train()
    (gradients,) = recorder.steps
    return {name.removeprefix("module."): gradient for name, gradient in gradients.items()}


class Kill(TrainerCallback):
    """Stops the process, as it were, in the middle of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def resumable_trainer(
    folder: Path, *, save_steps: int = 1, accumulation: int = 1, callbacks=(), routing: dict | None = None, **options
) -> MoeTrainer:
    """Everything that draws random numbers is on: order, augmentation, context, dropout, router noise; and KL to the
    base, which takes a third of the time where it sees 30 s."""
    model = tiny_moe(lora_dropout=0.2)
    model.train_only(experts=True, router=True)
    base = tiny_whisper()
    base.set_audio_context("dynamic", 2)
    args = training_arguments(
        folder,
        **{
            "per_device_train_batch_size": 4 // accumulation,
            "gradient_accumulation_steps": accumulation,
            "num_train_epochs": 3,
            "save_strategy": "steps",
            "save_steps": save_steps,
            "learning_rate": 1e-2,
            "full_context_fraction": 0.3,
            "time_masks": 2,
            "mel_masks": 2,
            "warmup_steps": 2,
            "max_grad_norm": 1.0,
            "save_total_limit": 20,
            **options,
        },
    )
    phases = RoutingArguments(**{"soft_routing_epochs": 1, "topk_routing_epochs": 1, **(routing or {})})
    return MoeTrainer(
        model,
        args,
        tiny_processor(),
        rows(12),
        rows(3, first=50),
        routing=phases,
        callbacks=list(callbacks),
        kl=KlToBaseArguments(kl_to_base_coef=1.0, kl_to_base_end=0.1),
        base=Teacher(base),
    )
