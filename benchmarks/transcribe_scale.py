"""Time and peak memory of transcribing many recordings: memory must not grow with their number.

python benchmarks/transcribe_scale.py
python benchmarks/transcribe_scale.py --clips 1000 10000 --model runs/children/model

The recordings are noise of one second: a hundred files, and a hard link to one of them per clip. The model is a
small CTC model with random weights, unless another is given, so the texts mean nothing. Each run is its own process.
Its peak memory is its own, without mapped files, and the memory of the modules alone is printed beside it. Every
clip must have exactly one line.
"""

import argparse
import json
import os
import string
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.memory import PeakMemory, cpu_seconds, in_own_process, own_memory
from benchmarks.synthetic import clips
from hf_components.speech import encode_flac
from recipes import transcribe

RECORDINGS = 100


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--clips", type=int, nargs="+", default=[1000, 10_000], help="numbers of clips, a run for each"
    )
    parser.add_argument("--model", help="a recogniser; default: a small one with random weights")
    parser.add_argument("--folder", help="keep recordings and transcripts here; default: a temporary folder")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)  # one run, in this process
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        if args.measure:
            found = measure(folder / str(args.clips[0]), args.model)
            print(json.dumps(found))
            return found
        model = args.model or str(save_recogniser(folder / "model"))
        print("clips     time (s)   CPU (s)   clips/s   peak memory, MiB (modules alone)   lines lost")
        found = {}
        for number in args.clips:
            place = folder / str(number)
            write_recordings(place / "recordings", number)
            words = ["--measure", "--folder", folder, "--clips", number, "--model", model]
            found[number] = run = in_own_process(__file__, words)
            print(
                f"{number:<10,}{run['seconds']:8.1f}{run['cpu_seconds']:10.1f}{number / run['seconds']:10.1f}"
                f"{run['peak_mib']:19.0f} ({run['modules_mib']:.0f}){run['lost']:25}",
                flush=True,
            )
    return found


def measure(place: Path, model: str) -> dict:
    """Transcribe the recordings in `place`."""
    output = place / "transcripts.jsonl"
    modules = own_memory()
    start = time.perf_counter()
    cpu = cpu_seconds()
    with PeakMemory() as memory:
        transcribe.main([str(place / "recordings"), "--model", model, "--output_jsonl", str(output)])
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    heard = [json.loads(line)["utterance_id"] for line in output.read_text().splitlines()]
    expected = {path.name for path in (place / "recordings").iterdir()}
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "modules_mib": modules,
        "peak_mib": memory.peak,
        "lost": len(expected.symmetric_difference(heard)) + len(heard) - len(set(heard)),
    }


def save_recogniser(folder: Path) -> Path:
    """A wav2vec2 of 200,000 parameters that writes letters."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_lowercase]
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    convolutions = {"conv_dim": [64] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(letters), **sizes, **convolutions)).save_pretrained(folder)
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(return_attention_mask=False), tokenizer).save_pretrained(folder)
    return folder


def write_recordings(folder: Path, number: int) -> None:
    originals = folder.parent / "originals"
    originals.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    for index, clip in enumerate(clips([1.0] * RECORDINGS)):
        (originals / f"{index}.flac").write_bytes(encode_flac(clip))
    for index in range(number):
        path = folder / f"clip_{index:06d}.flac"
        if not path.exists():
            os.link(originals / f"{index % RECORDINGS}.flac", path)


if __name__ == "__main__":
    main()
