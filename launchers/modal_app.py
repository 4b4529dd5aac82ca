"""Run a recipe of this checkout on Modal, and move folders to and from its volume.

python launchers/modal_app.py --gpu L4 run_children_pipeline \\
    --config recipes/configs/run_children_pipeline/default.yaml --data /data/children --output_dir /data/runs/children
python launchers/modal_app.py upload my_corpus children       to /data/children; continues after an interruption
python launchers/modal_app.py ls runs/children
python launchers/modal_app.py download runs/children runs/children

First run `make setup && .venv/bin/modal setup`. With HF_TOKEN in the environment a recipe may publish.
Ctrl-C leaves the recipe running. Exit codes: the recipe's own; 2 nothing was started, 124 it ran out of time, 130 it
runs on, but is not followed.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the container sets PYTHONPATH instead

import modal
from modal.types import FileEntry, FileEntryType
from rich.progress import track

from launchers.commands import (
    NO_LONGER_FOLLOWED,
    ROOT,
    TIMED_OUT,
    Parser,
    UserError,
    check_remote,
    run,
    seconds_of,
    show,
    timeout_of,
)

CODE = PurePosixPath("/underheard")
DATA = PurePosixPath("/data")  # in the container
FOLDERS = ("hf_components", "dataset_scripts", "model_cards", "recipes", "accelerate_configs", "launchers")
BATCH = 100  # files per upload; an interruption costs at most one upload

app = modal.App("underheard")
volume = modal.Volume.from_name("underheard", create_if_missing=True)
# The tested versions are built once. The code is added when a container starts, so a change needs no build.
image = (
    modal.Image.debian_slim(python_version="3.11")
    .uv_pip_install(requirements=[str(ROOT / "constraints.txt")])
    .env({"PYTHONPATH": str(CODE), "HF_HOME": str(DATA / "huggingface")})
    .workdir(str(CODE))
    .add_local_file(ROOT / "constraints.txt", str(CODE / "constraints.txt"))
)
for folder in FOLDERS:
    image = image.add_local_dir(ROOT / folder, str(CODE / folder), ignore=["**/__pycache__"])


@app.function(
    image=image,
    volumes={str(DATA): volume},
    secrets=[modal.Secret.from_local_environ(["HF_TOKEN"])] if "HF_TOKEN" in os.environ else [],
)
def run_recipe(recipe: str, words: list[str]) -> int:
    """Launch the recipe on the container's GPUs; the volume is committed in the background and at the end."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "launchers/launch.sh", recipe, *words], cwd=ROOT, env={**os.environ, "PATH": path}, check=False
    ).returncode


# The volume: paths are relative to its root, which is /data for a recipe


def files_on(volume: modal.Volume, folder: str) -> dict[str, FileEntry]:
    """Entry of each file in a folder, by path below the folder; empty if there is no such folder."""
    start = f"{folder.strip('/')}/".lstrip("/")
    entries = (
        (entry.path.lstrip("/"), entry)
        for entry in volume.listdir("/", recursive=True)
        if entry.type == FileEntryType.FILE
    )
    return {path.removeprefix(start): entry for path, entry in entries if path.startswith(start)}


def upload_folder(volume: modal.Volume, folder: Path, remote: str) -> tuple[int, int]:
    """Upload new and changed files in batches; an interruption costs the current batch only.

    Returns:
        number of files uploaded and number of files that were there already.
    """
    there = files_on(volume, remote)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    missing = [name for name, path in files.items() if not is_current(path, there.get(name))]
    batches = [missing[start : start + BATCH] for start in range(0, len(missing), BATCH)]
    for names in track(batches, f"{len(missing)} of {len(files)} files, in batches of {BATCH}"):
        with volume.batch_upload(force=True) as batch:
            for name in names:
                batch.put_file(files[name], f"/{remote.strip('/')}/{name}")
    return len(missing), len(files) - len(missing)


def is_current(path: Path, entry: FileEntry | None) -> bool:
    found = path.stat()
    return entry is not None and entry.size == found.st_size and entry.mtime >= int(found.st_mtime)


