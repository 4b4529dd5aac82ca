"""A tiny folder of clean and noisy recordings with their truth, and an LLM that corrects as a test wants."""

import json
from collections.abc import Callable
from pathlib import Path

import soundfile
from tiny_llm import save_tiny_llm, script
from tiny_speech import sentence, tone

from hf_components.correction.corrector import TranscriptCorrector


def recordings(folder: Path, per_condition: int = 5, seconds: float = 0.5) -> Path:
    """Tones in clean/ and noisy/, the latter one folder deeper, one file that is none, and `truth.jsonl`."""
    lines = []
    for condition, inside in (("clean", "clean"), ("noisy", "noisy/street")):
        (folder / inside).mkdir(parents=True)
        for number in range(per_condition):
            file = f"{inside}/{number}.wav"
            clip = tone(number % 3, number + 9 * (condition == "noisy"), seconds + 0.1 * number)
            soundfile.write(folder / file, clip, 16_000)
            lines.append({"file": file, "text": sentence(number + (condition == "noisy"))})
    (folder / "clean" / "broken.wav").write_bytes(b"no audio")
    lines.append({"file": "clean/broken.wav", "text": "nobody knows"})
    (folder / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def scripted_corrector(
    folder: Path, reply: Callable[[str], str], **options
) -> tuple[TranscriptCorrector, list[list[str]]]:
    """A corrector that replies so, and the batches that it was asked for."""
    corrector = TranscriptCorrector.from_pretrained(save_tiny_llm(folder), **options)
    return corrector, script(corrector, reply)
