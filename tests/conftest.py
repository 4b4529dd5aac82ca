"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder of real speech; it is not part of the repository."""
    folder = Path(os.environ.get("UNDERHEARD_CORPORA", ROOT.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip(f"real speech is not at {folder}; set UNDERHEARD_CORPORA to its folder")
    return folder
