"""Train LoRA experts, with the cluster labels of each utterance as weights; without labels, train one LoRA for all.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/pretrain_experts.py --config recipes/configs/pretrain_experts/default.yaml \\
    --corpus data/prepared --labels_dir runs/moe/clusters --router_dir runs/moe/router --output_dir runs/moe/experts
"""

from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import set_seed

from hf_components.checkpoints import load_whisper
from hf_components.moe import (
    ExpertArguments,
    build_experts,
    freeze_shared_expert,
    load_labels,
    load_router,
    save_trained_experts,
    start_from_lora,
)
from hf_components.runtime import flag, parse_arguments, run_as_stage, run_recipe
from hf_components.training import (
    KlToBaseArguments,
    KlToBaseTrainer,
    SpeechTrainingArguments,
    Teacher,
    TrainingRecipeArguments,
    keep_learnable,
    load_training_rows,
    outcome,
    plot_training,
    save_history,
)


@dataclass(kw_only=True)
class Arguments(TrainingRecipeArguments):
    labels_dir: str | None = flag("output of cluster_embeddings; default: train one LoRA, the baseline", default=None)
    router_dir: str | None = flag(
        "output of pretrain_router; sets the first layer with experts",
        default=None,
        aliases=["--gating_model_checkpoint"],
    )
    router_layer: int | None = flag(
        "encoder layer that the router will read, experts are above it; default: the middle one",
        default=None,
        min=1,
        needs={"router_dir": False},
    )
    lora_model: str | None = flag(
        "LoRA that the shared (or only) expert starts from: output without labels, or PEFT adapter",
        default=None,
        aliases=["--single_lora_dir"],
    )
    freeze_shared_expert: bool = flag(
        "keep the shared expert fixed; train only what the others add", default=False, needs="labels_dir"
    )


ARGUMENTS = (Arguments, ExpertArguments, KlToBaseArguments, SpeechTrainingArguments)


def main(argv: list[str] | None = None) -> dict:
    args, expert_args, kl, training_args = parse_arguments(ARGUMENTS, argv, __doc__)
    return run_as_stage(
        produce,
        args,
        expert_args,
        kl,
        training_args,
        inputs=[args.corpus, args.model, args.labels_dir, args.router_dir, args.lora_model],
        derive={"plot": plot_training(title(args))},
    )


def produce(
    args: Arguments,
    expert_args: ExpertArguments,
    kl: KlToBaseArguments,
    training_args: SpeechTrainingArguments,
    folder: Path,
) -> dict:
    set_seed(training_args.seed)  # before the experts get random weights
    train, evaluated = load_training_rows(args, training_args, folder)
    base, processor = load_whisper(args.model, args.language)
    router_layer = args.router_layer or max(1, base.config.encoder_layers // 2)
    if args.router_dir:
        router_layer = load_router(args.router_dir)[1]
    labels = load_labels(args.labels_dir) if args.labels_dir else None
    model = build_experts(base, expert_args, labels.num_experts if labels else 1, router_layer)
    if args.lora_model:
        start_from_lora(model, args.lora_model)
    model.train_only(experts=True, router=False)
    if args.freeze_shared_expert:
        freeze_shared_expert(model, training_args.weight_decay)

    training_args.output_dir = str(folder / "checkpoints")
    train = keep_learnable(train, model, processor)
    teacher = Teacher(base) if kl.kl_to_base_coef else None
    del base  # the experts' model has its weights; a second copy would stay in the GPU's memory
    trainer = KlToBaseTrainer(
        model,
        training_args,
        processor,
        train,
        evaluated,
        kl=kl,
        base=teacher,
        expert_weights=labels.weights_of(train["id"]) if labels else None,
    )
    trainer.train(resume_from_checkpoint=args.resume)
    model = trainer.whole_model()
    if trainer.is_world_process_zero():
        save_trained_experts(model, folder)
        save_history(trainer, folder, title(args), args.plot)
    return {
        **outcome(trainer, args.eval_split),
        "experts": model.config.num_experts,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def title(args: Arguments) -> str:
    return "Pre-training of the experts" if args.labels_dir else "Training of a single LoRA"


if __name__ == "__main__":
    run_recipe(main)
