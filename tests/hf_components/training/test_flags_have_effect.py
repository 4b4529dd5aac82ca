"""No flag of transformers that training recipes take does nothing: the trainer reads it, or it counts elsewhere."""

import dataclasses

import pytest
from tiny_speech import rows, tiny_processor, tiny_whisper

from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit

# What a short run on one CPU process does not read, and where it counts instead.
ELSEWHERE = {
    "bf16": "mixed_precision, in __post_init__",
    "fp16": "mixed_precision, in __post_init__",
    "no_fp16": "mixed_precision, in __post_init__",
    "use_cpu": "the device, in __post_init__",
    "tf32": "torch's backends, in __post_init__",
    "torch_compile": "__post_init__, from its backend and mode too",
    "deepspeed": "the launcher's plugin",
    "fsdp": "the launcher's plugin",
    "fsdp_config": "the launcher's plugin",
    "ddp_find_unused_parameters": "the wrapper of several processes",
    "ddp_bucket_cap_mb": "the wrapper of several processes",
    "ddp_broadcast_buffers": "the wrapper of several processes",
    "ddp_static_graph": "the wrapper of several processes",
    "log_level": "the level, by get_process_log_level",
    "log_level_replica": "the level, by get_process_log_level",
    "log_on_each_node": "which processes log, by should_log",
    "report_to": "the trackers, in __init__ of the trainer",
    "run_name": "trackers",
    "project": "trackers",
    "trackio_space_id": "trackio",
    "trackio_bucket_id": "trackio",
    "trackio_static_space_id": "trackio",
    "data_seed": "the sampler",
    "save_every_n_epochs": "EveryNEpochs",
    "eval_every_n_epochs": "EveryNEpochs",
    "rebase_output_dir": "run_stage",
    "warmup_steps": "get_warmup_steps",
    "lr_scheduler_kwargs": "the scheduler, if it takes any",
    "optim_args": "optimizers that take any",
    "optim_target_modules": "GaLore and its kin",
    "gradient_checkpointing": "activation_checkpointing, in __post_init__",
    "activation_checkpointing_kwargs": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "gradient_checkpointing",
    "liger_kernel_config": "use_liger_kernel",
    "concatenate_seconds": "concatenate",
    "noise_probability": "noise",
    "noise_snr": "noise",
    "noise_dir": "noise",
}


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> set[str]:
    """Arguments that the trainer reads while it trains, evaluates, saves and keeps the best."""
    names: set[str] = set()

    @dataclasses.dataclass
    class Watched(SpeechTrainingArguments):
        def __getattribute__(self, name):
            names.add(name)
            return super().__getattribute__(name)

    args = Watched(
        output_dir=str(tmp_path_factory.mktemp("watched")),
        use_cpu=True,
        report_to="none",
        num_train_epochs=2,
        eval_strategy="epoch",
        early_stopping_patience=1,
        per_device_train_batch_size=2,
        max_new_tokens=4,
        noise=["gaussian"],
    )
    corpus = rows(4)
    names.clear()  # what __post_init__ read
    trainer = SpeechTrainer(tiny_whisper(), args, tiny_processor(), corpus, corpus)
    trainer.args.to_dict = dict  # which reads all, for trackers
    trainer.train()
    trainer.evaluate()
    return names


def test_every_flag_is_read_or_counts_elsewhere(read):
    accepted = {field.name for field in dataclasses.fields(SpeechTrainingArguments) if field.init}
    assert sorted(accepted - read - ELSEWHERE.keys()) == []


def test_the_list_holds_flags_only():
    accepted = {field.name for field in dataclasses.fields(SpeechTrainingArguments) if field.init}
    assert ELSEWHERE.keys() <= accepted


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"eval_steps": 5}, "eval_strategy", "steps"),
        ({"save_steps": 5}, "save_strategy", "steps"),
        ({}, "save_strategy", "epoch"),
        ({"eval_steps": 5, "eval_strategy": "epoch"}, "eval_strategy", "epoch"),
    ],
)
def test_steps_between_two_mean_that_there_are_such(given, name, value, tmp_path):
    args = SpeechTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    assert str(getattr(args, name).value) == value
