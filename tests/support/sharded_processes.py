"""Run by tests through `accelerate launch` with two processes on CPU and FSDP or DeepSpeed; the first writes what
comes out.

`sharded_processes.py FOLDER gradients` trains one step per system; `... FOLDER train` trains experts and a mixture,
evaluates and saves them; `... FOLDER resume` trains, is killed, resumes; `... FOLDER families` trains every checkpoint
in FOLDER/base.
"""

import contextlib
import gc
import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import DistributedType, PartialState
from every_model import trainer_of
from paths import ROOT
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import training_args

sys.path.insert(0, str(ROOT))

from tiny_speech import (
    Kill,
    batch_of,
    gradient_of_one_step,
    resumable_trainer,
    rows,
    tiny_moe,
    tiny_processor,
    training_arguments,
)

from hf_components.moe.curriculum import RoutingArguments
from hf_components.moe.experts import freeze_shared_expert, save_trained_experts
from hf_components.moe.trainer import MoeTrainer
from hf_components.runtime.completion import write_json
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.trainer import SpeechTrainer

SYSTEMS = ((None, "weights"), ("soft", "weights"), ("top_k", "logits"))


def shard_on_cpu() -> None:
    """Let accelerate shard: it ignores FSDP and DeepSpeed on what it calls MULTI_CPU, though both run over gloo."""
    os.environ["ACCELERATE_TORCH_DEVICE"] = os.environ["DS_ACCELERATOR"] = "cpu"
    torch.distributed.init_process_group("gloo")
    training_args.is_torch_bf16_gpu_available = lambda: True  # else `Trainer` allows bf16 on a GPU only
    PartialState._prepare_backend = lambda *args: ("gloo", DistributedType.MULTI_GPU)
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        from deepspeed.ops import __compatible_ops__

        __compatible_ops__["deepspeed_shm_comm"] = False  # which it would compile for minutes


def save(file: Path, tensors: dict) -> None:
    whole = {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}
    if PartialState().is_main_process:
        save_file({name: tensor.contiguous().clone() for name, tensor in whole.items()}, file)


def arguments(folder: Path, batch_size: int, **options) -> SpeechTrainingArguments:
    return training_arguments(
        folder,
        **{
            "per_device_train_batch_size": batch_size,
            "per_device_eval_batch_size": 2,
            "num_train_epochs": 3,
            "optim": "sgd",
            "learning_rate": 1.0,
            "max_grad_norm": 1.0,
            "use_cpu": False,
            **options,
        },
    )


def experts_trainer(folder: Path, batch_size: int, **options) -> SpeechTrainer:
    """Experts that are pre-trained, each utterance with the weights of its labels."""
    model = tiny_moe()
    model.train_only(experts=True, router=False)
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 8).astype(np.float32)
    return SpeechTrainer(
        model, arguments(folder, batch_size, **options), tiny_processor(), rows(8, seconds=0.6), expert_weights=weights
    )


def mixture_trainer(folder: Path, batch_size: int, **options) -> MoeTrainer:
    """Soft, top-k and hard routing, each for a step of eight utterances, whose split among processes changes
    nothing."""
    model = tiny_moe(experts_per_utterance=2)
    model.train_only(experts=True, router=True)
    freeze_shared_expert(model, weight_decay=0.0)
    losses = RoutingArguments(
        soft_routing_epochs=1,
        topk_routing_epochs=1,
        router_noise_std=0.0,
        load_balance_coef=0.5,
        routing_alignment_coef=0.5,
        routing_entropy_coef=0.5,
    )
    args = arguments(folder, batch_size, **options)
    return MoeTrainer(model, args, tiny_processor(), rows(8, seconds=0.6), rows(5, first=50), routing=losses)


def trained_weights(trainer: MoeTrainer) -> dict[str, torch.Tensor]:
    return {
        name: parameter.detach() for name, parameter in trainer.model.named_parameters() if parameter.requires_grad
    }


def gradients(folder: Path) -> None:
    for routing, mixture in SYSTEMS:
        save(
            folder / f"{routing}_{mixture}.safetensors",
            gradient_of_one_step(folder, 2, 2, routing=routing, mixture=mixture),
        )


def train(folder: Path) -> None:
    experts = experts_trainer(folder, 4)
    experts.train()
    trained = experts.whole_model()
    if experts.is_world_process_zero():
        save_trained_experts(trained, folder / "trained")

    trainer = mixture_trainer(folder, 2, gradient_accumulation_steps=2)
    trainer.train()
    assert trainer.is_deepspeed_enabled or isinstance(next(trainer.model.parameters()), DTensor)
    metrics = trainer.evaluate()  # five utterances: two batches for the first process, one for the second
    whole = trainer.whole_model()
    if trainer.is_world_process_zero():
        whole.save_pretrained(folder / "model")
        whole.save_experts(folder / "experts")
        write_json(folder / "metrics.json", metrics)

    best = mixture_trainer(
        folder / "best", 4, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True
    )
    best.train()
    save(folder / "best.safetensors", trained_weights(best))
    if trainer.is_world_process_zero():
        write_json(folder / "chosen.json", {"checkpoint": best.state.best_model_checkpoint})


def resume(folder: Path) -> None:
    options = {"per_device_train_batch_size": 2, "use_cpu": False}
    whole = resumable_trainer(folder / "whole", **options)
    whole.train()
    with contextlib.suppress(KeyboardInterrupt):
        resumable_trainer(folder / "killed", callbacks=[Kill(5)], **options).train()
    resumed = resumable_trainer(folder / "killed", **options)
    resumed.train(resume_from_checkpoint=True)
    for name, trainer in (("whole", whole), ("resumed", resumed)):
        save(folder / f"{name}.safetensors", {**trained_weights(trainer), "usage": trainer.usage})


def families(folder: Path) -> None:
    for base in sorted((folder / "base").iterdir()):
        trainer = trainer_of(base, folder, per_device_train_batch_size=4, max_steps=2, use_cpu=False)
        trainer.train()
        whole = trainer.whole_model()
        assert torch.isfinite(trainer.family.score(whole.eval(), batch_of(trainer)).loss), base.name
        save(folder / f"{base.name}.safetensors", whole.state_dict())


if __name__ == "__main__":
    shard_on_cpu()
    {"gradients": gradients, "train": train, "resume": resume, "families": families}[sys.argv[2]](Path(sys.argv[1]))
    assert PartialState().num_processes == 2
    # Trainers are cyclic garbage; freed at interpreter exit, after gloo's threads, they may abort the process.
    gc.collect()
    PartialState().destroy_process_group()
