"""CTC training: one gradient however a batch is split, float32 loss, exact resume, blank alarm, what is frozen
stays."""

import logging

import numpy as np
import pytest
import torch
from tiny_ctc import ctc_gradient_of_one_step, ctc_trainer, tiny_ctc_processor, tiny_wav2vec2
from tiny_speech import Kill, rows
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from hf_components.asr.families import family_of
from hf_components.training.augmentation import Masks
from hf_components.training.data import Draw, SpeechCollator, SpeechDataset
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit


def batch_of(corpus, seed=0, **masks) -> dict[str, torch.Tensor]:
    family, processor = family_of(tiny_wav2vec2()), tiny_ctc_processor()
    dataset = SpeechDataset(corpus, family, processor)
    collator = SpeechCollator(family, processor, masks=Masks(**masks), seed=seed)
    return collator([dataset[Draw(i, 0, False)] for i in range(len(corpus))])


def loss_by_hand(logits: torch.Tensor, batch: dict[str, torch.Tensor], blank: int) -> torch.Tensor:
    """-log p summed utterance by utterance, over the tokens of all."""
    total, tokens = 0.0, 0
    for scores, labels in zip(logits.float(), batch["labels"], strict=True):
        labels = labels[labels != -100]
        total += torch.nn.functional.ctc_loss(
            scores.log_softmax(-1)[:, None],
            labels[None],
            torch.tensor([len(scores)]),
            torch.tensor([len(labels)]),
            blank=blank,
            reduction="sum",
        )
        tokens += len(labels)
    return total / tokens


def test_every_split_gives_the_gradient_of_the_whole(tmp_path):
    batch, model = batch_of(rows(8, seconds=0.6)), tiny_wav2vec2().train()
    logits = model(input_values=batch["input_values"], attention_mask=batch["attention_mask"]).logits
    loss_by_hand(logits, batch, model.config.pad_token_id).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 1e-2
    for batch_size, accumulation in ((8, 1), (4, 2), (2, 4)):
        found = ctc_gradient_of_one_step(tmp_path, batch_size, accumulation)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[name], gradient, atol=2e-5 * scale, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_loss_is_float32_under_autocast(tmp_path):
    trainer, batch = ctc_trainer(tmp_path, bf16=True), batch_of(rows(4, seconds=0.6))
    with trainer.accelerator.autocast():
        loss, outputs = trainer.compute_loss(trainer.model, dict(batch), True)
    assert outputs.logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    expected = loss_by_hand(outputs.logits, batch, trainer.model.config.pad_token_id)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_a_clip_shorter_than_its_labels_costs_nothing_and_leaves_the_others_finite(tmp_path):
    corpus = rows(4, seconds=0.6)
    hopeless = corpus.select([0]).map(lambda row: {"text": "green " * 20})
    trainer, batch = ctc_trainer(tmp_path), batch_of(hopeless)
    assert trainer.compute_loss(trainer.model, dict(batch)) == 0
    stock = Wav2Vec2ForCTC(Wav2Vec2Config.from_dict({**trainer.model.config.to_dict(), "ctc_zero_infinity": False}))
    assert torch.isinf(stock(**batch).loss)


def resumable(folder, **options) -> SpeechTrainer:
    """Everything that draws random numbers is on."""
    model = tiny_wav2vec2()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    return ctc_trainer(
        folder,
        model,
        rows(12),
        **{
            "per_device_train_batch_size": 4,
            "num_train_epochs": 3,
            "save_strategy": "steps",
            "save_steps": 1,
            "learning_rate": 1e-2,
            "time_masks": 2,
            "mel_masks": 2,
            "warmup_steps": 2,
            "max_grad_norm": 1.0,
            "save_total_limit": 20,
            "noise": ["gaussian"],
            "head_learning_rate": 3e-2,
            **options,
        },
    )


