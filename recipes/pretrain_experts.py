"""Train LoRA experts, each utterance carrying its cluster labels as weights; without labels, one LoRA for all.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/pretrain_experts.py --config recipes/configs/pretrain_experts/default.yaml \\
    --corpus data/prepared --labels_dir runs/moe/clusters --router_dir runs/moe/router --output_dir runs/moe/experts
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import set_seed

from hf_components.arguments import parse_arguments
from hf_components.checkpoints import load_whisper
from hf_components.corpus import load_corpus
from hf_components.labels import load_labels
from hf_components.logs import run_recipe
from hf_components.stages import run_stage
from hf_components.training.data import drop_long_transcripts
from hf_components.training.experts import ExpertArguments, build_experts, load_router, save_trained_experts
from hf_components.training.report import save_history
from hf_components.training.trainer import SpeechTrainer, SpeechTrainingArguments


@dataclass
class Arguments:
    corpus: str = field(metadata={"help": "prepared corpus: folder or Hub id"})
    base_model: str = field(default="models/whisper-tiny.en", metadata={"help": "Whisper checkpoint: folder or Hub id"})
    language: str = field(default="en", metadata={"help": "language code, for multilingual checkpoints"})
    labels_dir: str | None = field(default=None, metadata={
        "help": "output of cluster_embeddings; without it a single LoRA is trained, the baseline of every mixture"})
    router_dir: str | None = field(default=None, metadata={"help": "output of pretrain_router; says where experts may begin"})
    resume: bool = field(default=False, metadata={"help": "keep a finished result, continue an interrupted one"})
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


ARGUMENTS = (Arguments, ExpertArguments, SpeechTrainingArguments)


def main(argv: list[str] | None = None) -> dict:
    args, expert_args, training_args = parse_arguments(ARGUMENTS, argv, __doc__)
    inputs = [path for path in (args.corpus, args.base_model, args.labels_dir, args.router_dir) if path]
    return run_stage(training_args.output_dir, lambda folder: produce(args, expert_args, training_args, folder),
                     config=(args, expert_args, training_args, {"processes": training_args.world_size}), inputs=inputs,
                     resume=args.resume)


def produce(args: Arguments, expert_args: ExpertArguments, training_args: SpeechTrainingArguments, folder: Path) -> dict:
    set_seed(training_args.seed)  # before the experts are drawn
    train, dev = load_corpus(args.corpus, "train"), load_corpus(args.corpus).get("dev")
    base, processor = load_whisper(args.base_model, args.language)
    router_layer = load_router(args.router_dir)[1] if args.router_dir else max(1, base.config.encoder_layers // 2)
    labels = load_labels(args.labels_dir) if args.labels_dir else None
    model = build_experts(base, expert_args, labels.num_experts if labels else 1, router_layer)
    model.train_only(experts=True, router=False)

    training_args.output_dir = str(folder / "checkpoints")
    train = drop_long_transcripts(train, processor, model.config.max_target_positions)
    trainer = SpeechTrainer(model, training_args, processor, train, dev,
                            expert_weights=labels.weights_of(train["id"]) if labels else None)
    trainer.train(resume_from_checkpoint=args.resume)
    if trainer.is_world_process_zero():
        save_trained_experts(model, folder)
        save_history(trainer, folder, "Pre-training of the experts" if labels else "Training of a single LoRA")
    return {"train_loss": trainer.last_loss, "steps": trainer.state.global_step, "experts": model.config.num_experts,
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad)}


if __name__ == "__main__":
    run_recipe(main)
