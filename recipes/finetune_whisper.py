"""Fine-tune all of a Whisper, or all but its encoder, on a prepared corpus.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/finetune_whisper.py --config recipes/configs/finetune_whisper/default.yaml \\
    --corpus data/prepared --output_dir runs/full
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import set_seed

from hf_components.arguments import parse_arguments
from hf_components.checkpoints import load_whisper
from hf_components.ctranslate2_import import save_processor
from hf_components.logs import run_recipe
from hf_components.stages import run_stage
from hf_components.training.arguments import SpeechTrainingArguments, TrainingRecipeArguments
from hf_components.training.data import drop_long_transcripts, load_training_rows
from hf_components.training.report import save_history
from hf_components.training.trainer import SpeechTrainer


@dataclass(kw_only=True)
class Arguments(TrainingRecipeArguments):
    freeze_encoder: bool = field(default=False, metadata={"help": "train the decoder alone"})


ARGUMENTS = (Arguments, SpeechTrainingArguments)


def main(argv: list[str] | None = None) -> dict:
    args, training_args = parse_arguments(ARGUMENTS, argv, __doc__)
    return run_stage(training_args.output_dir, lambda folder: produce(args, training_args, folder),
                     config=(args, training_args, {"processes": training_args.world_size}), resume=args.resume,
                     archive=training_args.rebase_output_dir,
                     inputs=[args.corpus, args.base_model])


def produce(args: Arguments, training_args: SpeechTrainingArguments, folder: Path) -> dict:
    set_seed(training_args.seed)
    train, evaluated = load_training_rows(args, training_args)
    model, processor = load_whisper(args.base_model, args.language)
    model.model.encoder.requires_grad_(not args.freeze_encoder)
    model.model.encoder.embed_positions.requires_grad_(False)  # sinusoids, as Whisper's own training keeps them

    training_args.output_dir = str(folder / "checkpoints")
    train = drop_long_transcripts(train, processor, model.config.max_target_positions)
    trainer = SpeechTrainer(model, training_args, processor, train, evaluated)
    trainer.train(resume_from_checkpoint=args.resume)
    model = trainer.whole_model()
    if trainer.is_world_process_zero():
        model.save_pretrained(folder / "model")
        save_processor(processor, folder / "model")
        save_history(trainer, folder, "Fine-tuning", args.plot)
    return {"train_loss": trainer.last_loss, "steps": trainer.state.global_step,
            "selected_on": args.eval_split if training_args.load_best_model_at_end else None,
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad)}


if __name__ == "__main__":
    run_recipe(main)
