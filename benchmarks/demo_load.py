"""The demo with many users at once: does everybody get the answer to their own recording, how soon, in what memory?

python benchmarks/demo_load.py
python benchmarks/demo_load.py --users 50 --requests 4 --model runs/children/model

Starts the page on this machine and sends it recordings from many clients at once, each its own sentence, spoken by
eSpeak NG. An answer is wrong if it is not what the model alone writes for that recording. Memory is that of the page's
process, without mapped files: after one request, the most while all users wait for their first answer, and the most in
the rounds after that.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile
from gradio_client import Client, handle_file

sys.path.insert(0, str(Path(__file__).parents[1] / "spaces" / "demo"))  # a Space's files are its own top level
sys.path.insert(0, str(Path(__file__).parents[1]))

from recognition import recognise
from recordings import read_recording
from voice import SENTENCES

from benchmarks.memory import PeakMemory, own_memory
from hf_components.speech import EspeakNg

PAGE = Path(__file__).parents[1] / "spaces" / "demo" / "app.py"


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--requests", type=int, default=4, help="recordings of each user, one after the other")
    parser.add_argument("--model", default="models/whisper-tiny.en")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        recordings = speak(Path(temporary))
        expected = [recognise(args.model, read_recording(str(path))[0]).transcript for path in recordings]
        found = load(args, recordings, expected, Path(temporary))
    print(
        f"{found['answers']} answers to {args.users} users, {found['wrong']} of them wrong; {found['failed']} failed\n"
        f"{found['answers'] / found['seconds']:.1f} answers a second; waiting: median {found['median']:.1f} s, at "
        f"most {found['longest']:.1f} s\n"
        f"memory of the page, MiB: {found['one_mib']:.0f} after one request, at most {found['first_mib']:.0f} in the "
        f"first round, at most {found['later_mib']:.0f} later"
    )
    return found


def speak(folder: Path) -> list[Path]:
    """A recording of each sentence."""
    files = [folder / f"sentence_{number}.wav" for number in range(len(SENTENCES))]
    with EspeakNg() as voice:
        for file, sentence in zip(files, SENTENCES, strict=True):
            soundfile.write(file, voice.synthesise(sentence, "en-us"), voice.sample_rate)
    return files


def load(args: argparse.Namespace, recordings: list[Path], expected: list[str], folder: Path) -> dict:
    """Start the page and let all users ask it."""
    environment = {**os.environ, "RECOGNISERS": args.model, "UNITS": "", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    environment["PYTHONUNBUFFERED"] = "1"
    with subprocess.Popen(
        [sys.executable, str(PAGE)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as page:
        try:
            address = next(found[0] for line in page.stdout if (found := re.search(r"http://\S+", line)))
            with ThreadPoolExecutor(args.users) as pool:
                users = list(pool.map(lambda _: Client(address, verbose=False), range(args.users)))

                def ask(user: int) -> tuple[str | None, float]:
                    number, start = user % len(recordings), time.perf_counter()
                    try:
                        answer = users[user].predict(
                            handle_file(recordings[number]), args.model, api_name="/recognise"
                        )
                    except Exception:
                        return None, time.perf_counter() - start
                    return answer[0], time.perf_counter() - start

                ask(0)
                memory, peaks, answers, start = own_memory(page.pid), [], [], time.perf_counter()
                for _ in range(args.requests):
                    with PeakMemory(page.pid) as peak:
                        answers += list(enumerate(pool.map(ask, range(args.users))))
                    peaks.append(peak.peak)
                seconds = time.perf_counter() - start
        finally:
            page.terminate()
    given = [
        (expected[user % len(expected)], answer, waited) for user, (answer, waited) in answers if answer is not None
    ]
    return {
        "answers": len(given),
        "wrong": sum(answer != right for right, answer, _ in given),
        "failed": len(answers) - len(given),
        "seconds": seconds,
        "median": statistics.median(waited for *_, waited in given),
        "longest": max(waited for *_, waited in given),
        "one_mib": memory,
        "first_mib": peaks[0],
        "later_mib": max(peaks[1:], default=peaks[0]),
    }


if __name__ == "__main__":
    main()
