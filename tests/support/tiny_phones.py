"""Sentences spoken by eSpeak NG as segments of two long recordings, and its phonemes with their times as phone
labels."""

import ctypes
import json
from itertools import islice
from pathlib import Path

import numpy as np
import soxr
from datasets import Audio, Dataset
from tiny_units import CARD, RATE

from dataset_scripts.demo_sentences import sentences
from hf_components.speech.audio import encode_flac
from hf_components.speech.espeak_ng import DONT_EXIT, SYNCHRONOUS_RETRIEVAL, EspeakNg

# Constants and structure of https://github.com/espeak-ng/espeak-ng/blob/master/src/include/espeak-ng/speak_lib.h
PHONEME_EVENTS, LIST_TERMINATED, PHONEME = 1, 0, 7
PAUSE = 0.4  # seconds between segments


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


class SpokenPhones(EspeakNg):
    """A synthesiser that also says when each phoneme begins."""

    def __init__(self):
        super().__init__()
        self._begins: list[tuple[int, str]] = []
        data = str(Path(self._folder.name) / "data").encode()
        self._library.espeak_Initialize(SYNCHRONOUS_RETRIEVAL, 0, data, DONT_EXIT | PHONEME_EVENTS)
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, text: str, voice: str) -> tuple:
        """Samples, and of each phoneme start and end in seconds and its name without stress; pauses have none."""
        self._begins = []
        samples = self.synthesise(text, voice)
        ends = [*(sample for sample, _ in self._begins[1:]), len(samples)]
        return samples, [
            (begin / self.sample_rate, end / self.sample_rate, name)
            for (begin, name), end in zip(self._begins, ends, strict=True)
            if name and end > begin
        ]

    def _collect(self, samples, count, events) -> int:
        event = ctypes.cast(events, ctypes.POINTER(_Event))
        i = 0
        while event[i].type != LIST_TERMINATED:
            if event[i].type == PHONEME:
                self._begins.append((event[i].sample, event[i].name.decode().strip("',_:|")))
            i += 1
        return super()._collect(samples, count, events)


def write_spoken_phones(folder: Path, train: int = 12, dev: int = 6) -> tuple[Path, Path]:
    """A corpus as `segment_audio` leaves it, and the phones of both of its recordings as JSON lines."""
    lines = []
    (folder / "corpus" / "data").mkdir(parents=True)
    with SpokenPhones() as voice:
        for split, count, name in (("train", train, "en-us"), ("dev", dev, "en-us+f3")):
            rows, start = [], 0.0
            for number, text in enumerate(islice(sentences(split.title(), np.random.default_rng(0)), count)):
                samples, phones = voice.speak(text, name)
                wave = soxr.resample(samples / 32768, voice.sample_rate, RATE)
                lines += [
                    {"source_file": f"{split}.mp3", "start": start + a, "end": start + b, "phone": phone}
                    for a, b, phone in phones
                ]
                rows.append(
                    {
                        "id": f"{split}_{number}",
                        "audio": {"bytes": encode_flac(wave), "path": None},
                        "text": "",
                        "speaker_id": split,
                        "group": "unknown",
                        "duration": len(wave) / RATE,
                        "source_file": f"{split}.mp3",
                        "start": start,
                        "end": start + len(wave) / RATE,
                    }
                )
                start = rows[-1]["end"] + PAUSE
            Dataset.from_list(rows).cast_column("audio", Audio(RATE, decode=False)).to_parquet(
                folder / "corpus" / "data" / f"{split}-00000.parquet"
            )
    (folder / "corpus" / "README.md").write_text(CARD.format(content=f"spoken {train} {dev}"))
    (folder / "phones.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "corpus", folder / "phones.jsonl"
