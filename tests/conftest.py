"""Fixtures shared by all tests."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported, which reads it once
# Code that comes with checkpoints is copied here before it is imported: processes that share the folder see each
# other's half-written copies.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="underheard_modules_")

from hub_server import TOKEN, HubServer
from huggingface_hub import close_session, constants
from paths import ROOT

atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep what tests import from the garbage collector: it is a million objects, none of them garbage, and looking
    through them takes half a second, again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder of real speech; it is not part of the repository."""
    folder = Path(os.environ.get("UNDERHEARD_CORPORA", ROOT.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip(f"real speech is not at {folder}; set UNDERHEARD_CORPORA to its folder")
    return folder


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub with which huggingface_hub speaks in this process, logged in."""
    with HubServer(part_size=2**17) as server:
        files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": files,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "no_token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
    close_session()
