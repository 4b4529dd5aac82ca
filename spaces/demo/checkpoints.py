"""Checkpoints by name: a folder, or a repository of the Hub that is downloaded once."""

import importlib.util
import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

# With Underheard installed, its own classes load its models, and no code of a checkpoint runs. Without it, as on a
# Space, a model of Underheard needs the code in its checkpoint.
IS_INSTALLED = importlib.util.find_spec("hf_components") is not None
if IS_INSTALLED:
    import hf_components.acoustic_units
    import hf_components.unit_hifigan
    import hf_components.whisper  # noqa: F401

NOT_LOADABLE = (OSError, ValueError, ImportError, UnpicklingError)
WANTED = ("*.json", "*.txt", "*.model", "*.safetensors", "*.py")


def fetch(name: str | None) -> Path:
    """Folder of a checkpoint.

    Raises:
        ValueError: no name is given, or no checkpoint has it.
    """
    if not name or not name.strip():
        raise ValueError("Name a checkpoint first: a folder, or a repository of the Hub as user/name.")
    name = name.strip()
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=WANTED, ignore_patterns=["experts/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(
            f"There is no folder {name}, and no repository of that name on the Hub that this app may read."
        ) from error


def what_failed(error: BaseException) -> str:
    """Why a checkpoint cannot be loaded, in a line."""
    if isinstance(error, UnpicklingError):  # PyTorch's own text advises to run what is in the file
        return "its weights are pickled and hold more than numbers, so they are not read; ask for safetensors"
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_fields(folder: Path, name: str) -> dict[str, Any]:
    """Content of `config.json`.

    Raises:
        ValueError: the file is missing.
    """
    if not (folder / "config.json").exists():
        raise ValueError(f"{name} has no config.json, so it is no model.")
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
