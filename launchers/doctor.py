"""Report what will work on this machine, what will not, and how to fix it. Exit code 1 if something must be fixed.

python launchers/doctor.py
python launchers/doctor.py --plan run_moe_pipeline --model openai/whisper-small

With `--plan` it tells instead how much memory the trainings of a pipeline will take; see launchers/plan.py.
"""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
GB = 1e9
INSTALL = "make setup"


class Finding(NamedTuple):
    state: str  # ok, note (something will not work or is not as tested), FAIL (must be fixed)
    subject: str
    text: str
    advice: str = ""


def constraints(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def python_and_packages(tested: dict[str, str], needed: set[str]) -> Iterator[Finding]:
    """Compare versions with constraints.txt; recipes do not start without the packages in `needed` (lower case)."""
    found = ".".join(map(str, sys.version_info[:3]))
    yield (
        Finding("ok", "Python", found)
        if sys.version_info >= (3, 11)
        else Finding("FAIL", "Python", f"{found}, 3.11 or newer is needed", "make setup PYTHON=python3.11")
    )
    missing = []
    other = []
    for name, wanted in tested.items():
        try:
            if (is_here := version(name)).split("+")[0] != wanted:
                other.append(f"{name} {is_here} instead of {wanted}")
        except PackageNotFoundError:
            if name.lower().replace("_", "-") in needed:
                missing.append(name)
    if missing:
        yield Finding("FAIL", "packages", f"missing: {', '.join(missing)}", INSTALL)
    if other:
        yield Finding("note", "packages", f"not as tested: {', '.join(other)}", INSTALL)
    if not missing and not other:
        yield Finding("ok", "packages", f"as in constraints.txt ({len(tested)} versions)")


def our_needs() -> set[str]:
    """Names of the packages that our package requires without extras; empty if it is not installed."""
    try:
        lines = requires("underheard") or []
    except PackageNotFoundError:
        return set()
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines if "extra ==" not in line}


def accelerators() -> Iterator[Finding]:
    import torch

    listed = shutil.which("nvidia-smi") and subprocess.run(
        ["nvidia-smi", "-L"], capture_output=True, text=True, check=False
    )
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        fits = "multi_gpu.yaml" if len(found) > 1 else "single_gpu.yaml"
        yield Finding(
            "ok", "GPU", ", ".join(f"{gpu.name} {gpu.total_memory / GB:.0f} GB" for gpu in found) + f": {fits}"
        )
    elif listed and "GPU" in listed.stdout:
        yield Finding(
            "FAIL",
            "GPU",
            f"PyTorch {torch.__version__} for CUDA {torch.version.cuda} cannot use the GPU here",
            "a newer NVIDIA driver, or PyTorch for an older CUDA from https://pytorch.org",
        )
    else:
        yield Finding("note", "GPU", "none: quick.yaml is right here, default.yaml takes days", "docs/where_to_run.md")


def sound() -> Iterator[Finding]:
    try:
        from torchcodec.decoders import AudioDecoder

        AudioDecoder(a_moment_of_silence()).get_all_samples()  # FFmpeg's libraries are loaded no earlier
        yield Finding("ok", "FFmpeg", "torchcodec decodes")
    except (ImportError, RuntimeError, OSError):
        yield Finding(
            "note",
            "FFmpeg",
            "not found: recipes decode without it, `datasets` itself does not",
            "apt-get install ffmpeg",
        )
    if importlib.util.find_spec("espeakng_loader"):
        yield Finding("ok", "eSpeak NG", f"wheel {version('espeakng-loader')}")
    else:
        yield Finding("note", "eSpeak NG", "not installed: no demo corpora", INSTALL)


def a_moment_of_silence() -> bytes:
    """The bytes of a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(3200))
    return file.getvalue()


def usable_cores() -> int:
    """Cores that this process may use; only Linux says if they are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> Iterator[Finding]:
    import psutil

    cores = usable_cores()
    memory = psutil.virtual_memory()
    yield Finding("ok" if cores > 1 else "note", "CPU", f"{cores} core{'s' if cores > 1 else ''}")
    free = memory.available / GB
    yield Finding(
        "ok" if free >= 6 else "note",
        "memory",
        f"{free:.0f} of {memory.total / GB:.0f} GB free",
        "" if free >= 6 else "a smaller --per_device_train_batch_size; a run takes 4 GB and more",
    )
    disk = shutil.disk_usage(ROOT).free / GB
    state = "FAIL" if disk < 1 else "note" if disk < 20 else "ok"
    yield Finding(
        state,
        "disk",
        f"{disk:.0f} GB free in {ROOT}",
        "" if state == "ok" else "make room, or --output_dir elsewhere; a checkpoint of Whisper small takes 3 GB",
    )


def hub() -> Iterator[Finding]:
    from httpx2 import TransportError
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if get_token() is None:
        yield Finding(
            "note", "Hub", "not logged in: no --push_to_hub, private data or jobs", "hf auth login, or set HF_TOKEN"
        )
        return
    try:
        yield Finding("ok", "Hub", f"logged in as {HfApi().whoami()['name']}")
    except HfHubHTTPError as error:
        yield Finding("note", "Hub", f"refuses the token: {error.response.status_code}", "hf auth login again")
    except ImportError as error:  # a SOCKS proxy
        yield Finding("note", "Hub", f"cannot be reached: {error}", "pip install socksio")
    except (OfflineModeIsEnabled, TransportError):
        yield Finding(
            "note",
            "Hub",
            "cannot be reached: folders and PyPI wheels only",
            "unset HF_HUB_OFFLINE, or check the network",
        )


def launchers() -> Iterator[Finding]:
    missing = [name for name in ("ssh", "tar") if shutil.which(name) is None]
    yield (
        Finding("note", "Runpod", f"{' and '.join(missing)} missing", f"apt-get install {' '.join(missing)}")
        if missing
        else Finding("ok", "Runpod", "ssh and tar are here")
    )
    if importlib.util.find_spec("modal") is None:
        yield Finding("note", "Modal", "not installed", INSTALL)
        return
    settings = Path(os.environ.get("MODAL_CONFIG_PATH", "~/.modal.toml")).expanduser()
    has_token = "MODAL_TOKEN_ID" in os.environ or (settings.exists() and "token_id" in settings.read_text())
    yield (
        Finding("ok", "Modal", "installed, with a token")
        if has_token
        else Finding("note", "Modal", "no token", "modal setup, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET")
    )


def examine() -> Iterator[Finding]:
    needed = our_needs()
    if not needed and importlib.util.find_spec("torch") is None:
        yield Finding("FAIL", "packages", f"nothing is installed in {sys.prefix}", INSTALL)
        return
    packages = list(python_and_packages(constraints((ROOT / "constraints.txt").read_text()), needed))
    yield from packages
    if any(finding.state == "FAIL" for finding in packages):
        return  # the other checks import them
    for part in (accelerators, sound, machine, hub, launchers):
        yield from part()


def main(words: Sequence[str] = ()) -> int:
    if words:
        sys.path.insert(0, str(ROOT))
        from launchers import plan

        return plan.main(words)
    findings = []
    for finding in examine():
        findings.append(finding)
        print(f"{finding.state:4}  {finding.subject:10}  {finding.text}", flush=True)
        if finding.advice:
            print(f"{'':18}-> {finding.advice}", flush=True)
    return int(any(finding.state == "FAIL" for finding in findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
