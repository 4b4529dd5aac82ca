"""Does training on gold that no truth made ever do harm? Twenty scenarios, each with a truth that only the score sees.

python benchmarks/gold_scenarios.py --output_dir runs/gold_scenarios --model models/wav2vec2-demo

Every scenario makes gold for spoken demo recordings, trains the recogniser on it, and lets the judges decide whether
the result is released. Recognisers and LLMs that lie, fail or know everything are played by scripts: their texts come
from a file, or in place of an LLM's reply. Then the truth tells whether the decision was right. Finished scenarios are
kept. `results.json` holds `scenarios`, `harmful_releases`, `useful_releases` and `wer_estimate_error`.
"""

import argparse
import json
import logging
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import soundfile
from rich.table import Table

from dataset_scripts.demo_recordings import write_demo_recordings
from hf_components.asr import Files, load_recogniser, transcribe_to_file
from hf_components.correction import TranscriptCorrector
from hf_components.correction.finetuning import gold
from hf_components.reporting import show
from hf_components.runtime import ID, TEXT, NothingToTrainOnError, UserError, read_json_lines, read_record, write_json
from hf_components.scoring import paired_bootstrap, utterance_errors
from hf_components.training import mix
from recipes import finetune_wav2vec2_lora

logger = logging.getLogger(__name__)

NONSENSE = "the annual report of the committee describes a number of important developments in the region"
GERMAN = "das wetter ist heute sehr schön und wir gehen mit den kindern in den garten am alten haus"
MISHEARD = {"third": 1 / 3, "two fifths": 0.4, "half": 0.5}  # share of the words that a played recogniser gets wrong
NOISE = {"clean": None, "20 dB": 20.0, "10 dB": 10.0, "5 dB": 5.0, "0 dB": 0.0}
Reply = Callable[[str], str]


@dataclass
class Scenario:
    """Where gold comes from, and who judges.

    Attributes:
        level: noise behind the recordings.
        recognisers: names of those that vote, see `players`.
        judges: names of those that judge.
        reply: what the LLM replies to a transcript, given the truth; None: there is no LLM.
        flags: further flags of the recipe.
    """

    level: str = "clean"
    recognisers: Sequence[str] = ()
    judges: Sequence[str] = ("whisper",)
    reply: Callable[[str, dict[str, str]], str] | None = None
    flags: dict = field(default_factory=dict)

    def players(self) -> list[str]:
        """All whose transcripts are needed."""
        return list(dict.fromkeys([*self.recognisers, *self.judges]))


ALL = {"train_on": "all"}
VOTE = {**ALL, "gold": "consensus", "max_gold_wer": 0.3}
SCENARIOS = {
    **{f"vote, {level}": Scenario(level, ["third", "half"], ["two fifths"], flags=VOTE) for level in NOISE},
    "vote with Whisper alone, judged by PocketSphinx": Scenario(
        recognisers=["whisper"], judges=["pocketsphinx"], flags=VOTE
    ),
    "vote with Whisper, judged by PocketSphinx": Scenario("clean", ["whisper", "third"], ["pocketsphinx"], flags=VOTE),
    "vote, nobody judges": Scenario("clean", ["whisper", "pocketsphinx"], [], flags=VOTE),
    "one that knows all": Scenario(recognisers=["perfect", "pocketsphinx"], flags=VOTE),
    "one that writes nothing": Scenario(recognisers=["silent", "third"], flags=VOTE),
    "one in another language": Scenario(recognisers=["german", "third"], flags=VOTE),
    "one whose texts are of other recordings": Scenario(recognisers=["shuffled", "pocketsphinx"], flags=VOTE),
    "two that write the same nonsense": Scenario(recognisers=["nonsense", "nonsense again"], flags=VOTE),
    "nonsense, judged by nonsense": Scenario(
        recognisers=["nonsense", "nonsense again"], judges=["nonsense too"], flags=VOTE
    ),
    "a judge in another language": Scenario(recognisers=["perfect", "third"], judges=["german"], flags=VOTE),
    "LLM that writes fluent nonsense": Scenario(reply=lambda heard, truth: NONSENSE, flags=ALL),
    "LLM that writes nothing": Scenario(reply=lambda heard, truth: "", flags=ALL),
    "LLM that translates": Scenario(reply=lambda heard, truth: GERMAN, flags=ALL),
    "LLM that knows the truth": Scenario(reply=lambda heard, truth: truth.get(heard, heard)),
    "its own text": Scenario(flags={**ALL, "gold": "stt"}),
}


