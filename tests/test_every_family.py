"""Every family of recognisers learns in the same way: six checks on a tiny model of each of five.

The loss is that of a plain loop in transformers; a killed run resumes with the same bits; a LoRA loads in plain PEFT
and merges; two processes train as one; the lines on the card run.
"""

import copy
import dataclasses
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import accelerate
import peft
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, PartialState
from card_blocks import run_blocks
from every_model import EVERY, STEPS, trainer_of, without_dropout
from hub_server import USER
from safetensors.torch import load_file, save_file
from tiny_speech import Kill, batch_of, rows, training_arguments

from hf_components.asr import load_asr
from hf_components.checkpoints import merge_adapter
from hf_components.publishing import publish
from hf_components.runtime import UserError, run_stage
from hf_components.training import (
    Finetuned,
    FinetuningArguments,
    FinetuningSettings,
    KlToBaseArguments,
    LoraArguments,
    SpeechTrainer,
    finetune,
)
from hf_components.training.memory_estimate import longest_step, predicted
from hf_components.training.teacher import comparable

pytestmark = pytest.mark.integration

FAMILIES = {
    "whisper": transformers.WhisperForConditionalGeneration,
    "moonshine": transformers.MoonshineForConditionalGeneration,
    "parakeet ctc": transformers.ParakeetForCTC,
    "parakeet tdt": transformers.ParakeetForTDT,
    "qwen3-asr": transformers.Qwen3ASRForConditionalGeneration,
}
every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Function that returns the folder of a family's checkpoint."""
    folders = {}

    def of(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("base") / "model"
            EVERY[name](folders[name])
        return folders[name]

    return of


def stock_loss(model: transformers.PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Loss per token of a model of transformers, as its own documentation trains it."""
    labels = batch["labels"]
    if isinstance(model, transformers.ParakeetForTDT):
        config = model.config
        texts = labels.where(labels != -100, config.pad_token_id)
        first = torch.full_like(texts[:, :1], config.blank_token_id)
        features = {name: batch[name] for name in ("input_features", "attention_mask")}
        logits = model(**features, decoder_input_ids=torch.cat([first, texts], dim=1)).logits
        return model.loss_function(
            token_logits=logits[..., : config.vocab_size],
            duration_logits=logits[..., config.vocab_size :],
            labels=texts,
            logit_lengths=torch.full((len(labels),), logits.shape[1]),
            label_lengths=(labels != -100).sum(-1),
            blank_token_id=config.blank_token_id,
            durations=config.durations,
            reduction="mean_volume",
        )
    loss = model(**batch).loss
    return loss / (labels != -100).sum() if isinstance(model, transformers.ParakeetForCTC) else loss


@every_family
def test_the_loss_falls_and_is_that_of_a_plain_loop(base, tmp_path, name):
    trainer = trainer_of(base(name), tmp_path)
    stock = FAMILIES[name].from_pretrained(base(name))
    if name == "whisper":
        stock = copy.deepcopy(trainer.model)  # which alone hears less than 30 s
    elif name == "parakeet ctc":
        stock.config.ctc_loss_reduction = "sum"
    batch = trainer.data_collator([trainer.train_dataset[draw] for draw in next(iter(sampler_of(trainer)))])
    without_dropout(stock.train())
    for part in stock.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.eval()
    trained = [weight for key, weight in stock.named_parameters() if trainer.model.get_parameter(key).requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    expected = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = stock_loss(stock, batch)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx(expected, rel=1e-4) and losses[-1] < losses[0] - 0.05


@every_family
def test_weights_of_rows_weigh_their_losses(base, tmp_path, name):
    """One everywhere changes nothing, and a row of weight 0 adds nothing to the gradient."""
    trainer = trainer_of(base(name), tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[draw] for draw in next(iter(sampler_of(trainer)))])
    if name == "parakeet tdt":  # its loss is a sum over the batch
        with pytest.raises(UserError, match="train without weights of rows"):
            trainer.compute_loss(trainer.model, {**batch, "loss_weight": torch.ones(8)}, num_items_in_batch=40)
        return

    def gradient(weights: torch.Tensor | None) -> torch.Tensor:
        trainer.model.zero_grad()
        weighted = batch if weights is None else {**batch, "loss_weight": weights}
        trainer.compute_loss(trainer.model, dict(weighted), num_items_in_batch=40).backward()
        grads = [weight.grad.flatten() for weight in trainer.model.parameters() if weight.grad is not None]
        return torch.cat(grads)

    first, last = torch.eye(8)[0], torch.ones(8) - torch.eye(8)[0]
    assert torch.allclose(gradient(torch.ones(8)), gradient(None), rtol=1e-4, atol=1e-6)
    assert torch.allclose(gradient(first) + gradient(last), gradient(None), rtol=1e-4, atol=1e-5)
    assert gradient(first).norm() > 0 and not torch.allclose(gradient(first), gradient(None), rtol=0.01)


def sampler_of(trainer: SpeechTrainer):
    trainer.get_train_dataloader()
    return trainer.sampler


RANDOM = {  # everything that draws random numbers
    "dropout": True,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 3,
    "max_steps": -1,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "time_masks": 2,
    "mel_masks": 2,
    "noise": ["gaussian"],
    "speed_factors": [0.9, 1.0, 1.1],
    "save_strategy": "steps",
    "save_total_limit": 20,
}


class KillProcess(Kill):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


@every_family
def test_a_killed_run_resumes_with_the_same_bits(base, tmp_path, name):
    whole = trainer_of(base(name), tmp_path / "whole", save_steps=100, **RANDOM)
    whole.train()

    def be_killed() -> None:
        trainer_of(base(name), tmp_path / "killed", save_steps=1, callbacks=[KillProcess(3)], **RANDOM).train()

    process = multiprocessing.get_context("fork").Process(target=be_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "killed" / "checkpoint-3").is_dir()
    resumed = trainer_of(base(name), tmp_path / "killed", save_steps=100, **RANDOM)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 6
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key


def with_lora(base: Path, folder: Path) -> Finetuned:
    model, processor = load_asr(str(base))
    torch.manual_seed(0)  # the LoRA is drawn before the trainer sets its seed
    return finetune(
        model,
        processor,
        rows(8, seconds=0.6),
        None,
        FinetuningSettings(
            FinetuningArguments("lora"),
            training_arguments(folder, learning_rate=1e-2, max_steps=3),
            LoraArguments(lora_rank=2, lora_alpha=8),
        ),
        folder,
        resume=False,
    )


def outputs(model: transformers.PreTrainedModel, trainer: SpeechTrainer) -> torch.Tensor:
    """What a model finds in a batch: its logits where they count, and the loss alone for a transducer."""
    trainer.family.prepare_for_training(model)  # CTC models return the loss as a sum
    with torch.no_grad():
        scores = trainer.family.score(model.eval(), batch_of(trainer))
    if scores.logits is None:
        return scores.loss
    logits, real = comparable(scores, "", "")
    return logits[real]


@every_family
def test_a_lora_loads_in_plain_peft(base, tmp_path, name):
    finetuned = with_lora(base(name), tmp_path)
    finetuned.save(tmp_path, "Test", False, merge=False)
    expected = outputs(finetuned.trainer.model, finetuned.trainer)
    before = outputs(load_asr(str(base(name)))[0], finetuned.trainer)
    assert not torch.allclose(before, expected, atol=1e-3)
    loaded = peft.AutoPeftModel.from_pretrained(tmp_path / "adapter")  # finds base and class by itself
    assert isinstance(loaded.get_base_model(), FAMILIES[name])
    if name == "whisper":  # which alone hears less than 30 s
        loaded = peft.PeftModel.from_pretrained(load_asr(str(base(name)))[0], tmp_path / "adapter")
    torch.testing.assert_close(outputs(loaded.get_base_model(), finetuned.trainer), expected, atol=1e-5, rtol=1e-5)


@every_family
def test_a_lora_is_merged(base, tmp_path, name):
    finetuned = with_lora(base(name), tmp_path)
    expected = outputs(finetuned.trainer.model, finetuned.trainer)
    finetuned.save(tmp_path, "Test", False)
    FAMILIES[name].from_pretrained(tmp_path / "model")  # a stock checkpoint
    for merged in (
        load_asr(str(tmp_path / "model"))[0],
        merge_adapter(load_asr(str(base(name)))[0], str(tmp_path / "adapter")),
    ):
        torch.testing.assert_close(outputs(merged, finetuned.trainer), expected, atol=1e-5, rtol=1e-5)


def train_in_a_process(base: Path, folder: Path) -> None:
    """A step of four utterances per process; the first process writes the weights that come out."""
    trainer = trainer_of(base, folder, per_device_train_batch_size=4, max_steps=2)
    assert trainer.args.world_size == 2
    trainer.train()
    if trainer.is_world_process_zero():
        weights = {name: value.contiguous().clone() for name, value in trainer.model.state_dict().items()}
        save_file(weights, folder / "two.safetensors")


def launch(function, arguments: tuple) -> None:
    """Run by a process of its own, whose children must not know of this one's state."""
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    accelerate.debug_launcher(function, arguments, num_processes=2)


@every_family
def test_two_processes_train_as_one(base, tmp_path, name):
    one = trainer_of(base(name), tmp_path, max_steps=2)
    before = {key: value.clone() for key, value in one.model.state_dict().items()}
    process = multiprocessing.get_context("fork").Process(
        target=launch, args=(train_in_a_process, (base(name), tmp_path))
    )
    process.start()
    one.train()
    process.join()
    assert process.exitcode == 0
    two = load_file(tmp_path / "two.safetensors")
    moved = 0
    for key, value in one.model.state_dict().items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-3, msg=lambda told, key=key: f"{key}: {told}")
        moved += not torch.equal(value, before[key])
    assert moved > 5


@every_family
def test_the_lines_on_the_card_run(base, hub, tmp_path, name):
    def produce(folder: Path) -> dict:
        shutil.copytree(base(name), folder / "model")
        return {"wer": 0.25, "family": name}

    run_stage(tmp_path / "made", produce, config={"corpus": "speech"})
    publish(tmp_path / "made" / "model", f"{USER}/{name.replace(' ', '-')}")
    card = hub.files(f"{USER}/{name.replace(' ', '-')}", "models")["README.md"].decode()
    assert run_blocks(card.replace(f"{USER}/{name.replace(' ', '-')}", str(base(name))), tmp_path / "home") == 1


@every_family
@pytest.mark.parametrize("regulariser", ["consistency", "kl_to_base"])
def test_outputs_are_compared_where_mathematics_allows(base, tmp_path, name, regulariser):
    model, processor = load_asr(str(base(name)))
    options = {"consistency_coef": 0.5, "time_masks": 2} if regulariser == "consistency" else {}
    kl = KlToBaseArguments(kl_to_base_coef=0.5 if regulariser == "kl_to_base" else 0.0)

    def train() -> Finetuned:
        args = training_arguments(tmp_path, max_steps=2, learning_rate=1e-2, **options)
        settings = FinetuningSettings(FinetuningArguments("full"), args, kl=kl)
        corpus = rows(8, seconds=0.6)
        return finetune(without_dropout(model), processor, corpus, None, settings, tmp_path, resume=False)

    if name == "parakeet tdt":  # a distribution for each pair of frame and token: too many to compare
        with pytest.raises(UserError, match="compares outputs position by position, which a transducer has none of"):
            train()
        return
    entries = [entry for entry in train().trainer.state.log_history if "loss" in entry]
    key = "consistency_kl" if regulariser == "consistency" else "kl_to_base"
    if regulariser == "kl_to_base":
        assert abs(entries[0][key]) < 1e-3 or name == "whisper"  # nothing has moved yet
    assert entries[-1][key] > 1e-4


def test_a_lora_near_its_base_leaves_batch_norms_alone(base, tmp_path):
    model, processor = load_asr(str(base("parakeet ctc")))
    before = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    settings = FinetuningSettings(
        FinetuningArguments("lora"),
        training_arguments(tmp_path, max_steps=2),
        LoraArguments(lora_rank=2),
        KlToBaseArguments(kl_to_base_coef=0.5),
    )
    finetune(model, processor, rows(8, seconds=0.6), None, settings, tmp_path, resume=False)
    after = dict(model.named_buffers())
    assert before and all(torch.equal(value, after[name]) for name, value in before.items())


@every_family
def test_memory_of_a_training_is_predicted(base, tmp_path, name):
    trainer = trainer_of(base(name), tmp_path)
    step = longest_step(trainer)
    if name == "qwen3-asr":  # it computes with the lengths of clips, which are values
        with pytest.raises(RuntimeError, match="data is not allocated"):
            predicted(trainer, step)
        return
    alone = dataclasses.replace(step, batch_size=1)
    weights = sum(value.nbytes for value in trainer.model.parameters())
    assert 4 * weights < predicted(trainer, alone) < predicted(trainer, step)
