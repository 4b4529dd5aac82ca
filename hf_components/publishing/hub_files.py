"""The files of a folder that are published, and the kind of repository."""

import fnmatch
import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import get_token

from hf_components.checkpoints import find_ggml
from hf_components.publishing.cards import HERE
from hf_components.publishing.stage_card import ADAPTER, CARD, RESULTS, read_fields, stage_card
from hf_components.runtime import UserError

logger = logging.getLogger(__name__)

VOCODER = "unit_hifigan"  # model type
PERSONAL = "voice.json"  # what one person's sentences changed about a recogniser
NO_LICENSE = "Licence of the voice: none was chosen. Ask the speakers before you share it."  # on the card of a voice
METRIC_TAG = "metric"
# Files and folders that are not published: completion records with paths of this machine, training checkpoints,
# pickles, logs with the name of this machine.
LEFT_OUT = (
    "stage.json",
    "started.json",
    "checkpoints",
    "checkpoint-*",
    "trainer_state.json",
    "training_args.bin",
    "*.pt",
    "*.pth",
    "*.pkl",
    "*.pickle",
    "pytorch_model*.bin",
    "events.out.tfevents.*",
    "*.log",
    "*.tmp",
    "__pycache__",
)
HIDDEN_BUT_PUBLIC = ".eval_results"
DESCRIBING = (CARD, RESULTS, ADAPTER, "config.json")
PLACE = re.compile(r"(?<=[\"`])/[^\"`\n/]+/[^\"`\n]+(?=[\"`])")  # an absolute path in JSON or in a card
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{34}\b")
LONGEST_SEARCHED = 2**24  # bytes; larger files are weights and audio, not text

Files = dict[str, Path | bytes]  # path in the repository -> file, or its content


@dataclass(frozen=True)
class Kind:
    """Type of a repository of the Hub; a Space has an SDK too."""

    repo_type: str
    sdk: str | None = None


def kind_of(folder: Path) -> Kind:
    """The kind of repository for a folder.

    Raises:
        UserError: there is no such folder, or it holds nothing that can be published.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to publish; give the result of a recipe")
    kind = _kind(folder)
    if kind is None:
        folders = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        inside = sorted(path for path in folders if _kind(path))
        advice = f"publish {' or '.join(map(str, inside))}" if inside else "a model has a config.json"
        raise UserError(f"{folder} is no model, adapter, data set, metric or Space; {advice}")
    return kind


def check_name(folder: Path, repo_id: str) -> None:
    """Raise UserError if a metric's repository has another name: `evaluate.load` looks for a file with its name."""
    metadata = _metadata(folder)
    if METRIC_TAG in metadata.get("tags", ()) and repo_id.split("/")[-1] != folder.resolve().name:
        raise UserError(
            f"a metric's repository must have the name of its folder, {folder.resolve().name}, got {repo_id}"
        )


def is_voice(folder: Path) -> bool:
    """Whether a folder belongs to those who spoke: a vocoder, alone or beside its units, or a personal voice."""
    speaks = any(
        read_fields(place / "config.json").get("model_type") == VOCODER for place in (folder, folder / "vocoder")
    )
    return speaks or is_personal(folder)


def is_personal(folder: Path) -> bool:
    """Whether a folder holds the voice of a person who is recognised by it, or several of them."""
    return any(folder.glob(PERSONAL)) or any(folder.glob(f"voices/**/{PERSONAL}"))


def license_of(folder: Path) -> str | None:
    """The licence on the card of a folder."""
    return _metadata(folder).get("license")


def files_of(folder: Path, license: str | None, repo_id: str) -> Files:
    """The files to publish. If the folder has no card, card and `results.json` are made from its stage.

    Args:
        license: licence for such a card.
        repo_id: id of the repository, for the usage examples on the card.
    Raises:
        UserError: there is no card and no stage to make it from, or a file holds a token.
    """
    files: Files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _left_out(path.relative_to(folder).parts)
    }
    if CARD not in files:
        files |= stage_card(folder, license)
    elif is_voice(folder) and license_of(folder) is None:
        files[CARD] = _licensed(_text(files[CARD]), license).encode()
    files = {name: _without_places(name, file) for name, file in files.items()}
    files[CARD] = _text(files[CARD]).replace(HERE, repo_id).encode()
    _refuse_tokens(folder, files)
    return files


def _licensed(card: str, license: str | None) -> str:
    """The card of a voice that names no licence, with one."""
    card = card.removeprefix("---\n") if card.startswith("---\n") else f"---\n{card}"
    return f"---\nlicense: {license}\n{card}".replace(NO_LICENSE, f"Licence of the voice: {license}.")


def _refuse_tokens(folder: Path, files: Files) -> None:
    """Raise UserError if a file holds a token of the Hub."""
    token = (get_token() or "").encode()
    for name, file in files.items():
        if isinstance(file, Path) and file.stat().st_size > LONGEST_SEARCHED:
            continue
        content = file if isinstance(file, bytes) else file.read_bytes()
        if (token and token in content) or TOKEN.search(content):
            raise UserError(
                f"{folder / name} holds an access token of the Hub, which must not be published; remove it"
            )


def outdated(there: list[str], files: Files) -> list[str]:
    """Old files in the repository that would look like part of the new version: shards, weights and plots."""
    read_together = ("data/*", "*.safetensors", "*.safetensors.index.json", "plots/*", f"{HIDDEN_BUT_PUBLIC}/*")
    return [path for path in there if path not in files and any(fnmatch.fnmatchcase(path, p) for p in read_together)]


def _kind(folder: Path) -> Kind | None:
    sdk = _metadata(folder).get("sdk")
    if sdk is not None:
        return Kind("space", sdk)
    if any(folder.glob("data/*.parquet")):
        return Kind("dataset")
    is_model = any((folder / name).exists() for name in ("config.json", ADAPTER, "tokenizer_config.json"))
    return Kind("model") if is_model or is_personal(folder) or find_ggml(folder) else None


def _metadata(folder: Path) -> dict[str, Any]:
    if not (folder / CARD).exists():
        return {}
    match = re.match(r"---\n(.*?)\n---\n", (folder / CARD).read_text(encoding="utf-8"), re.DOTALL)
    return yaml.safe_load(match[1]) or {} if match else {}


def _left_out(parts: tuple[str, ...]) -> bool:
    return any(
        (part.startswith(".") and part != HIDDEN_BUT_PUBLIC) or any(fnmatch.fnmatchcase(part, p) for p in LEFT_OUT)
        for part in parts
    )


def _without_places(path: str, file: Path | bytes) -> Path | bytes:
    """The file, but if it is a card or a configuration, paths on this disk (such as a local base model's) are
    shortened to their last part."""
    if PurePosixPath(path).name not in DESCRIBING:
        return file
    text = _text(file)
    places = {place for place in PLACE.findall(text) if Path(place).parents[-2].exists()}  # even if the file is gone
    for place in sorted(places, key=len, reverse=True):
        warning = "%s names %s, which is only on this machine, and is published with %s instead; if readers need it, "
        warning += "publish it too"
        logger.warning(warning, path, place, Path(place).name)
        text = text.replace(place, Path(place).name)
    return text.encode() if places else file


def _text(file: Path | bytes) -> str:
    return file.decode() if isinstance(file, bytes) else file.read_text(encoding="utf-8")