class Scripted(TranscriptCorrector):
    """A corrector whose LLM is a function of the transcript."""

    def __init__(self, corrector: TranscriptCorrector, reply: Reply):
        self.__dict__ |= vars(corrector)
        self.reply = reply

    def warm_up(self) -> float:
        return 0.0

    def _request(self, lines):
        return lines[0]

    def _ask(self, requests, max_new_tokens):
        return [(self.reply(text), True) for text in requests]


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--model", default="models/wav2vec2-demo", help="recogniser that is trained")
    parser.add_argument("--whisper", default="models/whisper-tiny.en", help="recogniser that votes or judges")
    parser.add_argument("--llm", default="models/smollm2", help="LLM whose tokens are counted; scripts reply for it")
    parser.add_argument("--gguf_file", default="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--speakers", type=int, default=4)
    parser.add_argument("--utterances", type=int, default=30, help="recordings of each speaker, clean and noisy")
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--processes", type=int, default=2, help="scenarios played at once, by one thread each")
    parser.add_argument("--only", nargs="*", choices=tuple(SCENARIOS), help="these scenarios; default: all")
    args = parser.parse_args(argv)
    out = Path(args.output_dir)
    names = args.only or list(SCENARIOS)
    files = {name: out / "scenarios" / f"{re.sub(r'[^A-Za-z0-9]+', '_', name)}.json" for name in names}
    left = [name for name in names if not files[name].exists()]
    heard = dict.fromkeys((SCENARIOS[name].level, who) for name in left for who in SCENARIOS[name].players())
    levels = dict.fromkeys(SCENARIOS[name].level for name in left)
    with Workers(args.processes) as workers:
        workers.run(speak, [(out, level, args) for level in levels])
        workers.run(hear, [(out, level, who, args) for level, who in heard])
        workers.run(play_and_keep, [(name, out, files[name], args) for name in left])
    results = {name: read_record(files[name], dict, "delete it to play it again") for name in names}
    told = [
        abs(row["estimated_wer"] - row["gold_wer"]) for row in results.values() if row["estimated_wer"] is not None
    ]
    summary = {
        "scenarios": len(results),
        "harmful_releases": sum(row["released"] and row["harmful"] for row in results.values()),
        "useful_releases": sum(row["released"] and row["useful"] for row in results.values()),
        "useful": sum(row["useful"] for row in results.values()),
        "wer_estimate_error": float(np.mean(told)) if told else None,
        "by_scenario": results,
    }
    write_json(out / "results.json", summary)
    lines = [
        f"harmful releases: {summary['harmful_releases']} of {len(results)}",
        f"useful releases: {summary['useful_releases']} of {summary['useful']}",
    ]
    if told:
        lines.append(
            f"expected WER of the gold: off by {100 * np.mean(told):.1f} points on average, {len(told)} scenarios"
        )
    show(table(results), "\n".join(lines))
    return summary


class Workers:
    """Processes with one thread each; with one there is none but this."""

    def __init__(self, count: int):
        self.pool = None
        if count > 1:
            os.environ["OMP_NUM_THREADS"] = "1"  # for those that are started
            self.pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def run(self, function: Callable, jobs: Sequence[tuple]) -> None:
        """Call a function with the arguments of each job, and wait for all."""
        if self.pool is None:
            for job in jobs:
                function(*job)
            return
        for result in [self.pool.submit(function, *job) for job in jobs]:
            result.result()


def play_and_keep(name: str, out: Path, file: Path, args: argparse.Namespace) -> None:
    write_json(file, play(SCENARIOS[name], out, file.with_suffix(""), args))


def play(scenario: Scenario, out: Path, folder: Path, args: argparse.Namespace) -> dict:
    """Make gold, train, let the judges decide, and score all of it by the truth."""
    recordings, truth = place_of(out, scenario.level)
    hidden = out / "no_truth.jsonl"
    hidden.write_text("")
    flags = {
        "audio_dir": recordings,
        "truth": hidden,
        "model": args.model,
        "output_dir": folder,
        "llm_model": args.llm,
        "gguf_file": args.gguf_file,
        "llm_choices": 0,
        "no_lora": True,
        "num_epochs": args.epochs,
        "batch_size": 8,
        "learning_rate": 5e-4,
        "base_share": 0.5,
        "eval_ratio": 0.4,
        "plot": False,
        "report_to": "none",
        "save_strategy": "no",
        **scenario.flags,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    for flag, names in (("--recognisers", scenario.recognisers), ("--judges", scenario.judges)):
        words += [flag, *(str(file_of(out, scenario.level, name)) for name in names)] if names else []
    config = Path(__file__).parents[1] / "recipes/configs/finetune_wav2vec2_lora/quick.yaml"
    try:
        with llm_of(scenario, recordings, truth):
            result = finetune_wav2vec2_lora.main(["--config", str(config), *words])
    except (NothingToTrainOnError, UserError, SystemExit) as error:
        return {"released": False, "reason": str(error), "harmful": False, "useful": False} | dict.fromkeys(
            ("estimated_wer", "gold_wer", "before", "after", "interval")
        )
    samples = [row for _, row in read_json_lines(folder / "samples.jsonl")]
    real = [truth[row["id"]] for row in samples]
    held_out = [i for i, row in enumerate(samples) if row["held_out"]]
    new, old = (
        utterance_errors([samples[i][name] for i in held_out], [real[i] for i in held_out])
        for name in ("finetuned", "heard")
    )
    gain = paired_bootstrap(new, old, num_bootstrap=1000, seed=0)
    return {
        "released": result["release"]["released"],
        "reason": result["release"]["reason"],
        "harmful": gain["difference"] < 0,
        "useful": gain["interval"][0] > 0,
        "estimated_wer": result["gold"]["estimated_wer"],
        "gold_wer": _wer(utterance_errors([row["gold"] for row in samples], real)),
        "before": _wer(old),
        "after": _wer(new),
        "interval": gain["interval"],
    }


def place_of(out: Path, level: str) -> tuple[Path, dict[str, str]]:
    """The folder of the recordings with noise of this level, and their texts by id."""
    folder = out / "recordings" / level.replace(" ", "_")
    return folder, {row["file"]: row["text"] for _, row in read_json_lines(folder / "truth.jsonl")}


def speak(out: Path, level: str, args: argparse.Namespace) -> None:
    """Make the recordings with noise of this level."""
    folder = out / "recordings" / level.replace(" ", "_")
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}")
    write_demo_recordings(unfinished, dev_speakers=args.speakers, utterances_per_speaker=args.utterances)
    random = np.random.default_rng(0)
    for file in sorted(unfinished.rglob("*.wav")) if NOISE[level] is not None else ():
        samples, rate = soundfile.read(file, dtype="float32")
        noisy = mix(samples, random.standard_normal(len(samples)).astype(np.float32), NOISE[level])
        soundfile.write(file, noisy / max(1, np.abs(noisy).max()), rate, subtype="PCM_16")
    unfinished.rename(folder)


