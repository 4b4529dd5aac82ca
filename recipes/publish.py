"""Publish a folder on the Hub, for the first time or again: a model, adapter, corpus, metric or Space.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/publish.py --folder runs/moe/model --repo_id user/moe-whisper

In short: python recipes/publish.py runs/moe/model --repo_id user/moe-whisper
"""

import sys
from dataclasses import asdict, dataclass

from accelerate.utils import broadcast_object_list

from hf_components.publishing import publish
from hf_components.runtime import LogArguments, flag, join_processes, parse_arguments, run_recipe


@dataclass
class Arguments(LogArguments):
    folder: str = flag("folder to publish; the flag may be left out if the folder comes first")
    repo_id: str = flag("repository, as user/name; a metric has the name of its folder", aliases=["--hub_model_id"])
    private: bool | None = flag(
        "make a new repository private; default: data yes, models no",
        default=None,
        nargs="?",
        const=True,
        aliases=["--hub_private_repo"],
    )
    license: str | None = flag(
        "licence for the card of a model that names none, as the Hub writes it; default: apache-2.0, none for a voice",
        default=None,
    )


def main(argv: list[str] | None = None) -> dict:
    words = sys.argv[1:] if argv is None else list(argv)
    folder_first = words and not words[0].startswith("-")
    (args,) = parse_arguments(Arguments, ["--folder", *words] if folder_first else words, __doc__)
    state = join_processes()
    published = None
    if state.is_main_process:
        published = publish(args.folder, args.repo_id, private=args.private, license=args.license)
        print(f"{published.url}\nrevision: {published.revision}")
    return asdict(broadcast_object_list([published])[0])


if __name__ == "__main__":
    run_recipe(main)
