"""Fine-tune a Whisper: all of it, all but its encoder, or a LoRA, on a prepared corpus or a JSONL manifest.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/finetune_whisper.py --config recipes/configs/finetune_whisper/default.yaml \\
    --train_manifest data/train_word_transcripts.jsonl --audio_dirs data/audio_0 data/audio_1 data/audio_2 \\
    --output_dir runs/whisper-small

It is `finetune_asr`, which trains every other kind of recogniser too, with configurations for a Whisper.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # to import the other recipe as recipes.finetune_asr

from hf_components.runtime import parse_arguments, run_recipe
from recipes import finetune_asr

ARGUMENTS = finetune_asr.ARGUMENTS


def main(argv: list[str] | None = None) -> dict:
    return finetune_asr.run(finetune_asr.Flags(*parse_arguments(ARGUMENTS, argv, __doc__)))


if __name__ == "__main__":
    run_recipe(main)
