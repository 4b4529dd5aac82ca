"""Measure how much personal voices gain: each is learned from a few sentences, and scored on the speaker's others.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/evaluate_voices.py --config recipes/configs/evaluate_voices/default.yaml \\
    --model runs/moe/model --corpus data/prepared --sentences 5 --output_dir runs/voices

Scored beside the voice are the model without it, each way alone, and a control: a LoRA that was trained as long, on as
many sentences of other speakers. What the control gains comes from more training, and not from the voice. An
interrupted run continues where it stopped.
"""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from rich.table import Table

from hf_components.asr import Transcriber
from hf_components.checkpoints import language_of
from hf_components.reporting import interval, percent, plot_bars, plot_curves, show
from hf_components.runtime import (
    PlotArguments,
    Progress,
    RecipeArguments,
    SeedArguments,
    flag,
    parse_arguments,
    read_record,
    run_as_stage,
    run_recipe,
    share_of,
    write_json,
)
from hf_components.speech import language_flag, load_corpus
from hf_components.voices import VoiceArguments, collect, draw_jobs, run_job


@dataclass(kw_only=True)
class Arguments(RecipeArguments, SeedArguments, PlotArguments):
    model: str = flag("Whisper or MoE-Whisper that was not trained on these speakers: folder or Hub id")
    corpus: str = flag("prepared corpus: folder or Hub id")
    split: str = flag("split with the speakers whose voices are learned", default="dev")
    data_config_override: str | None = flag(
        "part of the corpus to use, and who is held out: JSON, see pretrain_experts", default=None
    )
    sentences: list[int] = flag(
        "number of sentences to learn a voice from; several numbers draw a curve, and the report is about the first",
        default=[5],
        min=1,
    )
    draws: int = flag("how often these sentences are drawn at random, per speaker", default=1, min=1)
    language: str | None = language_flag()
    control: bool = flag("also score the control, which was trained on sentences of other speakers", default=True)
    num_bootstrap: int = flag("number of bootstrap samples of speakers for each interval", default=1000, min=0)
    batch_seconds: float = flag("seconds of audio per batch when transcribing", default=120.0, above=0)
    max_new_tokens: int = flag("longest transcript in tokens", default=225, min=1)
    num_beams: int = flag("beams; 1 is greedy", default=1, min=1)


ARGUMENTS = (Arguments, VoiceArguments)


def main(argv: list[str] | None = None) -> dict:
    args, voice_args = parse_arguments(ARGUMENTS, argv, __doc__)
    result = run_as_stage(produce, args, voice_args, inputs=[args.model, args.corpus], derive={"plot": plot})
    show(gains(result), each_way(result))
    return result


def produce(args: Arguments, voice_args: VoiceArguments, folder: Path) -> dict:
    corpus = load_corpus(args.corpus, args.split, args.data_config_override)
    transcriber = Transcriber.from_pretrained(
        args.model,
        args.language,
        dtype="float32",
        batch_seconds=args.batch_seconds,
        max_new_tokens=args.max_new_tokens,
        num_beams=args.num_beams,
    )
    state = PartialState()
    before = [one.text for one in transcriber.transcribe_corpus(corpus, description="before")]
    jobs = draw_jobs(corpus, args.sentences, args.draws, args.seed)
    if not args.control:
        jobs = [job.without_control() for job in jobs]
    for job in Progress(share_of(jobs), desc="learning voices", unit="voice", disable=not state.is_main_process):
        run_job(job, corpus, transcriber, before, voice_args, args.seed, folder / "jobs")
    state.wait_for_everyone()
    language = args.language or language_of(transcriber.model)
    curve = collect(jobs, corpus, folder / "jobs", language, args.num_bootstrap, args.seed)
    reported = curve[str(args.sentences[0])]
    result = {
        "sentences": args.sentences[0],
        "wer_before": reported["wer"]["before"],
        "wer_after": reported["wer"]["chosen"],
        **{
            name: reported[name]
            for name in ("difference", "interval", "relative", "made_worse", "seconds_per_voice", "bytes_per_voice")
        },
        "curve": curve,
    }
    if state.is_main_process:
        write_json(folder / "results.json", result)
        if args.plot:
            plot(folder, folder)
    state.wait_for_everyone()
    return result


def plot(finished: Path, folder: Path) -> None:
    curve = read_record(finished / "results.json", dict, "the plot needs it; leave out --plot")["curve"]
    counts = list(curve)
    names = [name for name in curve[counts[0]]["wer"] if all(name in curve[count]["wer"] for count in counts)]
    file = folder / "learning_curve.png"
    rates = {name: [100 * curve[count]["wer"][name] for count in counts] for name in names}
    title = f"Personal voices, {curve[counts[0]]['speakers']} speakers"
    x_label = "sentences of the speaker"
    y_label = "WER (%) on other sentences"
    if len(counts) == 1:  # a curve of one point shows nothing
        heights = {f"{counts[0]} {x_label}": [rate for (rate,) in rates.values()]}
        plot_bars(
            file, heights, [name.replace(" ", "\n") for name in names], y_label, f"{title}, {counts[0]} {x_label}"
        )
    else:
        plot_curves(file, rates, x_label, y_label, title, x=[int(count) for count in counts])


def gains(result: dict) -> Table:
    shown = Table(
        title="WER (%) on other sentences of the speaker",
        caption="in brackets: 95 % paired bootstrap over speakers; worse: speakers (%) by more than two points",
    )
    for heading in ("sentences", "before", "chosen", "chosen minus before", "worse", "s", "kB"):
        shown.add_column(heading, justify="right")
    for count, row in result["curve"].items():
        shown.add_row(
            count,
            percent(row["wer"]["before"]),
            percent(row["wer"]["chosen"]),
            f"{percent(row['difference'])} ({interval(row['interval'])})",
            percent(row["made_worse"]),
            f"{row['seconds_per_voice']:.0f}",
            f"{row['bytes_per_voice'] / 1000:.0f}",
        )
    return shown


def each_way(result: dict) -> Table:
    shown = Table(
        title="WER (%) of each way for everybody, by sentences", caption="control: learned from other people"
    )
    shown.add_column("way")
    for count in result["curve"]:
        shown.add_column(count, justify="right")
    for name in result["curve"][str(result["sentences"])]["wer"]:
        rates = [row["wer"].get(name) for row in result["curve"].values()]
        shown.add_row(name, *("" if rate is None else percent(rate) for rate in rates))
    return shown


if __name__ == "__main__":
    run_recipe(main)
