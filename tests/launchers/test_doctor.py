"""The doctor sees what is wrong, says how to repair it, and leaves no secret in what it says."""

import shutil
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import psutil
import pytest
import torch
from hub_server import TOKEN

from launchers import doctor

pytestmark = pytest.mark.unit

Usage = namedtuple("Usage", "total used free")


def states(findings) -> list[str]:
    return [finding.state for finding in findings]


def test_this_environment_has_what_recipes_need():
    needed = doctor.our_needs()
    assert {"torch", "transformers", "huggingface-hub"} <= needed and "pytest" not in needed
    tested = doctor.constraints((doctor.ROOT / "constraints.txt").read_text())
    assert tested["torch"].startswith("2.")
    assert "FAIL" not in states(doctor.python_and_packages(tested, needed))


def test_versions_are_held_against_the_tested_ones():
    tested = doctor.constraints("# a comment\nnumpy==0.1\nno-such-package==1\nnor_this-one==2\n")
    _, missing, other = doctor.python_and_packages(tested, {"nor-this-one", "numpy"})
    assert (missing.state, missing.text) == ("FAIL", "missing: nor_this-one")  # the other is optional
    assert other.state == "note" and "instead of 0.1" in other.text and other.advice == "make setup"


@pytest.mark.parametrize(("error", "state"), [(None, "ok"), (RuntimeError("Could not load libtorchcodec."), "note")])
def test_ffmpeg_is_there_if_a_sound_can_be_decoded(monkeypatch, error, state):
    """torchcodec imports without FFmpeg."""

    def decoder(source: bytes):
        assert source.startswith(b"RIFF")
        if error:
            raise error
        return SimpleNamespace(get_all_samples=list)

    monkeypatch.setattr("torchcodec.decoders.AudioDecoder", decoder)
    ffmpeg = next(doctor.sound())
    assert (ffmpeg.subject, ffmpeg.state) == ("FFmpeg", state)


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 1))
    first, *_ = doctor.python_and_packages({}, set())
    assert first.state == "FAIL" and "3.10.1" in first.text


def test_a_bare_python_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor, "our_needs", set)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    (finding,) = doctor.examine()
    assert finding.state == "FAIL" and "make setup" in finding.advice


@pytest.mark.parametrize(
    ("usable", "listed", "state", "text"),
    [
        (2, "GPU 0: A\nGPU 1: B\n", "ok", "multi_gpu.yaml"),
        (1, "GPU 0: A\n", "ok", "Card 80 GB: single_gpu.yaml"),
        (0, "GPU 0: A\n", "FAIL", "cannot use"),  # the driver is too old: training would run on the CPU for days
        (0, "", "note", "none"),
    ],
)
def test_gpus_that_can_and_cannot_be_used(monkeypatch, usable, listed, state, text):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: usable)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="Card", total_memory=8e10))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=listed))
    (finding,) = doctor.accelerators()
    assert finding.state == state and text in finding.text


@pytest.mark.parametrize(("free", "state"), [(0.5e9, "FAIL"), (5e9, "note"), (50e9, "ok")])
def test_room_on_the_disk(monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e12, 0, free))
    assert states(doctor.machine())[-1] == state


def test_little_memory_is_noted(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2e9, total=4e9))
    assert next(finding for finding in doctor.machine() if finding.subject == "memory").state == "note"


def test_login(hub, monkeypatch):
    (finding,) = doctor.hub()
    assert finding == ("ok", "Hub", "logged in as tester", "")
    hub.expire()
    (finding,) = doctor.hub()
    assert finding.state == "note" and "401" in finding.text and TOKEN not in str(finding)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (finding,) = doctor.hub()
    assert "cannot be reached" in finding.text
    monkeypatch.delenv("HF_TOKEN")
    (finding,) = doctor.hub()
    assert "not logged in" in finding.text and "hf auth login" in finding.advice


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("FAIL", 1)])
def test_exit_code(monkeypatch, capsys, state, code):
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding(state, "disk", "some", "make room")])
    assert doctor.main() == code
    assert capsys.readouterr().out == f"{state:4}  disk        some\n                  -> make room\n"


@pytest.mark.slow
def test_as_a_program(hub, tmp_path):
    ran = subprocess.run(
        [sys.executable, "launchers/doctor.py"],
        cwd=doctor.ROOT,
        env=hub.environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == ("FAIL" in ran.stdout)
    assert "logged in as tester" in ran.stdout and TOKEN not in ran.stdout + ran.stderr


def test_cores_are_counted_where_only_linux_calls_are_missing(monkeypatch):
    monkeypatch.delattr(doctor.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 3)
    assert "3 cores" in next(doctor.machine()).text


@pytest.mark.parametrize(("name", "state"), [("MODAL_TOKEN_ID", "ok"), ("OTHER", "note")])
def test_modal_without_a_token_is_said(monkeypatch, tmp_path, name, state):
    monkeypatch.delenv("MODAL_TOKEN_ID", raising=False)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "none"))
    monkeypatch.setenv(name, "x")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: name)
    assert next(finding for finding in doctor.launchers() if finding.subject == "Modal").state == state
