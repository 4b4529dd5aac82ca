"""Phones and words of English recordings with their times, where nobody has marked them: PocketSphinx aligns a text.

python benchmarks/silver_alignments.py --corpus runs/units/segments --recogniser models/whisper-tiny.en \\
    --output_dir runs/silver

The text is that of the corpus; where there is none, a recogniser writes it. Segments with a number or a word that is
not in PocketSphinx's dictionary are left out. So these alignments are silver: text and times are a machine's, but its
acoustic model is none of those that units are compared by. Writes phones.jsonl and words.jsonl for evaluate_units and
benchmarks/query_by_example.py.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from datasets import Dataset
from pocketsphinx import Decoder

from hf_components.asr import Transcriber
from hf_components.runtime import Progress
from hf_components.speech import SAMPLING_RATE, load_corpus, waveforms

FRAMES_PER_SECOND = 100
SILENCE = ("SIL", "+", "<", "[")  # first characters of what is no speech
BATCH = 16


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--recogniser", default="models/whisper-tiny.en")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    aligner = Aligner()
    counts = {"segments": 0, "aligned": 0}
    with (args.output_dir / "phones.jsonl").open("w") as phones, (args.output_dir / "words.jsonl").open("w") as words:
        for rows, texts in written(args.corpus, args.recogniser):
            for row, waveform, text in zip(
                rows.remove_columns("audio").to_list(), waveforms(rows), texts, strict=True
            ):
                found = aligner(waveform, text)
                counts["segments"] += 1
                counts["aligned"] += found is not None
                where = {"source_file": row.get("source_file", row["id"]), "segment": row["id"]}
                shift = row.get("start", 0.0)
                for file, field, entries in zip((words, phones), ("word", "phone"), found or ((), ()), strict=True):
                    for start, end, name in entries:
                        times = {"start": round(shift + start, 4), "end": round(shift + end, 4)}
                        file.write(json.dumps({**where, **times, field: name}) + "\n")
    print(json.dumps(counts))
    return counts


def written(corpus_dir: str, recogniser: str) -> Iterator[tuple[Dataset, list[str]]]:
    """Batches of all splits with their texts."""
    transcriber = None
    for rows in load_corpus(corpus_dir, shared_speakers=True).values():
        for first in Progress(range(0, len(rows), BATCH), desc="aligning", unit="batch"):
            batch = rows.select(range(first, min(first + BATCH, len(rows))))
            texts = batch["text"][:]
            if not all(texts):
                transcriber = transcriber or Transcriber.from_pretrained(recogniser, num_beams=1)
                texts = [found.text for found in transcriber.transcribe_rows(batch)]
            yield batch, texts


class Aligner:
    """Forced alignment by PocketSphinx: first of words, then of the phones in them."""

    def __init__(self):
        self.decoder = Decoder(samprate=SAMPLING_RATE, loglevel="FATAL")

    def __call__(self, waveform: np.ndarray, text: str) -> tuple[list, ...] | None:
        """Words and phones, each as (start, end, name) in seconds; None where the text cannot be aligned."""
        words = re.findall(r"[a-z']+", text.lower().replace("-", " "))
        if re.search(r"\d", text) or not words or any(self.decoder.lookup_word(word) is None for word in words):
            return None
        pcm = (np.clip(waveform, -1, 1) * np.iinfo(np.int16).max).astype("<i2").tobytes()
        try:
            self.decoder.set_align_text(" ".join(words))
            self.hear(pcm)
            if not self.decoder.hyp():
                return None
            self.decoder.set_alignment()
            self.hear(pcm)
        except RuntimeError:  # no path through the words: they are not what was said
            return None
        alignment = self.decoder.get_alignment()  # its words hold phones of the next word too
        words = [timed(word, re.sub(r"\(\d+\)$", "", word.name)) for word in alignment.words()]
        phones = [timed(phone, phone.name) for phone in alignment.phones()]
        return tuple([entry for entry in found if not entry[2].startswith(SILENCE)] for found in (words, phones))

    def hear(self, pcm: bytes) -> None:
        self.decoder.start_utt()
        self.decoder.process_raw(pcm, full_utt=True)
        self.decoder.end_utt()


def timed(entry, name: str) -> tuple[float, float, str]:
    return entry.start / FRAMES_PER_SECOND, (entry.start + entry.duration) / FRAMES_PER_SECOND, name


if __name__ == "__main__":
    main()
