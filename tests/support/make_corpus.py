"""Write small corpora for tests, in the speaker-JSON layout and in that of JSONL manifests."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import soundfile

from hf_components.speech.corpus import load_corpus


def damaged_copy(corpus: Path, folder: Path, damaged: Sequence[str]) -> Path:
    """A prepared corpus without its records, in which the recordings of some ids are cut in their middle."""
    for name, rows in load_corpus(corpus, shared_speakers=True).items():
        table = rows.to_list()
        for row in table:
            if row["id"] in damaged:
                row["audio"]["bytes"] = row["audio"]["bytes"][: len(row["audio"]["bytes"]) // 2]
        (folder / "data").mkdir(parents=True, exist_ok=True)
        copy = datasets.Dataset.from_list(table).cast_column("audio", datasets.Audio(16_000, decode=False))
        copy.to_parquet(folder / "data" / f"{name}-00000-of-00001.parquet")
    return folder


def noise(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """float32 (samples,) or (samples, channels)."""
    shape = (round(seconds * rate), channels) if channels > 1 else round(seconds * rate)
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


def add_speaker(
    root: Path,
    split: str,
    speaker: str,
    transcripts: dict[str, str | None],
    etiology: str | None = "ALS",
    seconds: float = 0.3,
) -> Path:
    """Write a speaker's folder with one recording per file name; a transcript of None leaves `Prompt` out."""
    folder = root / split / speaker
    folder.mkdir(parents=True)
    files = []
    for number, (name, transcript) in enumerate(transcripts.items()):
        soundfile.write(folder / name, noise(seconds, seed=number), 16_000)
        files.append({"Filename": name} | ({} if transcript is None else {"Prompt": {"Transcript": transcript}}))
    manifest = ({} if etiology is None else {"Etiology": etiology}) | {"Files": files}
    (folder / f"{speaker}.json").write_text(json.dumps(manifest, indent=1))
    return folder


def add_entry(folder: Path, filename: str, transcript: str = "some words") -> None:
    """List one more recording in a speaker's JSON, whatever is in the folder."""
    path = folder / f"{folder.name}.json"
    manifest = json.loads(path.read_text())
    manifest["Files"].append({"Filename": filename, "Prompt": {"Transcript": transcript}})
    path.write_text(json.dumps(manifest, indent=1))


def small_corpus(root: Path) -> Path:
    """Two speakers to train on and one to test on, three utterances each."""
    for split, speaker, etiology in (("Train", "A", "ALS"), ("Train", "B", None), ("Dev", "C", "ALS")):
        add_speaker(root, split, speaker, {f"{n}.wav": f"Sentence {n} of {speaker}." for n in range(3)}, etiology)
    return root


def manifest_row(utterance: str, child: str, age: str | None = "5-7", **more) -> dict:
    """A row of a JSONL manifest; `more` replaces its fields or, given as None, leaves them out."""
    row = {
        "utterance_id": utterance,
        "child_id": child,
        "session_id": f"S_{child}",
        "audio_path": f"audio/{utterance}.flac",
        "audio_duration_sec": 0.3,
        "age_bucket": age,
        "orthographic_text": f"words of {utterance}",
    } | more
    return {key: value for key, value in row.items() if value is not None}


def write_manifest(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def add_audio(folder: Path, utterance: str, seconds: float = 0.3, seed: int | None = None) -> Path:
    """A recording at `folder/audio/<utterance>.flac`, of noise that depends on its name."""
    path = folder / "audio" / f"{utterance}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seconds, seed=sum(utterance.encode()) if seed is None else seed), 16_000)
    return path


def children_corpus(root: Path, children: int = 6, utterances: int = 3) -> Path:
    """`train.jsonl`, its children of two ages in turn, and audio spread over audio_0 to audio_2, with checksums."""
    rows = []
    for number in range(children * utterances):
        child = number // utterances
        path = add_audio(root / f"audio_{number % 3}", f"U_{number}")
        rows.append(
            manifest_row(
                f"U_{number}",
                f"C_{child}",
                ("5-7", "8-11")[child % 2],
                md5_hash=hashlib.md5(path.read_bytes()).hexdigest(),
            )
        )
    write_manifest(root / "train.jsonl", rows)
    return root