def file_of(out: Path, level: str, name: str) -> Path:
    """The transcripts of a recogniser."""
    return out / "heard" / level.replace(" ", "_") / f"{name.replace(' ', '_')}.jsonl"


def hear(out: Path, level: str, name: str, args: argparse.Namespace) -> None:
    """Write the transcripts of a recogniser, real or played."""
    file = file_of(out, level, name)
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    recordings, truth = place_of(out, level)
    ids = list(truth)
    random = np.random.default_rng(len(name))
    if name in ("whisper", "pocketsphinx"):
        options = {} if name == "pocketsphinx" else {"word_confidences": True, "num_beams": 1}
        recogniser = load_recogniser(args.whisper if name == "whisper" else name, **options)
        files = Files({i: recordings / i for i in ids})
        transcribe_to_file(recogniser, files, file, order=ids, identity={}, resume=True)
        return
    texts = {
        "perfect": [truth[i] for i in ids],
        "silent": [""] * len(ids),
        "german": [_some(GERMAN, random, 8) for _ in ids],
        "shuffled": [truth[i] for i in random.permutation(ids)],
        **{who: [_misheard(truth[i], random, truth, rate) for i in ids] for who, rate in MISHEARD.items()},
    }.get(name) or [_some(NONSENSE, np.random.default_rng(i), 6) for i in range(len(ids))]
    rows = [{ID: i, TEXT: text} for i, text in zip(ids, texts, strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def llm_of(scenario: Scenario, recordings: Path, truth: dict[str, str]):
    """The LLM of a scenario in place of the real one, which is loaded for its tokens."""
    load = gold.load_corrector

    def scripted(args, alphabet):
        corrector = load(args, alphabet)
        return Scripted(corrector, lambda heard: scenario.reply(heard, by_text))

    by_text: dict[str, str] = {}
    correct = gold.correct_to_file

    def noting(corrector, ids, texts, path, resume):
        # The LLM is shown lower case.
        by_text.update({" ".join(text[0].lower().split()): truth[i] for i, text in zip(ids, texts, strict=True)})
        return correct(corrector, ids, texts, path, resume)

    return mock.patch.multiple(gold, load_corrector=scripted, correct_to_file=noting)


def table(results: dict[str, dict]) -> Table:
    lines = Table(title="Gold without truth: its WER, and that of the recogniser (%)")
    for heading in ("scenario", "gold", "expected", "before", "after", "decision", "by the truth"):
        lines.add_column(heading, justify="left" if heading == "scenario" else "right")
    for name, row in results.items():
        lines.add_row(
            name,
            *(_percent(row[key]) for key in ("gold_wer", "estimated_wer", "before", "after")),
            "released" if row["released"] else "refused",
            "useful" if row["useful"] else "harmful" if row["harmful"] else "neither",
        )
    return lines


def _misheard(text: str, random: np.random.Generator, truth: dict[str, str], rate: float) -> str:
    """A text in which this share of the words are others."""
    others = " ".join(truth.values()).split()
    return " ".join(word if random.random() > rate else str(random.choice(others)) for word in text.split())


def _some(text: str, random: np.random.Generator, count: int) -> str:
    return " ".join(random.permutation(text.split())[:count])


def _wer(counts: dict) -> float:
    return float(counts["errors"].sum() / counts["reference_words"].sum())


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
