"""Run the pipeline of sounds: manifest, a recogniser that writes IPA, its error rate beside words in IPA, submission.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_phonetic_pipeline.py --config recipes/configs/run_phonetic_pipeline/default.yaml \\
    --data data/children --model openai/whisper-small --output_dir runs/phonetic

Rows with `phonetic_text` are used as they are. For those with words alone eSpeak NG says how the words should sound.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from dataset_scripts.layouts import MANIFEST, PREPARED, require_layout
from hf_components.children import (
    ManifestPipelineArguments,
    check_inputs,
    figures_of,
    pack,
    prepare,
    release_phonetic,
    seconds_of,
    transcribe_each,
    transcribe_test,
)
from hf_components.publishing import PublishModelArguments, push
from hf_components.runtime import PHONETIC, Pipeline, all_flags, flag, passed_on_arguments, run_recipe, same_names
from hf_components.training import UNSELECTED, AugmentationArguments
from recipes import evaluate_asr, finetune_asr, finetune_whisper, pack_submission, prepare_corpus, transcribe

TRANSCRIBED = {"zero_shot": "zero_shot", "words": "words_transcripts", "finetuned": "finetuned_transcripts"}
PASSED_ON = {
    prepare_corpus: same_names(*prepare_corpus.OF_MANIFESTS),
    finetune_asr: same_names(
        "head",
        "head_learning_rate",
        "freeze_encoder",
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
        "gradient_checkpointing",
    )
    | all_flags(AugmentationArguments),
    transcribe: same_names("batch_seconds", "num_beams", "max_new_tokens"),
    evaluate_asr: same_names("num_bootstrap", "worst"),
    pack_submission: same_names("test_utterances", "hours", "max_megabytes"),
}


@dataclass
class Arguments(ManifestPipelineArguments):
    g2p: str | None = flag(
        "voice of eSpeak NG that turns words into IPA, where there is none and for the zero-shot row",
        default="en-us",
        needs={"target": PHONETIC},  # always so here
    )
    compare_words: bool = flag(
        "also fine-tune the base, a Whisper, on words, and turn what that writes into IPA: a row beside the others",
        default=False,
    )


ARGUMENTS = (Arguments, PublishModelArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    pipeline = Pipeline(__file__, ARGUMENTS, PASSED_ON, argv, __doc__)
    check_inputs(pipeline.args, pipeline.passed_on, PASSED_ON[prepare_corpus])
    steps = pipeline.follow(take_steps)
    if pipeline.args.dry_run:
        return {"steps": list(steps)}
    systems = steps["evaluation"]["systems"]
    results = pipeline.finish(
        {
            **figures_of(pipeline, steps, TRANSCRIBED),
            "g2p": pipeline.args.g2p,
            "ipa_cer": {name: figures["cer"] for name, figures in systems.items()},
            "selected_on": steps["finetuned"]["selected_on"],
        },
        release_phonetic,
        inputs=[steps["finetuned"] / "model", steps["evaluation"]],
        seconds=seconds_of(steps, TRANSCRIBED),
    )
    push(pipeline.publishing, pipeline.out / "model")
    return results


def take_steps(pipeline: Pipeline) -> None:
    args = pipeline.args
    ipa = {"target": PHONETIC, "g2p": args.g2p}
    unselected = UNSELECTED if args.mode == "quick" else {}

    # 1 Corpus, divided by speaker
    if not pipeline.passed_on.manifest:
        require_layout(args.data, MANIFEST, PREPARED)
    prepare(pipeline, prepare_corpus)

    # 2 A recogniser that writes sounds; if asked for, one that writes words
    model = pipeline.run(finetune_asr, "finetuned", model=args.model, **ipa, **unselected) / "model"
    systems = {"zero_shot": (args.model, None), "finetuned": (model, None)}
    if args.compare_words:
        words = pipeline.run(finetune_whisper, "words", model=args.model, **unselected)
        systems = {"zero_shot": (args.model, None), "words": (words / "model", None), "finetuned": (model, None)}

    # 3 What each of them writes; of words eSpeak NG says how they sound
    files = transcribe_each(pipeline, transcribe, TRANSCRIBED, systems)

    # 4 Character error rates of IPA side by side
    pipeline.run(evaluate_asr, "evaluation", predictions=files, **ipa)

    # 5 IPA of the test set
    transcribe_test(pipeline, transcribe, model)

    # 6 The zip that a competition runs
    pack(pipeline, pack_submission, model, has_own_head=pipeline.passed_on.head == "ctc", track="phonetic")


if __name__ == "__main__":
    run_recipe(main)
