"""Run the pipeline of children's speech: manifest, fine-tuning, transcripts, WER beside zero-shot, submission, card.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_children_pipeline.py --config recipes/configs/run_children_pipeline/default.yaml \\
    --data data/children --model openai/whisper-small --output_dir runs/children
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from dataset_scripts.layouts import MANIFEST, PREPARED, require_layout
from hf_components.children import (
    ManifestPipelineArguments,
    check_inputs,
    figures_of,
    model_type_of,
    pack,
    prepare,
    release_recogniser,
    seconds_of,
    transcribe_each,
    transcribe_test,
)
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import Pipeline, all_flags, flag, passed_on_arguments, run_recipe, same_names
from hf_components.training import UNSELECTED, AugmentationArguments, FilterArguments, KlToBaseArguments, LoraArguments
from recipes import (
    average_checkpoints,
    evaluate_asr,
    finetune_asr,
    finetune_whisper,
    pack_submission,
    prepare_corpus,
    transcribe,
)

TRANSCRIBED = {  # transcripts of each system: folder of the step
    "zero_shot": "zero_shot",
    "finetuned": "finetuned_transcripts",
    "finetuned_30s": "finetuned_30s",
    "test": "test",
}
DEBUG_SAMPLES = 100
SHORT = {"num_train_epochs": 1, "data_config_override": f'{{"max_samples": {DEBUG_SAMPLES}}}'}
TRAINING = (
    same_names(
        "finetuning",
        "freeze_encoder",
        "audio_context",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "warmup_steps",
        "full_context_fraction",
        "eval_strategy",
        "early_stopping_patience",
        "fp16",
        "no_fp16",
        "bf16",
        "max_new_tokens",
        "gradient_checkpointing",
    )
    | all_flags(FilterArguments)
    | all_flags(LoraArguments)
    | all_flags(KlToBaseArguments)
    | all_flags(AugmentationArguments)
)
PASSED_ON = {
    prepare_corpus: same_names(*prepare_corpus.OF_MANIFESTS),
    finetune_whisper: TRAINING,
    finetune_asr: TRAINING,
    transcribe: same_names("batch_seconds", "num_beams", "max_new_tokens"),
    evaluate_asr: same_names("num_bootstrap", "worst"),
    pack_submission: same_names("test_utterances", "hours", "max_megabytes", "max_new_tokens"),
}


@dataclass
class Arguments(ManifestPipelineArguments):
    average: Literal["none", "uniform", "greedy"] = flag(
        "average the checkpoints of training: all of them, or those that lower the WER on dev", default="none"
    )
    debug: bool = flag(
        f"smoke test: mode quick, one epoch, {DEBUG_SAMPLES} utterances per split, into <output_dir>_debug",
        default=False,
        aliases=["--debug_run"],
    )

    def __post_init__(self):
        super().__post_init__()
        if self.debug:  # beside the real result, which it must not replace
            self.mode = "quick"
            self.output_dir = f"{self.output_dir.rstrip('/')}_debug"


ARGUMENTS = (Arguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    pipeline = Pipeline(__file__, ARGUMENTS, PASSED_ON, argv, __doc__)
    check_inputs(pipeline.args, pipeline.passed_on, PASSED_ON[prepare_corpus])
    steps = pipeline.follow(take_steps)
    if pipeline.args.dry_run:
        return {"steps": list(steps)}
    trained = steps.get("average", steps["finetuned"])
    results = pipeline.finish(
        {
            **figures_of(pipeline, steps, TRANSCRIBED),
            "average": steps["average"].metrics if "average" in steps else None,
            "selected_on": trained["selected_on"] or steps["finetuned"]["selected_on"],
        },
        release_recogniser,
        inputs=[trained / "model", steps["evaluation"]],
        seconds=seconds_of(steps, TRANSCRIBED),
    )
    push(pipeline.publishing, pipeline.out / "model")
    return results


def take_steps(pipeline: Pipeline) -> None:
    args = pipeline.args

    # 1 Corpus, divided by child
    if not pipeline.passed_on.manifest:
        require_layout(args.data, MANIFEST, PREPARED)
    prepare(pipeline, prepare_corpus, DEBUG_SAMPLES if args.debug else None)

    # 2 Fine-tuning; then, if asked for, the mean of its checkpoints
    is_whisper = model_type_of(args.model) == "whisper"
    train = finetune_whisper if is_whisper else finetune_asr
    unselected = UNSELECTED if args.mode == "quick" else {}
    trained = pipeline.run(train, "finetuned", model=args.model, **unselected, **(SHORT if args.debug else {}))
    has_own_context = trained["audio_context"] == "dynamic"
    if args.average != "none":
        trained = pipeline.run(average_checkpoints, "average", candidates=[trained.folder], method=args.average)
    model = trained / "model"

    # 3 Transcripts of the base model and of the trained one; a Whisper in its own audio context and at 30 s
    thirty_seconds = "full" if is_whisper else None
    systems = {"zero_shot": (args.model, thirty_seconds), "finetuned": (model, None)}
    if has_own_context:
        systems["finetuned_30s"] = (model, thirty_seconds)
    files = transcribe_each(pipeline, transcribe, TRANSCRIBED, systems)

    # 4 Word error rates side by side
    pipeline.run(evaluate_asr, "evaluation", predictions=files)

    # 5 Transcripts of the test set
    transcribe_test(pipeline, transcribe, model)

    # 6 The zip that a competition runs
    pack(pipeline, pack_submission, model)


if __name__ == "__main__":
    run_recipe(main)