@pytest.mark.parametrize("step", [2, 7])
def test_resuming_gives_the_same_bits(tmp_path, step):
    whole = resumable(tmp_path / "whole", save_steps=100)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        resumable(tmp_path / "killed", callbacks=[Kill(step)]).train()
    np.random.seed(7)  # of a generator that nothing may draw from
    resumed = resumable(tmp_path / "killed", save_steps=100)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 9
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def test_the_last_layer_has_its_own_learning_rate(tmp_path):
    trainer = ctc_trainer(tmp_path, learning_rate=1e-3, head_learning_rate=3e-2, weight_decay=0.1)
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    trained = [(name, value) for name, value in trainer.model.named_parameters() if value.requires_grad]
    assert {name: rates[id(value)] for name, value in trained} == {
        name: 3e-2 if name.startswith("lm_head.") else 1e-3 for name, _ in trained
    }
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    head = trainer.model.lm_head
    assert (decays[id(head.weight)], decays[id(head.bias)]) == (0.1, 0.0)


def test_augmentation_of_the_model_itself_is_off_and_batches_are_masked_instead():
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config.from_dict(
            {**tiny_wav2vec2().config.to_dict(), "mask_time_prob": 0.5, "mask_time_length": 2, "layerdrop": 0.5}
        )
    )
    batch = batch_of(rows(2, seconds=1.0))
    family_of(model).prepare_for_training(model, from_scratch=True)
    model.train()
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    assert not model.wav2vec2.masked_spec_embed.requires_grad  # it takes no part
    masked = batch_of(rows(2, seconds=1.0), time_masks=2, mel_masks=2, seed=3)
    assert not torch.equal(masked["input_values"], batch["input_values"])
    assert torch.equal(masked["labels"], batch["labels"])


@pytest.mark.parametrize("frozen", [False, True])
def test_feature_encoder_moves_unless_frozen(tmp_path, frozen):
    trainer = ctc_trainer(tmp_path, from_scratch=not frozen, max_steps=2, learning_rate=1e-2)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("feature_extractor" in name for name in moved) != frozen
    assert any("encoder.layers" in name for name in moved) and "lm_head.weight" in moved


def test_alarm_of_a_model_that_writes_blanks(tmp_path, caplog):
    model = tiny_wav2vec2()
    with torch.no_grad():
        model.lm_head.bias[model.config.pad_token_id] = 50.0
    trainer = ctc_trainer(tmp_path, model, per_device_train_batch_size=4, max_steps=6, warmup_steps=2)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    (warning,) = [record.getMessage() for record in caplog.records if "writes almost nothing" in record.getMessage()]
    assert warning.startswith("at step 3 ") and "100.0 % of its frames are blank" in warning
    assert [entry["blank_rate"] for entry in trainer.state.log_history if "loss" in entry] == [1.0] * 6


def test_blank_rate_counts_real_frames_and_a_model_that_writes_is_silent(tmp_path, caplog):
    corpus = rows(4)  # of different lengths: the batch is padded
    trainer = ctc_trainer(tmp_path, corpus=corpus, per_device_train_batch_size=4, max_steps=2, learning_rate=0.0)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "almost nothing" not in caplog.text
    batch = batch_of(corpus)
    logits = trainer.model.eval()(input_values=batch["input_values"], attention_mask=batch["attention_mask"]).logits
    lengths = trainer.model._get_feat_extract_output_lengths(batch["attention_mask"].sum(-1))
    blanks = sum(
        int((row[:n].argmax(-1) == trainer.model.config.pad_token_id).sum())
        for row, n in zip(logits, lengths, strict=True)
    )
    assert trainer.state.log_history[0]["blank_rate"] == pytest.approx(blanks / int(lengths.sum()), abs=1e-4)


def test_evaluation_transcribes_and_scores(tmp_path):
    trainer = ctc_trainer(tmp_path, eval_corpus=rows(3, first=50), max_steps=1)
    metrics = trainer.evaluate()
    assert metrics["eval_wer"] > 0 and {"eval_wer_low", "eval_wer_middle", "eval_wer_high"} <= metrics.keys()
