"""Distil a MoE-Whisper, the teacher, into one plain Whisper, the student.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/distil_moe_whisper.py --config recipes/configs/distil_moe_whisper/default.yaml \\
    --teacher_model runs/moe/joint/model --model runs/moe/merged/model --corpus data/prepared \\
    --output_dir runs/moe/distilled

The student starts from the mean of the experts (<output_dir>/model of merge_moe_whisper), or from any Whisper with the
teacher's vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import set_seed

from hf_components.checkpoints import load_moe_whisper, load_whisper, save_processor
from hf_components.moe import DistillationArguments, DistillationTrainer, score_plain
from hf_components.moe.benchmark import summary_tables
from hf_components.publishing import PublishModelArguments, push
from hf_components.reporting import show
from hf_components.runtime import flag, parse_arguments, run_as_stage, run_recipe
from hf_components.speech import load_corpus, require_readable, sample_rows
from hf_components.training import (
    Teacher,
    TrainingRecipeArguments,
    keep_learnable,
    load_training_rows,
    outcome,
    plot_training,
    save_history,
)

TITLE = "Distillation"


@dataclass(kw_only=True)
class Arguments(TrainingRecipeArguments):
    teacher_model: str = flag("MoE-Whisper checkpoint: folder or Hub id", aliases=["--moe_dir"])
    model: str = flag("Whisper that the student starts from: folder or Hub id", aliases=["--student", "--base_model"])
    split: str = flag("split to score", default="dev")
    max_samples: int = flag("utterances drawn at random from that split", default=200, min=1)
    num_bootstrap: int = flag("number of bootstrap samples of speakers for each interval", default=1000, min=0)


ARGUMENTS = (Arguments, PublishModelArguments, DistillationArguments)


def main(argv: list[str] | None = None) -> dict:
    args, publishing, training_args = parse_arguments(ARGUMENTS, argv, __doc__)
    result = run_as_stage(
        produce,
        args,
        training_args,
        inputs=[args.corpus, args.model, args.teacher_model],
        derive={"plot": plot_training(TITLE)},
    )
    show(*summary_tables(result))
    push(publishing, Path(training_args.output_dir) / "model")
    return result


def produce(args: Arguments, training_args: DistillationArguments, folder: Path) -> dict:
    set_seed(training_args.seed)
    train, evaluated = load_training_rows(args, training_args, folder)
    corpus = sample_rows(load_corpus(args.corpus, args.split), args.max_samples, training_args.seed)
    require_readable(corpus, args.corpus, args.split)
    teacher, _ = load_moe_whisper(args.teacher_model)
    student, processor = load_whisper(args.model, args.language)
    student.model.encoder.embed_positions.requires_grad_(False)  # fixed sinusoids, as in Whisper's training

    training_args.output_dir = str(folder / "checkpoints")
    train = keep_learnable(train, student, processor)
    trainer = DistillationTrainer(student, training_args, processor, train, evaluated, teacher=Teacher(teacher))
    trainer.train(resume_from_checkpoint=args.resume)
    student = trainer.whole_model()
    if trainer.is_world_process_zero():
        student.save_pretrained(folder / "model")
        save_processor(processor, folder / "model")
        save_history(trainer, folder, TITLE, args.plot)
    before, _ = load_whisper(args.model, args.language)
    result = score_plain(
        {"student_before": before, "student": student},
        teacher,
        processor,
        corpus,
        split=args.split,
        batch_size=training_args.per_device_eval_batch_size,
        max_new_tokens=training_args.max_new_tokens,
        num_bootstrap=args.num_bootstrap,
        seed=training_args.seed,
    )
    return {**outcome(trainer, args.eval_split), **result}


if __name__ == "__main__":
    run_recipe(main)
