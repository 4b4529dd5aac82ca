"""A CTranslate2 export of a Whisper in faster-whisper, beside transformers: error rate and speed on the CPU.

OMP_NUM_THREADS=1 python benchmarks/serving.py --model models/whisper-tiny.en --corpus data/prepared

Takes any Whisper of this project: fine-tuned, or a MoE-Whisper that recipes/merge_moe_whisper.py merged. Decoding is
greedy, from waveforms in memory to text. transformers sees a window of 30 s per clip, the same as stock Whisper, and
also the clip's own length if the checkpoint was trained for it. faster-whisper always sees 30 s, and its products are
not counted under GFLOP. It needs `pip install faster-whisper`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from faster_whisper import WhisperModel
from transformers.utils import logging

from benchmarks.side_by_side import Work, compare
from hf_components.asr import transcribe
from hf_components.checkpoints import export_whisper, load_whisper
from hf_components.scoring import score
from hf_components.speech import load_corpus, sample_rows, waveforms


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Whisper: folder or Hub id")
    parser.add_argument("--corpus", required=True, help="prepared corpus: folder or Hub id")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--language", default="en")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=8, help="for transformers; faster-whisper runs clip by clip")
    parser.add_argument("--quantizations", nargs="+", default=["float32", "int8"])
    parser.add_argument("--max_new_tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(argv)
    logging.set_verbosity_error()  # `generate` warns of options given twice

    model, processor = load_whisper(args.model, args.language)
    corpus = sample_rows(load_corpus(args.corpus, args.split), args.clips, seed=0)
    clips = waveforms(corpus)
    texts = {}

    def of_transformers(context: str, batch_size: int) -> list[str]:
        model.set_audio_context(context, model.min_audio_context)
        return transcribe(
            model, processor, corpus, batch_size=batch_size, max_new_tokens=args.max_new_tokens, num_beams=1
        )

    def of_faster_whisper(served: WhisperModel) -> list[str]:
        written = (
            served.transcribe(
                clip,
                beam_size=1,
                temperature=0,
                without_timestamps=True,
                language=args.language,
                condition_on_previous_text=False,
                max_new_tokens=args.max_new_tokens,
            )[0]
            for clip in clips
        )
        return [" ".join(segment.text.strip() for segment in segments) for segments in written]

    ways: dict[str, Callable[[], list[str]]] = {"transformers, 30 s, clip by clip": lambda: of_transformers("full", 1)}
    ways[f"transformers, 30 s, batches of {args.batch_size}"] = lambda: of_transformers("full", args.batch_size)
    if model.audio_context == "dynamic":
        ways[f"transformers, own length, batches of {args.batch_size}"] = lambda: of_transformers(
            "dynamic", args.batch_size
        )
    with tempfile.TemporaryDirectory() as folder:
        for quantization in args.quantizations:
            target = Path(folder) / quantization
            target.mkdir()
            export_whisper(model, processor, target / "model", quantization)
            served = WhisperModel(
                str(target / "model"), device="cpu", compute_type=quantization, cpu_threads=torch.get_num_threads()
            )
            ways[f"faster-whisper, {quantization}"] = lambda served=served: of_faster_whisper(served)
        found = compare(
            {
                name: Work(lambda name=name, way=way: texts.update({name: way()}), len(clips))
                for name, way in ways.items()
            },
            repeats=args.repeats,
            unit="clip",
            products=[],
        )
    print("\nWER (%)")
    for name, written in texts.items():
        found[name]["wer"] = score(written, corpus["text"][:], num_bootstrap=0)["wer"]
        print(f"{name:44} {100 * found[name]['wer']:5.1f}")
    return found


if __name__ == "__main__":
    main()
