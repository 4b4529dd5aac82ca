"""A tiny wav2vec2 with a real processor, and how it is trained in tests."""

from pathlib import Path

import torch
from tiny_speech import GradientRecorder, rows, training_arguments
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from hf_components.asr.ctc_from_scratch import NetworkArguments, build_wav2vec2, letter_processor
from hf_components.asr.families import family_of
from hf_components.training.trainer import SpeechTrainer

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "conv_dim": [8, 16],
    "conv_kernel": [40, 16],
    "conv_stride": [20, 16],
}


def tiny_wav2vec2(seed: int = 0, **config) -> Wav2Vec2ForCTC:
    """Random weights; `config` changes fields of its configuration."""
    torch.manual_seed(seed)
    model, _ = build_wav2vec2(NetworkArguments(**TINY))
    model.config.update(config)
    return model.eval()


def save_tiny_wav2vec2(folder: Path) -> Path:
    """A stock checkpoint with its processor."""
    tiny_wav2vec2().save_pretrained(folder)
    tiny_ctc_processor().save_pretrained(folder)
    return folder


def tiny_ctc_processor() -> Wav2Vec2Processor:
    return letter_processor()


def ctc_trainer(
    folder: Path,
    model: Wav2Vec2ForCTC | None = None,
    corpus=None,
    eval_corpus=None,
    callbacks=(),
    from_scratch: bool = True,
    head_learning_rate: float | None = None,
    **options,
) -> SpeechTrainer:
    """Nothing random unless `options` of the training arguments say so."""
    model = model or tiny_wav2vec2()
    family_of(model).prepare_for_training(model, from_scratch=from_scratch)
    return SpeechTrainer(
        model,
        training_arguments(folder, **options),
        tiny_ctc_processor(),
        corpus or rows(8, seconds=0.6),
        eval_corpus,
        callbacks=list(callbacks),
        head_learning_rate=head_learning_rate,
    )


def ctc_gradient_of_one_step(folder: Path, batch_size: int, accumulation: int) -> dict[str, torch.Tensor]:
    """What reached the optimizer in one step on eight utterances, by parameter name."""
    recorder = GradientRecorder()
    ctc_trainer(
        folder,
        callbacks=[recorder],
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
    ).train()
    (gradients,) = recorder.steps
    return {name.removeprefix("module."): gradient for name, gradient in gradients.items()}
