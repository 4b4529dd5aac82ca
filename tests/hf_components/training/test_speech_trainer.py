"""The speech trainer: evaluation by text, given expert weights, what moves."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_speech import GradientRecorder, rows, tiny_moe, tiny_processor, tiny_whisper, training_arguments
from transformers import TrainerCallback

from hf_components.asr.transcriber import transcribe
from hf_components.scoring.error_rates import score
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit


def test_evaluation_scores_what_is_transcribed(tmp_path, monkeypatch):
    corpus, model = rows(7), tiny_whisper()
    args = training_arguments(tmp_path, per_device_eval_batch_size=3)
    trainer = SpeechTrainer(model, args, tiny_processor(), rows(2), corpus)
    monkeypatch.setattr(trainer, "prediction_step", None)  # logits would be gathered there
    model.train()
    metrics = trainer.evaluate()
    assert model.training
    texts = transcribe(model, tiny_processor(), corpus, batch_size=3, max_new_tokens=6)
    expected = score(texts, corpus["text"], corpus["group"], corpus["speaker_id"])
    assert metrics["eval_wer"] == expected["wer"] and metrics["eval_cer"] == expected["cer"]
    assert metrics["eval_wer_low"] == expected["per_group"]["low"]["wer"]
    assert metrics["eval_utterances"] == 7 and metrics["eval_runtime"] >= 0
    assert all(isinstance(value, (int, float)) for value in metrics.values())
    assert trainer.state.log_history[-1]["eval_wer"] == metrics["eval_wer"]
    assert trainer.evaluate(corpus.select([2]), metric_key_prefix="test")["test_utterances"] == 1


def test_evaluation_normalises_as_the_language_wants(tmp_path, monkeypatch):
    corpus, model = rows(2).map(lambda row: {"text": "um schön"}), tiny_whisper()
    monkeypatch.setattr("hf_components.training.trainer.transcribe", lambda *args, **options: ["schon"] * 2)
    trainer = SpeechTrainer(model, training_arguments(tmp_path), tiny_processor(), rows(2), corpus)
    assert trainer.evaluate()["eval_wer"] == 0
    model.generation_config.is_multilingual, model.generation_config.language = True, "de"
    assert trainer.evaluate()["eval_wer"] == 1


def test_best_checkpoint_by_wer_is_loaded_at_the_end(tmp_path):
    model = tiny_moe()
    model.train_only(experts=True, router=False)
    args = training_arguments(
        tmp_path,
        per_device_train_batch_size=4,
        max_steps=2,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="wer",
        greater_is_better=False,
    )
    trainer = SpeechTrainer(model, args, tiny_processor(), rows(8), rows(3))
    wers = iter([0.1, 0.2, 0.3])
    evaluate = trainer.evaluate

    def falling(*args, **kwargs):
        return {**evaluate(*args, **kwargs), "eval_wer": next(wers)}

    trainer.evaluate = falling
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    for name, value in load_file(tmp_path / "checkpoint-1" / "model.safetensors").items():
        assert torch.equal(model.state_dict()[name], value)


class Events(TrainerCallback):
    """What a user's own callback sees."""

    def __init__(self):
        self.seen: list[tuple[str, int, list[str]]] = []

    def on_log(self, args, state, control, logs, model, **kwargs):
        self.seen.append(("log", state.global_step, sorted(logs)))

    def on_evaluate(self, args, state, control, metrics, model, **kwargs):
        self.seen.append(("evaluate", state.global_step, sorted(metrics)))

    def on_save(self, args, state, control, model, **kwargs):
        self.seen.append(("save", state.global_step, []))


def test_callbacks_and_reports_of_a_user_get_losses_and_word_error_rates(tmp_path):
    events = Events()
    model = tiny_moe()
    model.train_only(experts=True, router=False)
    args = training_arguments(
        tmp_path,
        per_device_train_batch_size=4,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=2,
        report_to="tensorboard",
    )
    SpeechTrainer(model, args, tiny_processor(), rows(8), rows(3), callbacks=[events]).train()
    rare = [(event, step) for event, step, _ in events.seen if event != "log"]
    assert rare == [("evaluate", 1), ("evaluate", 2), ("save", 2)]
    assert [step for event, step, keys in events.seen if event == "log" and "loss" in keys] == [1, 2]
    assert all("eval_wer" in keys for event, _, keys in events.seen if event == "evaluate")

    (file,) = tmp_path.glob("runs/*/events*")
    report = EventAccumulator(str(file)).Reload()
    assert [entry.step for entry in report.Scalars("train/loss")] == [1, 2]
    assert [entry.step for entry in report.Scalars("eval/wer")] == [1, 2]


def test_given_weights_train_their_experts_alone(tmp_path):
    model, recorder = tiny_moe(), GradientRecorder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train_only(experts=True, router=False)
    weights = np.tile(np.float32([[1, 0, 0]]), (8, 1))
    SpeechTrainer(
        model,
        training_arguments(tmp_path, per_device_train_batch_size=4, num_train_epochs=1, learning_rate=1e-2),
        tiny_processor(),
        rows(8),
        expert_weights=weights,
        callbacks=[recorder],
    ).train()
    for gradients in recorder.steps:
        assert gradients.keys() == {name for name in before if ".lora_" in name}
        for gradient in gradients.values():  # slots: experts 0 to 2, then the shared one
            assert [bool(slot.any()) for slot in gradient] == [True, False, False, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != (".lora_" in name), name


def test_weights_follow_their_utterances(tmp_path):
    corpus, seen = rows(8), []
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 8).astype(np.float32)
    model = tiny_moe()
    model.train_only(experts=True, router=False)
    trainer = SpeechTrainer(
        model,
        training_arguments(tmp_path, per_device_train_batch_size=3, num_train_epochs=1),
        tiny_processor(),
        corpus,
        expert_weights=weights,
    )
    collate = trainer.data_collator
    trainer.data_collator = lambda items: (
        seen.extend((item["id"], item["expert_weights"]) for item in items) or collate(items)
    )
    trainer.train()
    assert sorted(name for name, _ in seen) == sorted(corpus["id"])
    for name, row in seen:
        assert np.array_equal(row, weights[int(name[1:])])
