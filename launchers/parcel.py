"""Pack all that another machine needs to run this checkout's recipes: wheel, recipes, configurations, tested versions.

python launchers/parcel.py build/parcel
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs in any Python, without our package

from launchers.commands import ROOT, UserError, run

WHEEL = ("hf_components", "dataset_scripts", "model_cards")
BESIDE_IT = ("recipes", "accelerate_configs", "launchers")
NOT_CODE = shutil.ignore_patterns("__pycache__", ".*", "README.md")


def build_parcel(folder: Path) -> Path:
    """Fill an empty or missing folder. The parcel holds no secrets and no results.

    Raises:
        UserError: the folder is not empty, or the wheel cannot be built.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; remove it or choose another")
    folder.mkdir(parents=True, exist_ok=True)
    for name in BESIDE_IT:
        shutil.copytree(ROOT / name, folder / name, ignore=NOT_CODE)
    shutil.copy(ROOT / "constraints.txt", folder)
    with tempfile.TemporaryDirectory() as source:  # a build in the checkout would pack leftovers of earlier builds
        for name in WHEEL:
            shutil.copytree(ROOT / name, Path(source, name), ignore=NOT_CODE)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        built = subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source],
            capture_output=True,
            text=True,
            check=False,
        )
    if built.returncode:
        raise UserError(f"pip could not build the wheel of {ROOT}:\n{built.stderr.strip()}")
    return folder


def main(argv: list[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1 or words[0].startswith("-"):
        raise UserError("parcel.py takes one folder to fill")
    print(build_parcel(Path(words[0])))
    return 0


if __name__ == "__main__":
    run(main)
