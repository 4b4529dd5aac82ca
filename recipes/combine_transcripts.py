"""Combine the transcripts of several systems into one, by a vote on every word or sound.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/combine_transcripts.py --predictions a.jsonl b.jsonl c.jsonl --output_jsonl runs/combined.jsonl

Give the best system first: it decides where votes are equal.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate import PartialState

from hf_components.runtime import (
    ID,
    PHONETIC,
    TEXT,
    LogArguments,
    UserError,
    atomic_write,
    first_few,
    flag,
    parse_arguments,
    require_apart,
    run_recipe,
    write_json_lines,
)
from hf_components.scoring import nearest_to_all, read_transcripts, vote
from hf_components.speech import WORDS, TargetArguments, language_code

logger = logging.getLogger(__name__)


@dataclass
class Arguments(LogArguments):
    predictions: list[str] = flag("JSONL files of utterance_id and orthographic_text or phonetic_text, two or more")
    output_jsonl: str = flag("file to write, with the same fields")
    method: Literal["vote", "nearest"] = flag(
        "vote: on every word, or on every sound of IPA (ROVER); nearest: the text that differs least from all others",
        default="vote",
    )
    language: str | None = flag("language code of the texts; default: English", default=None, read=language_code)


def main(argv: list[str] | None = None) -> dict:
    args, target = parse_arguments((Arguments, TargetArguments), argv, __doc__)
    if len(args.predictions) < 2:
        raise UserError(f"--predictions takes two files or more, got {len(args.predictions)}")
    require_apart(args.output_jsonl, args.predictions, flag="--output_jsonl")
    files = [read_transcripts(file, target.target, target.g2p) for file in args.predictions]
    for name, texts in zip(args.predictions[1:], files[1:], strict=True):
        if other := sorted(texts.keys() ^ files[0].keys()):
            raise UserError(
                f"{name} and {args.predictions[0]} must have the same ids; only one of them has {first_few(other)}"
            )
    systems = [[texts[utterance] for utterance in files[0]] for texts in files]
    combined = [combine(texts, args, target.target) for texts in zip(*systems, strict=True)]
    output = Path(args.output_jsonl)
    if PartialState().is_main_process:
        field = TEXT if target.target == WORDS else PHONETIC
        rows = ({ID: name, field: text} for name, text in zip(files[0], combined, strict=True))
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(output) as temporary:
            write_json_lines(temporary, rows)
    changed = sum(text != first for text, first in zip(combined, systems[0], strict=True))
    logger.info(
        "%d texts are in %s; %d of them differ from those of %s", len(combined), output, changed, args.predictions[0]
    )
    return {"utterances": len(combined), "systems": len(files), "changed": changed}


def combine(texts: Sequence[str], args: Arguments, target: str) -> str:
    """One text out of those of all systems for one utterance."""
    if args.method == "vote":
        return vote(texts, args.language, target)
    return texts[nearest_to_all(texts, args.language, target)]


if __name__ == "__main__":
    run_recipe(main)
