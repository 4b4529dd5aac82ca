"""An interpreter as a stranger has it: the same packages, and nothing of this project."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def bare_python(folder: Path) -> Path:
    """Make a virtual environment that borrows this one's packages but not what is installed from a checkout.

    A `.pth` file adds their folder, whose own `.pth` files, those of editable installations, then are not read.
    """
    venv.create(folder, with_pip=False)
    site_packages = next((folder / "lib").glob("python*/site-packages"))
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import importlib.util as u; print(u.find_spec('hf_components'))"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "None\n", f"{found.stdout} is importable, and should not be"
    return python


def install(python: Path, wheel: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel],
        check=True,
    )
