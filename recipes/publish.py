"""Publish what lies on disk on the Hub, for the first time or again: a model, adapter, corpus, metric or Space.

accelerate launch --config_file accelerate_configs/cpu.yaml \\
    recipes/publish.py --config recipes/configs/publish/default.yaml \\
    --folder runs/moe/model --repo_id user/moe-whisper

In short: python recipes/publish.py runs/moe/model --repo_id user/moe-whisper
"""

import sys
from dataclasses import asdict, dataclass, field

from accelerate.utils import broadcast_object_list

from hf_components.publishing import LICENSE, publish
from hf_components.runtime import join_processes, parse_arguments, run_recipe


@dataclass
class Arguments:
    folder: str = field(metadata={"help": "what to publish; the flag may be left out if the folder comes first"})
    repo_id: str = field(
        metadata={
            "help": "repository on the Hub, as user/name; a metric's is named as its folder",
            "aliases": ["--hub_model_id"],
        }
    )
    private: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "aliases": ["--hub_private_repo"],
            "help": "a new repository is private; default: data are, models are not",
        },
    )
    license: str = field(
        default=LICENSE, metadata={"help": "licence on the card of a model that has none yet, as the Hub writes it"}
    )
    log_file: str | None = field(default=None, metadata={"help": "append the log to this file"})


def main(argv: list[str] | None = None) -> dict:
    words = sys.argv[1:] if argv is None else list(argv)
    folder_first = words and not words[0].startswith("-")
    (args,) = parse_arguments(Arguments, ["--folder", *words] if folder_first else words, __doc__)
    state, published = join_processes(), None
    if state.is_main_process:
        published = publish(args.folder, args.repo_id, private=args.private, license=args.license)
        print(f"{published.url}\nrevision: {published.revision}")
    return asdict(broadcast_object_list([published])[0])


if __name__ == "__main__":
    run_recipe(main)
