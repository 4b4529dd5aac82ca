"""Train MoE-Whisper jointly: soft, then top-k, then hard routing.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/train_moe_whisper.py --config recipes/configs/train_moe_whisper/default.yaml \\
    --corpus data/prepared --experts_dir runs/moe/experts --router_dir runs/moe/router --output_dir runs/moe/joint
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate.utils import set_seed

from hf_components.checkpoints import load_whisper, save_processor
from hf_components.moe import MoeTrainer, RoutingArguments, freeze_shared_expert, load_mixture
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import flag, parse_arguments, run_as_stage, run_recipe
from hf_components.training import (
    KlToBaseArguments,
    SpeechTrainingArguments,
    Teacher,
    TrainingRecipeArguments,
    keep_learnable,
    load_training_rows,
    outcome,
    plot_training,
    save_history,
)

TITLE = "Joint training"


@dataclass(kw_only=True)
class Arguments(TrainingRecipeArguments):
    experts_dir: str = flag("output of pretrain_experts")
    router_dir: str = flag("output of pretrain_router", aliases=["--gating_model_checkpoint"])
    experts_per_utterance: int = flag(
        "experts that stay active in the top-k phase", default=2, aliases=["--top_k_experts", "--moe_top_k"], min=1
    )
    mixture: Literal["weights", "logits"] = flag(
        "weights: one pass with merged LoRA; logits: one pass per active expert", default="weights"
    )
    beta: float = flag(
        "weight of the router's choice; the rest is the shared expert alone, or without one the mean of all experts",
        default=1.0,
        min=0,
        max=1,
        needs={"mixture": "weights"},
    )
    min_audio_context: int = flag("shortest audio context in mel frames of 10 ms", default=200, min=2, max=3000)
    freeze_shared_expert: bool = flag("keep the shared expert fixed; train only what the others add", default=False)


ARGUMENTS = (Arguments, RoutingArguments, KlToBaseArguments, PublishModelArguments, SpeechTrainingArguments)


def main(argv: list[str] | None = None) -> dict:
    args, routing_args, kl, publishing, training_args = parse_arguments(ARGUMENTS, argv, __doc__)
    output_dir = Path(training_args.output_dir)
    result = run_as_stage(
        produce,
        args,
        routing_args,
        kl,
        training_args,
        inputs=[args.corpus, args.model, args.experts_dir, args.router_dir],
        derive={"plot": plot_training(TITLE)},
    )
    push(publishing, output_dir / "model")
    return result


def produce(
    args: Arguments,
    routing_args: RoutingArguments,
    kl: KlToBaseArguments,
    training_args: SpeechTrainingArguments,
    folder: Path,
) -> dict:
    set_seed(training_args.seed)
    train, evaluated = load_training_rows(args, training_args, folder)
    base, processor = load_whisper(args.model, args.language)
    model = load_mixture(
        base,
        args.experts_dir,
        args.router_dir,
        experts_per_utterance=args.experts_per_utterance,
        mixture=args.mixture,
        beta=args.beta,
        audio_context="dynamic",
        min_audio_context=args.min_audio_context,
    )
    model.train_only(experts=True, router=True)
    if args.freeze_shared_expert:
        freeze_shared_expert(model, training_args.weight_decay)

    training_args.output_dir = str(folder / "checkpoints")
    train = keep_learnable(train, model, processor)
    teacher = Teacher(base) if kl.kl_to_base_coef else None
    del base  # the mixture has its weights; a second copy would stay in the GPU's memory
    trainer = MoeTrainer(model, training_args, processor, train, evaluated, routing=routing_args, kl=kl, base=teacher)
    trainer.train(resume_from_checkpoint=args.resume)
    model = trainer.whole_model()
    if trainer.is_world_process_zero():
        model.save_pretrained(folder / "model")
        save_processor(processor, folder / "model")
        model.save_experts(folder / "experts")
        save_history(trainer, folder, TITLE, args.plot)
    return {
        **outcome(trainer, args.eval_split),
        "usage": trainer.usage.tolist(),
        "routing": model.config.routing,
        "router_temperature": model.config.router_temperature,
    }


if __name__ == "__main__":
    run_recipe(main)
