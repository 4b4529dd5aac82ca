"""Benchmark recognisers on one fixed sample: a row per system, every row on the same utterances."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.table import Table
from tqdm.auto import tqdm
from transformers import WhisperProcessor

from hf_components.audio import log_mel
from hf_components.cards import percent
from hf_components.corpus import sample_rows, waveforms
from hf_components.errors import UserError
from hf_components.scoring import compare, score, utterance_errors
from hf_components.stages import write_json
from hf_components.transcription import duration_batches
from hf_components.whisper import MoeWhisperForConditionalGeneration


@dataclass
class Row:
    """One system's transcripts of the sample, in its order."""

    name: str
    audio_context: str
    texts: list[str]
    seconds: float


def sample_file(folder: Path, corpus: datasets.Dataset, split: str, size: int, seed: int) -> Path:
    """Where the fixed sample of a split lies: another split, corpus, size or seed has another file."""
    digest = hashlib.sha256("\n".join(sorted(corpus["id"])).encode()).hexdigest()[:8]
    return folder / f"benchmark_samples_{split}_{digest}_{size}_{seed}.json"


def fixed_sample(corpus: datasets.Dataset, file: Path, size: int, seed: int) -> datasets.Dataset:
    """The utterances named in `file`, which is written by seed if it does not exist.

    The file is kept until someone deletes it, so that figures of different days stand on the same utterances.

    Raises:
        UserError: the file is not such a sample, or names utterances that the corpus does not have.
    """
    state = PartialState()
    if state.is_main_process and not file.exists():
        sample = sample_rows(corpus, size, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {"size": len(sample), "seed": seed, "ids": sample["id"][:]})
    state.wait_for_everyone()
    try:
        ids = json.loads(file.read_text())["ids"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a sample that benchmark_asr drew; delete it to draw one") from error
    rows = {name: row for row, name in enumerate(corpus["id"])}
    missing = [name for name in ids if name not in rows]
    if missing:
        raise UserError(f"{file} names {len(missing)} utterances that the corpus lacks, {missing[0]} for one; delete it to "
                        "draw another sample")
    return corpus.select([rows[name] for name in ids])


def run_row(name: str, audio_context: str, transcribe: Callable[[], list[str]]) -> Row:
    """Run one system and take its time."""
    start = time.perf_counter()
    texts = transcribe()
    return Row(name, audio_context, texts, time.perf_counter() - start)


@torch.inference_mode()
def corpus_gates(model: MoeWhisperForConditionalGeneration, processor: WhisperProcessor, corpus: datasets.Dataset,
                 batch_size: int) -> torch.Tensor:
    """The router's gates `(utterances, experts)`, in the order of the corpus, the same on every process."""
    state = PartialState()
    found: list[tuple[int, np.ndarray]] = []
    batches = duration_batches(corpus["duration"], batch_size)[state.process_index :: state.num_processes]
    for indices in tqdm(batches, desc="gates", unit="batch", disable=not state.is_main_process):
        features = log_mel(processor.feature_extractor, waveforms(corpus.select(indices)))
        gates = model.route(features.to(model.device, model.dtype))
        found += zip(indices, gates.cpu().numpy(), strict=True)
    if state.num_processes > 1:
        found = gather_object(found)
    return torch.from_numpy(np.stack([gate for _, gate in sorted(found, key=lambda pair: pair[0])]))


def oracle_choice(experts: list[Row], corpus: datasets.Dataset) -> np.ndarray:
    """The expert whose transcript of each utterance has the fewest word errors, `(utterances,)`; the first of equals.

    It reads the references: no router can do better one utterance at a time, and it is a bound, not a system.
    """
    references = corpus["text"][:]
    return np.stack([utterance_errors(row.texts, references)["errors"] for row in experts]).argmin(axis=0)


def judge(rows: list[Row], corpus: datasets.Dataset, *, baseline: str, num_bootstrap: int, seed: int) -> dict:
    """Score every row, and compare it with the baselines on the same utterances.

    Args:
        rows: systems; the first is the zero-shot one.
        baseline: name of the row that mixtures are compared with besides the first.
    Returns:
        `rows` (name -> figures of the `whisper_wer` metric, audio context, real-time factor) and `differences`
        (list of paired comparisons, b - a).
    """
    references, speakers = corpus["text"][:], corpus["speaker_id"][:]
    audio_seconds = sum(corpus["duration"])
    figures = {}
    for row in rows:
        figures[row.name] = {
            "audio_context": row.audio_context, "seconds": round(row.seconds, 2),
            "real_time_factor": round(row.seconds / audio_seconds, 4),
            **score(row.texts, references, corpus["group"][:], speakers, num_bootstrap=num_bootstrap, seed=seed),
        }
    by_name, differences = {row.name: row for row in rows}, []
    for row in rows[1:]:
        for other in dict.fromkeys((rows[0].name, baseline)):
            if other in by_name and other != row.name:
                difference = compare(by_name[other].texts, row.texts, references, speakers, num_bootstrap=num_bootstrap,
                                     seed=seed)
                differences.append({"a": other, "b": row.name, **difference})
    return {"rows": figures, "differences": differences}


def write_transcripts(file: Path, rows: list[Row], corpus: datasets.Dataset) -> None:
    """One JSON line per utterance: reference and what each system wrote."""
    with file.open("w") as lines:
        for i, row in enumerate(corpus.remove_columns("audio")):
            texts = {system.name: system.texts[i] for system in rows}
            line = {"id": row["id"], "speaker_id": row["speaker_id"], "group": row["group"], "reference": row["text"], **texts}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_gates(file: Path, gates: torch.Tensor, oracle: np.ndarray, corpus: datasets.Dataset) -> None:
    """One JSON line per utterance: the router's gates, its choice, and the oracle's."""
    with file.open("w") as lines:
        for i, row in enumerate(corpus.select_columns(["id", "speaker_id", "group"])):
            line = {**row, "gates": [round(float(gate), 5) for gate in gates[i]], "expert": int(gates[i].argmax()),
                    "oracle_expert": int(oracle[i])}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def routing_summary(gates: torch.Tensor, experts: list[Row], oracle: np.ndarray, corpus: datasets.Dataset) -> dict:
    """What the router chooses: share of utterances per expert, overall and per group; entropy of its gates (nats); WER of
    every expert alone; share of utterances on which no expert makes fewer word errors than the chosen one."""
    best, log_gates, groups = gates.argmax(-1).numpy(), gates.clamp(min=1e-9).log(), np.asarray(corpus["group"])
    references = corpus["text"][:]
    errors = np.stack([utterance_errors(row.texts, references)["errors"] for row in experts])  # (experts, utterances)
    every = np.arange(len(best))

    def shares(chosen: np.ndarray) -> list[float]:
        return (np.bincount(chosen, minlength=len(experts)) / len(chosen)).tolist()

    return {
        "usage": shares(best), "usage_per_group": {group: shares(best[groups == group]) for group in sorted(set(groups))},
        "gate_entropy": float(-(gates * log_gates).sum(-1).mean()),
        "wer_of_each_expert": [score(row.texts, references, num_bootstrap=0)["wer"] for row in experts],
        "as_good_as_oracle": float((errors[best, every] == errors[oracle, every]).mean()),
    }


def summary_tables(result: dict) -> list[Table]:
    """WER with its interval per system; WER per system and group."""
    sample, rows = result["sample"], result["rows"]
    where = f"{sample['utterances']} utterances of {sample['speakers']} speakers, split {sample['split']}"
    overall = Table(title=f"WER (%) on {where}",
                    caption="interval: 95 % bootstrap over speakers; RTF: seconds of work per second of audio")
    for heading in ("system", "context", "WER", "interval", "CER", "RTF"):
        overall.add_column(heading, justify="left" if heading in ("system", "context") else "right", no_wrap=True)
    for name, row in rows.items():
        low_high = row["wer_interval"]
        overall.add_row(name, row["audio_context"], percent(row["wer"]),
                        "-" if low_high is None else f"{percent(low_high[0])} to {percent(low_high[1])}", percent(row["cer"]),
                        f"{row['real_time_factor']:.2f}")
    per_group = Table(title="WER (%) per group")
    per_group.add_column("group")
    for name in rows:
        per_group.add_column(name.replace("_", " "), justify="right")
    for group in sorted(next(iter(rows.values()))["per_group"]):
        per_group.add_row(group, *(percent(row["per_group"][group]["wer"]) for row in rows.values()))
    return [overall, per_group]

