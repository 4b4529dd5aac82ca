"""Run the pipeline of personal voices: corpus, what voices gain on held-out sentences, a voice for each person, cards.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/run_voice_pipeline.py --config recipes/configs/run_voice_pipeline/default.yaml \\
    --data data/my_speakers --model runs/moe/model --output_dir runs/voice
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the steps as recipes.<step>

from dataset_scripts.layouts import SPEAKERS, must_prepare
from hf_components.checkpoints import base_model_id
from hf_components.publishing import PublishVoiceArguments, push
from hf_components.runtime import (
    Pipeline,
    PipelineArguments,
    all_flags,
    flag,
    passed_on_arguments,
    run_recipe,
    same_names,
)
from hf_components.voices import VoiceArguments, release_voices
from recipes import evaluate_voices, personalise_whisper, prepare_corpus

PASSED_ON = {
    evaluate_voices: {
        **all_flags(VoiceArguments),
        **same_names("split", "sentences", "draws", "control", "num_bootstrap", "language", "num_beams"),
    },
    personalise_whisper: {**all_flags(VoiceArguments), **same_names("language", "max_sentences")},
}


@dataclass
class Arguments(PipelineArguments):
    data: str = flag("speaker-JSON folder or prepared corpus of the people to learn: folder or Hub id")
    model: str = flag("Whisper or MoE-Whisper: folder or Hub id", default="models/whisper-tiny.en")


ARGUMENTS = (Arguments, PublishVoiceArguments, passed_on_arguments(PASSED_ON))


def main(argv: list[str] | None = None) -> dict:
    pipeline = Pipeline(__file__, ARGUMENTS, PASSED_ON, argv, __doc__)
    steps = pipeline.follow(take_steps)
    if pipeline.args.dry_run:
        return {"steps": list(steps)}
    results = {
        "base_model": base_model_id(pipeline.args.model),
        "evaluation": steps["evaluation"].metrics,
        "voices": steps["voices"]["voices"],
    }
    results = pipeline.finish(results, release_voices, inputs=[steps["voices"], steps["evaluation"]])
    push(pipeline.publishing, pipeline.out / "model")
    return results


def take_steps(pipeline: Pipeline) -> None:
    args = pipeline.args
    run = pipeline.run

    # 1 Corpus
    corpus = args.data
    if must_prepare(args.data, SPEAKERS):
        corpus = run(prepare_corpus, "corpus", size="default", builder="speaker_json", data_dir=args.data)
    pipeline.everywhere(model=args.model)

    # 2 What a voice gains: learned from a few sentences, scored on the others
    run(evaluate_voices, "evaluation", corpus=corpus)

    # 3 A voice for each person
    run(personalise_whisper, "voices", data=corpus)


if __name__ == "__main__":
    run_recipe(main)
