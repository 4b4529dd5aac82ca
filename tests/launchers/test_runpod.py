"""A recipe on a pod from creation to stop: ssh and tmux are real, on this machine; Runpod's API is recorded."""

import getpass
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import TOKEN
from loopback_sshd import Sshd, loopback_sshd, missing_programs
from paths import ROOT
from runpod_api import KEY, RunpodApi
from small_parcel import small_parcel

from launchers import runpod
from launchers.commands import UserError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"not installed: {', '.join(missing_programs())}; apt-get install openssh-server openssh-client tmux",
    ),
]

RECIPE = ["make_demo_corpus", "--config", "recipes/configs/make_demo_corpus/quick.yaml", "--output_dir", "runs/demo"]
# The programs that run.sh and launch.sh call: no package is installed, and the recipe goes on until $HOME/finish holds
# its exit code.
PROGRAMS = {
    "uv": 'mkdir -p .venv/bin; for p in python accelerate; do ln -sf "$HOME/bin/$p" .venv/bin/$p; done',
    "nvidia-smi": "true",
    "python": 'case "$*" in *--help*) echo "  --resume RESUME";; *) echo "doctor here";; esac',
    "accelerate": 'echo "accelerate $*"; echo "token of ${#HF_TOKEN} characters"; i=0; until [ -e '
    '"$HOME/finish" ]; do '
    'i=$((i+1)); echo "step $i"; sleep 0.2; done; exit "$(cat "$HOME/finish")"',
}


