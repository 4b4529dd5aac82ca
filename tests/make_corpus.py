"""Write small speaker-JSON corpora for tests."""

import json
from pathlib import Path

import numpy as np
import soundfile


def noise(seconds: float, rate: int = 16_000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """float32 (samples,) or (samples, channels)."""
    shape = (round(seconds * rate), channels) if channels > 1 else round(seconds * rate)
    return (np.random.default_rng(seed).standard_normal(shape) * 0.1).astype(np.float32)


def add_speaker(root: Path, split: str, speaker: str, transcripts: dict[str, str | None], etiology: str | None = "ALS",
                seconds: float = 0.3) -> Path:
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
