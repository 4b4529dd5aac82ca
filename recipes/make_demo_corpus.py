"""Make a demo corpus spoken by eSpeak NG.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/make_demo_corpus.py --config recipes/configs/make_demo_corpus/default.yaml

Layouts: speakers is four groups of speakers, with one JSON file each. children is four ages in JSONL manifests; Dev is
then the folder test/. clean_noisy is two folders of recordings by speakers of Dev alone, without transcripts, and
truth.jsonl to score by. long is four recordings of each speaker of Train, with pauses between the sentences, and
sentences.jsonl to score by. personal is speakers of Dev alone, of five kinds that a recogniser gets wrong, for a voice
each.
"""

from dataclasses import dataclass

from rich.table import Table

from dataset_scripts.demo_children import write_demo_children
from dataset_scripts.demo_long import write_demo_long
from dataset_scripts.demo_personal import write_demo_personal
from dataset_scripts.demo_recordings import write_demo_recordings
from dataset_scripts.demo_speakers import write_demo_corpus
from hf_components.reporting import show
from hf_components.runtime import SEEDS, Progress, ResumeArguments, flag, parse_arguments, run_recipe, run_stage

BOTH = ("train_speakers", "dev_speakers")
LAYOUTS = {  # function that writes the corpus, and the flags that count its speakers
    "speakers": (write_demo_corpus, BOTH),
    "children": (write_demo_children, BOTH),
    "clean_noisy": (write_demo_recordings, BOTH[1:]),
    "long": (write_demo_long, BOTH[:1]),
    "personal": (write_demo_personal, BOTH[1:]),
}


@dataclass
class Arguments(ResumeArguments):
    layout: str = flag("kind of corpus, see above", default="speakers", choices=tuple(LAYOUTS))
    output_dir: str = flag("folder of the corpus", default="data/demo_speakers")
    train_speakers: int = flag("speakers in Train, for each group or age", default=4, min=1)
    dev_speakers: int = flag("speakers in Dev, for each group or age; none of them is in Train", default=2, min=1)
    utterances_per_speaker: int = flag("recordings (long: sentences) per speaker, about 2.5 s each", default=16, min=1)
    seed: int = flag("seed of voices, sentences and noise", default=0, **SEEDS)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__)
    write, speakers = LAYOUTS[args.layout]
    metrics = run_stage(
        args.output_dir,
        lambda folder: {
            "rows": write(
                folder,
                utterances_per_speaker=args.utterances_per_speaker,
                seed=args.seed,
                progress=lambda spoken: Progress(list(spoken), desc="speaking", unit=" utterances"),
                **{name: getattr(args, name) for name in speakers},
            )
        },
        config=args,
        resume=args.resume,
        alone=True,
    )
    show(summary(metrics["rows"], args.output_dir))
    return metrics


def summary(rows: list[dict], title: str) -> Table:
    table = Table("split", "group", title=title)
    for column in ("speakers", "utterances", "minutes", "Hz"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["split"],
            row["group"],
            str(row["speakers"]),
            str(row["utterances"]),
            f"{row['minutes']:.1f}",
            str(row["sample_rate"]),
        )
    return table


if __name__ == "__main__":
    run_recipe(main)
