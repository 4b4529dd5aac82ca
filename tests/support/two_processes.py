"""Run by tests through `accelerate launch` with two processes; what they compute is written by the first.

`two_processes.py FOLDER gradients` trains one step per system; `... FOLDER resume` trains, is killed, resumes.
"""

import contextlib
import gc
import sys
from pathlib import Path

from accelerate import PartialState
from paths import ROOT
from safetensors.torch import save_file

sys.path.insert(0, str(ROOT))

from tiny_ctc import ctc_gradient_of_one_step
from tiny_speech import (
    REGULARISERS,
    Kill,
    gradient_near_base,
    gradient_of_one_step,
    regularised_gradient,
    resumable_trainer,
)

from hf_components.moe.experts import ExpertArguments
from hf_components.runtime.arguments import parse_arguments


def save(file: Path, tensors: dict) -> None:
    if PartialState().is_main_process:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def gradients(folder: Path) -> None:
    for routing, mixture in ((None, "weights"), ("soft", "weights"), ("top_k", "logits")):
        for batch_size, accumulation in ((4, 1), (2, 2)):
            found = gradient_of_one_step(folder, batch_size, accumulation, routing=routing, mixture=mixture)
            save(folder / f"{routing}_{mixture}_{batch_size}x{accumulation}.safetensors", found)
    save(folder / "near_base.safetensors", gradient_near_base(folder, 2, 2))
    options = {"l2_to_start": 0.5, "consistency_coef": 2.0, "time_masks": 2, "moved": True}
    save(folder / "regularised.safetensors", regularised_gradient(folder, 2, 2, **options))
    save(folder / "ctc.safetensors", ctc_gradient_of_one_step(folder, 2, 2))


def resume(folder: Path) -> None:
    options = {"per_device_train_batch_size": 2, **REGULARISERS}
    whole = resumable_trainer(folder / "whole", **options)
    whole.train()
    with contextlib.suppress(KeyboardInterrupt):
        resumable_trainer(folder / "killed", callbacks=[Kill(5)], **options).train()
    resumed = resumable_trainer(folder / "killed", **options)
    resumed.train(resume_from_checkpoint=True)
    for name, trainer in (("whole", whole), ("resumed", resumed)):
        trained = {key: value for key, value in trainer.model.state_dict().items() if "lora" in key or "router" in key}
        save(folder / f"{name}.safetensors", {**trained, "usage": trainer.usage})


if __name__ == "__main__":
    parse_arguments(ExpertArguments, [])  # as every recipe begins
    {"gradients": gradients, "resume": resume}[sys.argv[2]](Path(sys.argv[1]))
    assert PartialState().num_processes == 2
    # Trainers are cyclic garbage; freed at interpreter exit, after gloo's threads, they may abort the process.
    gc.collect()
    PartialState().destroy_process_group()
