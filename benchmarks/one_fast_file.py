"""A system and the one fast file that is made of it, beside its base in faster-whisper: WER, times, memory, size.

OMP_NUM_THREADS=2 python benchmarks/one_fast_file.py --systems runs/moe/joint/model runs/moe/merge/model \\
    --base models/whisper-tiny.en --data data/prepared

Each system is a Whisper or a MoE-Whisper, and transcribes in transformers as it was saved, greedy. A plain Whisper,
such as the merge of a mixture, is also exported with a dynamic audio context. Every row runs in a process of its own,
from audio files to text. CPU time is per clip, without loading. The first text is that of a clip alone, from its file:
the median of the time on the clock over at least five clips, if there are so many. Memory is the largest of the whole
process. It needs `pip install "underheard[export]"`.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks import serving
from hf_components.asr import Transcriber
from hf_components.checkpoints import export_whisper, load_whisper, read_config
from hf_components.scoring import score

WAITED_FOR = 20  # clips whose first text is timed


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", required=True, help="Whisper or MoE-Whisper: folders")
    parser.add_argument("--base", required=True, help="Whisper that faster-whisper runs: folder or Hub id")
    parser.add_argument("--data", default=str(serving.CORPORA), help="the same as in serving.py")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--language", default="en")
    parser.add_argument("--longest", type=float, default=5.0, help="seconds")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--quantization", default="int8")
    parser.add_argument("--max_new_tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    args.num_beams = 1
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        files, references = serving.clips_of(args, Path(folder))
        for name, (way, path) in rows_of(args, Path(folder)).items():
            queue = multiprocessing.get_context("spawn").Queue()
            process = multiprocessing.get_context("spawn").Process(target=run, args=(queue, way, path, files, args))
            process.start()
            texts, row = queue.get()
            process.join()
            row["wer"] = 100 * score(texts, references, num_bootstrap=0, language=args.language)["wer"]
            row["megabytes"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
            found[name] = row
    print(f"\n{len(files)} clips\n{'':60} {'WER':>6} {'CPU ms':>8} {'first ms':>8} {'peak MB':>8} {'file MB':>8}")
    for name, row in found.items():
        times = f"{row['cpu_ms']:8.1f} {row['first_text_ms']:8.1f}"
        print(f"{name:60} {row['wer']:6.2f} {times} {row['peak_mb']:8.0f} {row['megabytes']:8.1f}")
    return found


def rows_of(args: argparse.Namespace, folder: Path) -> dict[str, tuple[str, Path]]:
    """How each row is run, and the folder of its files, by name."""
    rows = {}
    for number, system in enumerate(args.systems):
        rows[f"{system}, transformers"] = ("transformers", Path(system))
        if "num_experts" not in read_config(system):
            model, processor = load_whisper(system, args.language)
            exported = folder / f"export_{number}" / "model"
            exported.parent.mkdir()
            least = model.min_audio_context
            context = {"audio_context": "dynamic", "min_audio_context": least}
            export_whisper(model, processor, exported, args.quantization, **context)
            rows[f"{system}, our export, {args.quantization}"] = ("ctranslate2", exported)
    export_whisper(*load_whisper(args.base, args.language), folder / "base", args.quantization)
    rows[f"{args.base}, faster-whisper, {args.quantization}"] = ("faster-whisper", folder / "base")
    return rows


def run(queue, way: str, path: Path, files: list[Path], args: argparse.Namespace) -> None:
    """Transcribe, and put texts, times and memory into the queue."""
    torch.set_num_threads(args.threads)
    if way == "faster-whisper":
        compute = {"compute_type": args.quantization, "cpu_threads": args.threads}
        served = serving.WhisperModel(str(path), device="cpu", **compute)

        def hear(files: list[Path]) -> list[str]:
            return [serving.one_file(served, file, args) for file in files]
    else:
        options = {"num_beams": 1, "max_new_tokens": args.max_new_tokens, "batch_size": args.batch_size}
        transcriber = Transcriber.from_pretrained(path, args.language, engine=way, **options)

        def hear(files: list[Path]) -> list[str]:
            return [transcript.text for transcript in transcriber.transcribe_files(files)]

    start = time.process_time()
    texts = hear(files)
    cpu = time.process_time() - start
    waits = [seconds_of(hear, file) for file in files[:WAITED_FOR]]
    first_text = 1000 * statistics.median(waits)
    queue.put((texts, {"cpu_ms": 1000 * cpu / len(files), "first_text_ms": first_text, "peak_mb": peak_megabytes()}))


def seconds_of(hear: Callable[[list[Path]], list[str]], file: Path) -> float:
    """The time on the clock from the file of a clip alone to its text."""
    start = time.perf_counter()
    hear([file])
    return time.perf_counter() - start


def peak_megabytes() -> float:
    """Largest memory of this process, on Linux; `getrusage` would count that of the process which started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


if __name__ == "__main__":
    main()
