"""Train LoRA experts, each utterance carrying its cluster labels as weights; without labels, one LoRA for all.

accelerate launch --config_file accelerate_configs/single_gpu.yaml \\
    recipes/pretrain_experts.py --config recipes/configs/pretrain_experts/default.yaml \\
    --corpus data/prepared --labels_dir runs/moe/clusters --router_dir runs/moe/router --output_dir runs/moe/experts
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import set_seed

from hf_components.checkpoints import load_whisper
from hf_components.moe import (
    ExpertArguments,
    build_experts,
    freeze_shared_expert,
    load_labels,
    load_router,
    load_trained_experts,
    save_trained_experts,
    start_from_lora,
)
from hf_components.runtime import parse_arguments, run_recipe, run_stage
from hf_components.training import (
    KlToBaseArguments,
    KlToBaseTrainer,
    SpeechTrainingArguments,
    Teacher,
    TrainingRecipeArguments,
    drop_long_transcripts,
    load_training_rows,
    save_history,
)


@dataclass(kw_only=True)
class Arguments(TrainingRecipeArguments):
    labels_dir: str | None = field(
        default=None,
        metadata={
            "help": "output of cluster_embeddings; without it a single LoRA is trained, the baseline of every mixture"
        },
    )
    router_dir: str | None = field(
        default=None,
        metadata={
            "help": "output of pretrain_router; says where experts may begin",
            "aliases": ["--gating_model_checkpoint"],
        },
    )
    single_lora_dir: str | None = field(
        default=None,
        metadata={
            "help": "single LoRA (output of this recipe without labels) that the shared expert, or the "
            "only one, starts from"
        },
    )
    freeze_shared_expert: bool = field(
        default=False, metadata={"help": "train what the experts add to the shared one only"}
    )


ARGUMENTS = (Arguments, ExpertArguments, KlToBaseArguments, SpeechTrainingArguments)


def main(argv: list[str] | None = None) -> dict:
    args, expert_args, kl, training_args = parse_arguments(ARGUMENTS, argv, __doc__)
    inputs = [
        path for path in (args.corpus, args.base_model, args.labels_dir, args.router_dir, args.single_lora_dir) if path
    ]
    return run_stage(
        training_args.output_dir,
        lambda folder: produce(args, expert_args, kl, training_args, folder),
        config=(args, expert_args, kl, training_args, {"processes": training_args.world_size}),
        inputs=inputs,
        resume=args.resume,
        archive=training_args.rebase_output_dir,
    )


def produce(
    args: Arguments,
    expert_args: ExpertArguments,
    kl: KlToBaseArguments,
    training_args: SpeechTrainingArguments,
    folder: Path,
) -> dict:
    set_seed(training_args.seed)  # before the experts are drawn
    train, evaluated = load_training_rows(args, training_args)
    base, processor = load_whisper(args.base_model, args.language)
    router_layer = load_router(args.router_dir)[1] if args.router_dir else max(1, base.config.encoder_layers // 2)
    labels = load_labels(args.labels_dir) if args.labels_dir else None
    model = build_experts(base, expert_args, labels.num_experts if labels else 1, router_layer)
    if args.single_lora_dir:
        start_from_lora(model, load_trained_experts(base, args.single_lora_dir))
    model.train_only(experts=True, router=False)
    if args.freeze_shared_expert:
        freeze_shared_expert(model, training_args.weight_decay)

    training_args.output_dir = str(folder / "checkpoints")
    train = drop_long_transcripts(train, model, processor)
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
        save_history(
            trainer, folder, "Pre-training of the experts" if labels else "Training of a single LoRA", args.plot
        )
    return {
        "train_loss": trainer.last_loss,
        "steps": trainer.state.global_step,
        "selected_on": args.eval_split if training_args.load_best_model_at_end else None,
        "experts": model.config.num_experts,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


if __name__ == "__main__":
    run_recipe(main)