@pytest.fixture
def sshd(tmp_path):
    home = tmp_path / "machine" / "home"
    with loopback_sshd(tmp_path / "machine", f"{home}/bin:{os.environ['PATH']}") as server:
        (home / "bin").mkdir()
        for name, text in PROGRAMS.items():
            (home / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (home / "bin" / name).chmod(0o755)
        yield server
        subprocess.run(
            ["tmux", "-L", "underheard", "kill-server"],
            env={**os.environ, "TMUX_TMPDIR": str(home)},
            capture_output=True,
            check=False,
        )


@pytest.fixture
def api(sshd, monkeypatch, tmp_path):
    """Runpod with a pod that is this machine, and .runpod.env of someone who starts."""
    with RunpodApi(sshd.port) as server:
        for name, value in {
            "API": server.url,
            "SETTINGS": tmp_path / ".runpod.env",
            "POLL": 0.05,
            "PATIENCE": 10.0,
            "KNOWN_HOSTS": tmp_path / "known_hosts",
            "USER": getpass.getuser(),
            "VOLUME": str(sshd.home),
            "FOLDER": f"{sshd.home}/underheard",
            "build_parcel": small_parcel,
        }.items():
            monkeypatch.setattr(runpod, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        write_settings(sshd)
        yield server


def write_settings(sshd: Sshd, **changes: str) -> None:
    values = {
        "RUNPOD_API_KEY": KEY,
        "NETWORK_VOLUME_ID": "vol_1",
        "POD_ID": "",
        "SSH_KEY_PATH": str(sshd.key),
        "GPU_TYPE": "NVIDIA GeForce RTX 4090   # a comment",
        **changes,
    }
    runpod.SETTINGS.write_text("# mine\n" + "".join(f"{name}={value}\n" for name, value in values.items()))
    runpod.SETTINGS.chmod(0o600)


def launcher(*argv: str) -> subprocess.Popen:
    """The launcher as a program of its own, so that it can be interrupted as from a terminal."""
    values = {name: getattr(runpod, name) for name in ("API", "POLL", "PATIENCE", "USER", "VOLUME", "FOLDER")}
    paths = {name: str(getattr(runpod, name)) for name in ("SETTINGS", "KNOWN_HOSTS")}
    code = (
        f"import sys; from pathlib import Path; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'support')!r}]\n"
        f"from launchers import commands, runpod\nfrom small_parcel import small_parcel\n"
        f"vars(runpod).update({values!r}, build_parcel=small_parcel, "
        f"**{{name: Path(path) for name, path in {paths!r}.items()}})\ncommands.run(runpod.main)"
    )
    # A shell's background job ignores Ctrl-C and leaves that to all that it starts, these tests included.
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def read_until(process: subprocess.Popen, text: str) -> str:
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} is not in: {said}")


def interrupted(process: subprocess.Popen) -> str:
    """What it says after Ctrl-C, which a terminal sends to the whole group."""
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    return said


def finish(sshd: Sshd, code: int) -> None:
    (sshd.home / "finish").write_text(str(code))


def test_from_creation_to_stop(api, sshd, capfd):
    """Create, reach, start, disconnect, reattach, finish, stop, resume; and no secret in anything that was said."""
    first = launcher(*RECIPE)
    said = read_until(first, "step 2")
    said += interrupted(first)
    assert "created pod pod1 with one NVIDIA GeForce RTX 4090 for 0.35 USD per hour" in said
    assert "the recipe runs on" in said
    assert f"token of {len(TOKEN)} characters" in said
    assert "--config_file accelerate_configs/cpu.yaml recipes/make_demo_corpus.py --resume true --config" in said
    assert api.requests[:2] == [
        ("GET", "/v2/network-volumes/vol_1", None),
        (
            "POST",
            "/v2/pods",
            {
                "name": "underheard",
                "image": runpod.IMAGE,
                "cloud": "SECURE",
                "disk": 30,
                "ports": ["22/tcp"],
                "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1},
                "dataCenterIds": ["EU-RO-1"],
                "env": {"PUBLIC_KEY": Path(f"{sshd.key}.pub").read_text().strip()},
                "mounts": {"network": [{"volumeId": "vol_1", "path": str(sshd.home)}]},
            },
        ),
    ]
    assert runpod.SETTINGS.read_text().startswith("# mine\n") and "\nPOD_ID=pod1\n" in runpod.SETTINGS.read_text()
    assert stat.S_IMODE(runpod.SETTINGS.stat().st_mode) == 0o600

    second = launcher(*RECIPE)  # the same again attaches, and starts nothing
    said += read_until(second, "step 2")
    said += interrupted(second)
    assert "already running there" in said
    assert (sshd.home / "underheard" / "run.log").read_text().count("accelerate launch") == 1

    before = (sshd.home / "underheard" / "run.log").read_text()
    time.sleep(0.5)
    assert len((sshd.home / "underheard" / "run.log").read_text()) > len(before)  # nobody follows, and it goes on
    attached = launcher("attach")
    said += read_until(attached, "step")
    finish(sshd, 3)
    said += attached.communicate(timeout=120)[0]
    assert attached.returncode == 3
    assert "ended with exit code 3; the pod is billed" in said

    assert runpod.main(["stop"]) == 0
    assert api.pods["pod1"]["status"] == "EXITED"
    assert runpod.main(["stop"]) == 0
    assert [request for request in api.requests if request[0] == "POST"][1:] == [
        ("POST", "/v2/pods/pod1/action", {"action": "stop"})
    ]
    with pytest.raises(UserError, match="stopped"):
        runpod.main(["attach"])

    finish(sshd, 0)
    assert runpod.main(RECIPE) == 0  # resumed, not created
    assert ("POST", "/v2/pods/pod1/action", {"action": "start"}) in api.requests
    assert list(api.pods) == ["pod1"]
    said += "".join(capfd.readouterr())
    log = (sshd.home / "underheard" / "run.log").read_text()
    for secret in (KEY, TOKEN, sshd.key.read_text().splitlines()[1]):
        assert secret not in said + log + sshd.log.read_text()
    assert TOKEN not in "".join(path.read_text(errors="replace") for path in sshd.home.rglob("*") if path.is_file())


def test_force_restart_ends_what_runs_and_begins_anew(api, sshd):
    first = launcher(*RECIPE)
    read_until(first, "step 1")
    interrupted(first)
    again = launcher("--force_restart", "--debug", *RECIPE)
    said = read_until(again, "step 1")
    interrupted(again)
    assert "already running there" not in said
    assert said.count("accelerate launch") == 1
    (line,) = [line for line in said.splitlines() if line.startswith("accelerate launch")]
    assert "--resume false" in line
    assert line.endswith(
        "--config recipes/configs/make_demo_corpus/quick.yaml --output_dir runs/debug/make_demo_corpus"
    )


def test_ctrl_c_while_the_pod_comes_up_says_what_it_costs(api, monkeypatch, capfd):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runpod, "reach", interrupted)
    assert runpod.main(RECIPE) == 130
    assert "is billed until" in capfd.readouterr().err
    assert "\nPOD_ID=pod1\n" in runpod.SETTINGS.read_text()  # so that stop finds it


def test_a_recipe_ended_from_outside_is_no_success(api, sshd, capfd):
    started = launcher(*RECIPE)
    read_until(started, "step 1")
    subprocess.run(
        ["tmux", "-L", "underheard", "kill-server"], env={**os.environ, "TMUX_TMPDIR": str(sshd.home)}, check=True
    )
    said = started.communicate(timeout=120)[0]
    assert started.returncode == 1 and "ended from outside" in said


