"""Predict the memory that the trainings of a pipeline will take, and the largest batches that fit usual GPUs.

python launchers/doctor.py --plan run_moe_pipeline --model openai/whisper-small

Further flags are those of the pipeline, whose default.yaml is the configuration unless `--config` names another. Each
training takes a step on fake tensors: no weights, no data and no GPU are needed.
"""

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hf_components.checkpoints import predict_llm
from hf_components.correction import hears
from hf_components.correction.finetuning import ASKED
from hf_components.moe import ExpertArguments, loss_of_labels, loss_of_routing, mixture
from hf_components.runtime import Pipeline, UserError
from hf_components.training import (
    GPU_SIZES,
    TrainingStep,
    finetuned,
    known_config,
    largest_batches,
    loss_of_texts,
    predict_peak,
)

CONFIGS = Path(__file__).resolve().parents[1] / "recipes" / "configs"
PIPELINES = ("run_moe_pipeline", "run_children_pipeline", "run_wav2vec2_pipeline")
CHOOSING = "choosing_"  # the same trainings, on fewer speakers
EXPERTS = 8  # where the clustering finds their number


class Training(NamedTuple):
    """A training of a pipeline: what it trains, in words and as a function of its model, its loss, and its step."""

    what: str
    build: Any
    loss: Any
    step: TrainingStep


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", required=True, choices=PIPELINES, help="the pipeline")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of the longest text")
    args, words = parser.parse_known_args(argv)
    try:
        pipeline, steps = plan(args.plan, words)
        print(f"peak memory of a training step in GiB, and the largest batch for GPUs of {sizes()} GB")
        for folders, training in trainings(pipeline, steps, args.tokens):
            print(f"{', '.join(folders)}: {sentence(training)}", flush=True)
        for line in dict.fromkeys(llms(steps)):
            print(line, flush=True)
    except UserError as error:
        print(f"error: {error}")
        return 2
    return 0


def sizes() -> str:
    return ", ".join(map(str, GPU_SIZES))


def plan(name: str, words: list[str]) -> tuple[Pipeline, dict[str, tuple[str, dict]]]:
    """A pipeline that runs nothing, and recipe and flags of its steps by folder."""
    recipe = importlib.import_module(f"recipes.{name}")
    given = {word.partition("=")[0] for word in words}
    usual = {"--config": CONFIGS / name / "default.yaml", "--data": "DATA", "--output_dir": "OUTPUT"}
    words = [*(f"{flag}={value}" for flag, value in usual.items() if flag not in given), *words, "--dry_run"]
    pipeline = Pipeline(recipe.__file__, recipe.ARGUMENTS, recipe.PASSED_ON, words, __doc__)
    return pipeline, pipeline.plan(recipe.take_steps)


def trainings(
    pipeline: Pipeline, steps: dict[str, tuple[str, dict]], tokens: int
) -> Iterator[tuple[list[str], Training]]:
    """The trainings of a pipeline with the folders of their results; trainings of equal size are one."""
    found: dict[tuple, tuple[list[str], Training]] = {}
    for folder, (recipe, values) in steps.items():
        if folder.startswith(CHOOSING) or recipe not in TRAIN:
            continue
        step = TrainingStep(
            batch_size=values["per_device_train_batch_size"],
            tokens=tokens,
            precision="no" if values["no_fp16"] else "fp16" if values["fp16"] else "bf16",
            gradient_checkpointing=bool(values["gradient_checkpointing"] or values["activation_checkpointing"]),
        )
        what, build, loss = TRAIN[recipe](pipeline, values)
        found.setdefault((what, step), ([], Training(what, build, loss, step)))[0].append(folder)
    yield from found.values()


def llms(steps: dict[str, tuple[str, dict]]) -> Iterator[str]:
    """A line for each language model that corrects transcripts, before the training; it is gone when that starts."""
    for recipe, values in steps.values():
        if recipe == "finetune_wav2vec2_lora" and values["gold"] in ASKED:
            name = values["llm_model"]
            if values["gguf_file"] is None and hears(name):
                yield f"correction: the memory of {name} cannot be predicted, as it takes audio"
                continue
            size, in_4_bit = predict_llm(name, values["gguf_file"], values["quantization"], values["llm_dtype"])
            yield f"correction: {name}{' in 4 bits' if in_4_bit else ''}: {size / 2**30:.1f} GiB for its weights"


def of_experts(pipeline: Pipeline, values: dict) -> tuple:
    if not values["labels_dir"]:
        rank = values["lora_rank"]
        args = ExpertArguments(lora_rank=rank)
        return f"a LoRA of rank {rank}", mixture(config_of(values), args, experts=1), loss_of_labels
    what, args, experts = experts_of(pipeline)
    build = mixture(config_of(values), args, experts=experts, freeze_shared=values["freeze_shared_expert"])
    return what, build, loss_of_labels


def of_joint(pipeline: Pipeline, values: dict) -> tuple:
    what, args, experts = experts_of(pipeline)
    build = mixture(
        config_of(values),
        args,
        experts=experts,
        freeze_shared=values["freeze_shared_expert"],
        train_router=True,
        routing="soft",
        mixture=values["mixture"],
    )
    aligned = values["routing_alignment_coef"] > 0 and values["mixture"] == "weights"
    return f"{what} and a router", build, loss_of_routing if aligned else loss_of_texts


def experts_of(pipeline: Pipeline) -> tuple[str, ExpertArguments, int]:
    """The experts of the mixture. The shared one is a merge of LoRAs trained apart, whose ranks add up."""
    experts = pipeline.planned("clusters", "num_experts") or EXPERTS
    shared = pipeline.planned("experts", "shared_expert")
    rank = pipeline.planned("experts", "lora_rank") * pipeline.args.shared_runs
    what = f"{experts} experts{' and a shared one' if shared else ''} of rank {rank}"
    return what, ExpertArguments(lora_rank=rank, shared_expert=shared), experts


def of_finetuning(pipeline: Pipeline, values: dict) -> tuple:
    freeze = "encoder" if values["freeze_encoder"] else "decoder" if values["freeze_decoder"] else None
    rank = values["lora_rank"] if values["finetuning"] == "lora" else None
    what = f"a LoRA of rank {rank}" if rank else "all weights"
    build = finetuned(config_of(values), lora_rank=rank, freeze=freeze)
    return what + (f" but the {freeze}" if freeze else ""), build, loss_of_texts


def of_wav2vec2(pipeline: Pipeline, values: dict) -> tuple:
    rank = values["lora_rank"] if values["use_lora"] and not values["no_lora"] else None
    return (
        f"a LoRA of rank {rank}" if rank else "all weights",
        finetuned(config_of(values), lora_rank=rank),
        loss_of_texts,
    )


TRAIN = {
    "pretrain_experts": of_experts,
    "train_moe_whisper": of_joint,
    "finetune_whisper": of_finetuning,
    "finetune_asr": of_finetuning,
    "finetune_wav2vec2_lora": of_wav2vec2,
}


def config_of(values: dict) -> Any:
    return known_config(values["model"])


def sentence(training: Training) -> str:
    """The predictions for a training, in a line."""
    step = training.step
    peak = predict_peak(training.build, step, training.loss, gpu=True) / 2**30
    batches = largest_batches(training.build, step, GPU_SIZES, training.loss)
    precision = {"no": "float32"}.get(step.precision, step.precision)
    saving = ", gradient checkpointing" if step.gradient_checkpointing else ""
    return (
        f"{training.what}, batch {step.batch_size}, {precision}{saving}: {peak:.1f} GiB; "
        f"largest batch {', '.join(map(str, batches))}"
    )