def download_folder(volume: modal.Volume, remote: str, folder: Path) -> tuple[int, int]:
    """Download files that are missing here or have another size; a file is complete or absent.

    Returns:
        number of files downloaded and number of files that were here already.
    """
    there = files_on(volume, remote)
    if not there:
        raise UserError(f"the volume has no folder {remote}; python launchers/modal_app.py ls / lists it")
    missing = [
        name
        for name, entry in there.items()
        if not (folder / name).is_file() or (folder / name).stat().st_size != entry.size
    ]
    for name in track(missing, f"{len(missing)} of {len(there)} files"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            volume.read_file_into_fileobj(there[name].path, file)
        partial.replace(path)
    return len(missing), len(there) - len(missing)


def listing(entries: Iterable[tuple[str, FileEntry]]) -> str:
    return "\n".join(f"{entry.size:>14,}  {name}" for name, entry in sorted(entries))


# The command line


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__, actions=("upload", "ls", "download"))
    parser.flag("--gpu", help="GPU, such as L4, A100-80GB or H100:8, see https://modal.com/pricing; default: none")
    parser.flag(
        "--timeout", help="time limit of the recipe, such as 90m or 24h; default: 1h with a quick.yaml, else 12h"
    )
    args = parser.parse(argv)
    if args.recipe not in parser.actions:
        advice = "copy it to the volume with `python launchers/modal_app.py upload` and give it as /data/..."
        check_remote(args.recipe, args.words, folders=(str(DATA),), advice=advice)
    wanted = {"upload": 2, "ls": 1, "download": 2}.get(args.recipe)
    if wanted is not None and len(args.words) != wanted:
        raise UserError(f"{args.recipe} takes {wanted} folder{'s' if wanted > 1 else ''}, got {len(args.words)}")
    if args.recipe == "upload" and not Path(args.words[0]).is_dir():
        raise UserError(f"upload takes a folder of this machine first, got {args.words[0]}")
    return args


def show_all(args: argparse.Namespace, timeout: int) -> None:
    """Print the commands to run by hand; Modal's own volume commands start anew where ours continue."""
    theirs = {"upload": "put", "ls": "ls", "download": "get"}
    if args.recipe in theirs:
        return show(["modal", "volume", theirs[args.recipe], "underheard", *args.words])
    by_hand = (
        f"import modal; from launchers.modal_app import app, run_recipe\n"
        f"with modal.enable_output(), app.run(detach=True):\n"
        f"    run_recipe.with_options(gpu={args.gpu!r}, timeout={timeout}).remote({args.recipe!r}, {args.words!r})"
    )
    return show(
        f"# image: Debian slim with Python 3.11 and constraints.txt, and {', '.join(FOLDERS)} in {CODE}",
        f"# volume: underheard in {DATA}; secret HF_TOKEN: {'given' if 'HF_TOKEN' in os.environ else 'not given'}",
        ["python", "-c", by_hand],
    )


def launch(recipe: str, words: list[str], gpu: str | None, timeout: int) -> int:
    with modal.enable_output(), app.run(detach=True):
        call = run_recipe.with_options(gpu=gpu, timeout=timeout).spawn(recipe, words)
        print(
            f"started {app.app_id}; follow it again with: modal app logs {app.app_id}; end it with: modal app stop "
            f"{app.app_id}",
            file=sys.stderr,
        )
        try:
            return call.get()
        except modal.exception.FunctionTimeoutError:
            print(
                f"error: the recipe exceeded its time limit of {timeout} s; the same command continues it",
                file=sys.stderr,
            )
            return TIMED_OUT
        except KeyboardInterrupt:
            return NO_LONGER_FOLLOWED


def main(argv: list[str] | None = None) -> int:
    try:
        return carry_out(arguments(argv))
    except (modal.exception.AuthError, modal.exception.ConnectionError) as error:
        raise UserError(
            f"Modal refuses or cannot be reached: {str(error).splitlines()[0]}; run `modal setup`, or set "
            "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
        ) from error


def carry_out(args: argparse.Namespace) -> int:
    timeout = seconds_of(args.timeout or timeout_of(args.words))
    if args.dry_run:
        show_all(args, timeout)
    elif args.recipe == "ls":
        print(listing(files_on(volume, args.words[0]).items()))
    elif args.recipe == "upload":
        print("{} files uploaded, {} were there".format(*upload_folder(volume, Path(args.words[0]), args.words[1])))
    elif args.recipe == "download":
        print("{} files downloaded, {} were here".format(*download_folder(volume, args.words[0], Path(args.words[1]))))
    else:
        if not any(word.startswith(("/data/", "--output_dir=/data/")) for word in args.words):
            print(
                "warning: files outside /data are lost when the recipe ends; give --output_dir /data/runs/...",
                file=sys.stderr,
            )
        return launch(args.recipe, args.words, args.gpu, timeout)
    return 0


if __name__ == "__main__":
    run(main)