def test_ssh_runs_a_command_beside_the_results(api, sshd, capfd):
    finish(sshd, 0)
    assert runpod.main(RECIPE) == 0
    assert runpod.main(["ssh", "--", "cat", "run.exit"]) == 0
    assert capfd.readouterr().out.endswith("0\n")


def test_a_pod_that_is_gone_is_replaced(api, sshd):
    write_settings(sshd, POD_ID="pod_of_last_year")
    finish(sshd, 0)
    assert runpod.main(RECIPE) == 0
    assert "\nPOD_ID=pod1\n" in runpod.SETTINGS.read_text()


def test_what_runpod_refuses_is_said_without_the_key(api):
    api.refusal = (400, f"no capacity for {KEY}")
    with pytest.raises(UserError, match="400 to POST /pods.*no capacity for <key>"):
        runpod.main(RECIPE)
    assert "POD_ID=\n" in runpod.SETTINGS.read_text()


def test_a_pod_that_cannot_be_reached_is_told_with_what_it_costs(api, sshd, monkeypatch, tmp_path):
    monkeypatch.setattr(runpod, "PATIENCE", 1.0)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "stranger"], check=True)
    write_settings(sshd, SSH_KEY_PATH=str(tmp_path / "stranger"))
    with pytest.raises(UserError, match=r"could not be reached by ssh with .*stranger.*it is billed"):
        runpod.main(RECIPE)


@pytest.mark.parametrize("argv", [RECIPE, ["--debug", *RECIPE], ["attach"], ["tensorboard"], ["ssh"], ["stop"]])
def test_dry_run_prints_commands_and_asks_nothing(api, sshd, capfd, argv):
    for pod in ("", "pod7"):
        write_settings(sshd, POD_ID=pod)
        assert runpod.main(["--dry_run", *argv]) == 0
    said = "".join(capfd.readouterr())
    assert not api.requests
    assert KEY not in said and TOKEN not in said
    assert "$RUNPOD_API_KEY" in said
    subprocess.run(["bash", "-n"], input=said, text=True, check=True)
    if argv == ["tensorboard"]:
        assert "-L 6006:localhost:6006" in said and "tensorboard --logdir runs" in said


@pytest.mark.parametrize("argv", [RECIPE, ["attach"], ["stop"]])
@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("RUNPOD_API_KEY=\nPOD_ID=\n")])
def test_a_dry_run_needs_no_settings(api, capfd, change, argv):
    change(runpod.SETTINGS)
    assert runpod.main(["--dry_run", *argv]) == 0
    said = "".join(capfd.readouterr())
    assert not api.requests and KEY not in said and TOKEN not in said
    subprocess.run(["bash", "-n"], input=said, text=True, check=True)
    assert argv != RECIPE or "network-volumes/NETWORK_VOLUME_ID" in said


def test_the_printed_commands_run_by_hand(api, sshd, capfd, tmp_path):
    """What a dry run prints starts the recipe and follows it, once HOST and PORT are put in."""
    assert runpod.main(["--dry_run", *RECIPE]) == 0
    lines = capfd.readouterr().out
    lines = lines[lines.index("tar -C build/runpod") :].replace("HOST", "127.0.0.1").replace("PORT", str(sshd.port))
    small_parcel(tmp_path / "by_hand")
    finish(sshd, 0)
    lines = lines.replace("build/runpod", shlex.quote(str(tmp_path / "by_hand")))
    ran = subprocess.run(["bash", "-e"], input=lines, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "accelerate launch" in ran.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "copy .runpod.env.example"),
        (lambda path: path.chmod(0o640), "chmod 600"),
        (lambda path: path.write_text(path.read_text().replace("vol_1", "")), "no NETWORK_VOLUME_ID"),
        (lambda path: path.write_text(path.read_text().replace("/key", "/no_key")), "ssh-keygen"),
    ],
)
def test_settings_that_will_not_do(api, change, message):
    change(runpod.SETTINGS)
    with pytest.raises(UserError, match=message):
        runpod.main(RECIPE)
    assert not api.requests


def test_the_example_names_what_is_read():
    names = {line.partition("=")[0] for line in (ROOT / ".runpod.env.example").read_text().splitlines() if "=" in line}
    assert names == {"RUNPOD_API_KEY", "NETWORK_VOLUME_ID", "POD_ID", "SSH_KEY_PATH", "GPU_TYPE"}
    assert (
        ".runpod.*" in (ROOT / ".gitignore").read_text()
        and "!.runpod.env.example" in (ROOT / ".gitignore").read_text()
    )
