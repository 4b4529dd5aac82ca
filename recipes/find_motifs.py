"""Find where in a corpus something is said that sounds like a recording: query by example.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/find_motifs.py water.wav --config recipes/configs/find_motifs/default.yaml \\
    --corpus runs/units/segments --units_dir runs/units/units --output_dir runs/water

The query is a recording of any format; --query_start and --query_end cut the example out of it. Writes hits.json, a
page to listen to (index.html, clips/), and a TextGrid and an .eaf with the hits of each recording to --output_dir.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from rich.table import Table

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.checkpoints import load_model
from hf_components.reporting import show
from hf_components.runtime import (
    RecipeArguments,
    UserError,
    flag,
    parse_arguments,
    place_for,
    run_as_stage,
    run_recipe,
    write_json,
)
from hf_components.speech import SAMPLING_RATE, decode, load_corpus
from hf_components.units import SECONDS_PER_UNIT, check_same_units, read_units
from hf_components.units.motifs import Clips, tiers_of_hits, write_eaf, write_page, write_textgrid
from hf_components.units.search import find_example

SHOWN = 10  # hits in the table
HITS = "hits.json"


@dataclass
class Arguments(RecipeArguments):
    query: str = flag("clip of what to search for; also the first word of the command line", aliases=["--audio"])
    units_dir: str = flag("output folder of learn_units or encode_units")
    corpus: str = flag("what the units are of: output folder of segment_audio", aliases=["--corpus_dir"])
    query_start: float = flag("where the example starts in --query, in seconds", default=0.0, min=0)
    query_end: float | None = flag("where it ends; default: the end of --query", default=None, above=0)
    max_hits: int = flag("hits to keep", default=50, min=1)
    hits_per_segment: int = flag("most hits in one segment", default=3, min=1)
    context_seconds: float = flag("seconds of audio before and after a hit", default=0.5, min=0, max=60)


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__, leading="query")
    found = run_as_stage(produce, args, inputs=[args.query, args.units_dir, args.corpus], alone=True)
    show(hits_table(found["hits"], args.query))
    return found


def produce(args: Arguments, folder: Path) -> dict:
    table = read_units(args.units_dir)
    model = load_model(AcousticUnitsModel, str(Path(args.units_dir) / "model"))
    check_same_units(table.identity, args.units_dir, model.identity(), f"{args.units_dir}/model")
    hits = find_example(model, example_of(args), table.rows, most=args.max_hits, per_segment=args.hits_per_segment)
    if not hits:
        raise UserError(
            f"{args.query} is nowhere in {args.units_dir}: no segment is long enough; give a shorter example by "
            "--query_start and --query_end"
        )
    corpus = concatenate_datasets(list(load_corpus(args.corpus, shared_speakers=True).values()))
    cutter = Clips(folder, corpus, args.context_seconds)
    clips = []
    for rank, hit in enumerate(hits, start=1):
        (segment,) = table.rows.slice(hit.segment, 1).to_pylist()
        times = (hit.start * SECONDS_PER_UNIT, min(hit.end * SECONDS_PER_UNIT, segment["duration"]))
        clips.append({**cutter.cut(segment, *times, f"hit_{rank}"), "cost": hit.cost})
    name = Path(args.query).name
    section = {"name": name, "units": [], "about": f"{len(clips)} hits, the nearest first", "clips": clips}
    intro = (
        f"Where something sounds like {name}. Each clip has up to {args.context_seconds} s before and after the hit. "
        "The cost is the distance to the example: the lower, the more alike."
    )
    write_page(folder / "index.html", f"Hits of {name}", intro, [section], table.identity)
    for source, tiers in tiers_of_hits(clips, name).items():
        file = folder / "annotations" / place_for(source)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_textgrid(file.with_name(f"{file.name}.TextGrid"), tiers, tiers["hits"][-1].end)
        write_eaf(file.with_name(f"{file.name}.eaf"), tiers, table.identity)
    shown = ("segment", "source_file", "voice", "start", "end", "cost", "units")
    found = {
        "query": args.query,
        "units": table.identity,
        "hits": [{key: clip[key] for key in shown} for clip in clips],
    }
    write_json(folder / HITS, found)
    return found


def example_of(args: Arguments) -> np.ndarray:
    """The samples of the example."""
    waveform = decode(args.query)
    end = len(waveform) / SAMPLING_RATE if args.query_end is None else args.query_end
    if not args.query_start < end <= len(waveform) / SAMPLING_RATE + 0.01:
        raise UserError(
            f"--query_start and --query_end must lie in {args.query}, which lasts {len(waveform) / SAMPLING_RATE:.2f} "
            f"s, got {args.query_start:g} and {end:g}"
        )
    return waveform[round(args.query_start * SAMPLING_RATE) : round(end * SAMPLING_RATE)]


def hits_table(hits: list[dict], query: str) -> Table:
    """The nearest hits."""
    table = Table(title=f"The nearest of {len(hits)} hits of {query}")
    for name in ("recording", "from", "to", "voice", "cost"):
        table.add_column(name, justify="left" if name in ("recording", "voice") else "right")
    for hit in hits[:SHOWN]:
        table.add_row(
            hit["source_file"], f"{hit['start']:.2f}", f"{hit['end']:.2f}", hit["voice"], f"{hit['cost']:.3f}"
        )
    return table


if __name__ == "__main__":
    run_recipe(main)
