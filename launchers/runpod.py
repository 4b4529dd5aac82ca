"""Run a recipe of this checkout on a Runpod pod: one command creates or resumes the pod, uploads, starts and follows.

python launchers/runpod.py run_children_pipeline --config recipes/configs/run_children_pipeline/default.yaml \\
    --data user/children --output_dir runs/children
python launchers/runpod.py attach         follow the log again
python launchers/runpod.py tensorboard    http://localhost:6006
python launchers/runpod.py ssh            open a shell on the pod, or run one command: ssh -- ls runs
python launchers/runpod.py stop           stop the pod; only its network volume still costs

Settings are read from .runpod.env; copy .runpod.env.example. Ctrl-C leaves the recipe running, and an interrupted run
continues. All files are in /workspace/underheard, on the network volume. Exit codes: the recipe's own; 2 nothing was
started, 130 it runs on, but is not followed.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launchers.commands import (
    HUB_ID,
    NO_LONGER_FOLLOWED,
    ROOT,
    Parser,
    UserError,
    as_json,
    check_remote,
    run,
    show,
    values_of,
)
from launchers.parcel import build_parcel

API = "https://api.runpod.io/v2"  # https://docs.runpod.io/api-reference-v2
SETTINGS = ROOT / ".runpod.env"
KNOWN_HOSTS = ROOT / ".runpod.known_hosts"  # a pod makes a new host key whenever it starts
IMAGE = "runpod/pytorch:2.8.0-py3.11-cuda12.8.1-cudnn-devel-ubuntu22.04"  # for its sshd; PyTorch comes with the parcel
USER, VOLUME = "root", "/workspace"
FOLDER = f"{VOLUME}/underheard"  # run.log, run.exit with the exit code, runs/
TMUX = "tmux -L underheard"  # our own server: it inherits the token and ends with the recipe
ON_HUB = {"models/whisper-tiny.en": HUB_ID, "models/wav2vec2-demo": "facebook/wav2vec2-base-960h"}
POLL, PATIENCE = 5.0, 900.0  # seconds

IS_RUNNING = f"{TMUX} has-session -t recipe 2>/dev/null"
END = f"{TMUX} kill-server 2>/dev/null; while {IS_RUNNING}; do sleep 0.2; done"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__, actions=("attach", "tensorboard", "ssh", "stop"))
    parser.flag(
        "--debug", action="store_true", help="smoke test: quick.yaml instead of --config, results in runs/debug"
    )
    parser.flag(
        "--force_restart", action="store_true", help="end the running recipe, and start anew instead of continuing"
    )
    args = parser.parse(argv)
    if args.recipe not in parser.actions:
        if args.debug:
            args.words = in_debug(args.recipe, args.words)
        check_remote(
            args.recipe,
            args.words,
            folders=(VOLUME, "runs"),
            advice=f"copy it below {VOLUME} with scp and give that path",
        )
    return args


def in_debug(recipe: str, words: list[str]) -> list[str]:
    """The words of a smoke test: quick.yaml, with models of the Hub instead of those that only this checkout has."""
    config = f"recipes/configs/{recipe}/quick.yaml"
    if not (ROOT / config).is_file():
        raise UserError(f"--debug takes {config}, and there is none; leave --debug out")
    words = [*words, "--config", config, "--output_dir", f"runs/debug/{recipe}"]
    made_here = {name: value for name, value in values_of(words).items() if value in ON_HUB}
    return [*words, *(word for name, value in made_here.items() for word in (name, ON_HUB[value]))]


# Settings

# What a pod needs to know, and what a dry run shows instead.
PLACEHOLDERS = {
    "RUNPOD_API_KEY": "RUNPOD_API_KEY",
    "NETWORK_VOLUME_ID": "NETWORK_VOLUME_ID",
    "SSH_KEY_PATH": "~/.ssh/id_ed25519",
    "GPU_TYPE": "GPU_TYPE",
}


def read_settings(*, for_show: bool = False) -> dict[str, str]:
    """Read the lines NAME=VALUE of .runpod.env.

    Args:
        for_show: the settings are only shown. What is missing has its name as value, as on a machine without them.
    Raises:
        UserError: the file is missing or incomplete, or other users may read it.
    """
    if not SETTINGS.exists() and not for_show:
        raise UserError(f"{SETTINGS} is missing; copy .runpod.env.example, fill it in, and chmod 600 it")
    if SETTINGS.exists() and SETTINGS.stat().st_mode & 0o077:
        raise UserError(f"{SETTINGS} holds a key that other users of this machine may read; chmod 600 {SETTINGS}")
    text = SETTINGS.read_text() if SETTINGS.exists() else ""
    lines = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
    settings = {name.strip(): value.partition(" #")[0].strip() for name, equals, value in lines if equals}
    for name, placeholder in PLACEHOLDERS.items():
        if not settings.get(name) and for_show:
            settings[name] = placeholder
        elif not settings.get(name):
            raise UserError(f"{SETTINGS} has no {name}; .runpod.env.example explains it")
    key = settings["SSH_KEY_PATH"] = str(Path(settings["SSH_KEY_PATH"]).expanduser())
    if not Path(f"{key}.pub").exists() and not for_show:
        raise UserError(
            f"SSH_KEY_PATH {key} has no public key {key}.pub beside it; make a pair with ssh-keygen -t ed25519"
        )
    return settings


def remember(pod: str) -> None:
    lines = SETTINGS.read_text().splitlines()
    where = next((i for i, line in enumerate(lines) if line.startswith("POD_ID=")), len(lines))
    lines[where : where + 1] = [f"POD_ID={pod}"]
    partial = SETTINGS.with_name(f"{SETTINGS.name}.partial")
    partial.touch(mode=0o600)
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(SETTINGS)


# The pod


def ask(key: str, method: str, path: str, body: dict | None = None) -> dict:
    """Send a request. Raise `UserError` with Runpod's answer if it refuses, and `LookupError` for status 404."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "User-Agent": "underheard"}
    wanted = urllib.request.Request(
        API + path, None if body is None else json.dumps(body).encode(), headers, method=method
    )
    try:
        with urllib.request.urlopen(wanted, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise LookupError(path) from error
        said = error.read().decode(errors="replace").replace(key, "<key>")
        raise UserError(f"Runpod answered {error.code} to {method} {path}: {said[:500]}") from error
    except OSError as error:
        raise UserError(f"cannot reach {API}: {error}") from error


def pod_request(settings: dict[str, str], data_center: str) -> dict:
    """Request for a new pod; a network volume can be mounted only in its own data centre."""
    public = Path(settings["SSH_KEY_PATH"] + ".pub")  # missing only in a dry run, see `read_settings`
    return {
        "name": "underheard",
        "image": settings.get("IMAGE") or IMAGE,
        "cloud": "SECURE",
        "disk": 30,
        "gpu": {"id": settings["GPU_TYPE"], "count": 1},
        "ports": ["22/tcp"],
        "dataCenterIds": [data_center],
        "env": {"PUBLIC_KEY": public.read_text().strip() if public.exists() else f"what is in {public}"},
        "mounts": {"network": [{"volumeId": settings["NETWORK_VOLUME_ID"], "path": VOLUME}]},
    }


def find_pod(settings: dict[str, str]) -> dict | None:
    """The pod of .runpod.env; None if there is none, or if it is terminated."""
    if not settings.get("POD_ID"):
        return None
    try:
        pod = ask(settings["RUNPOD_API_KEY"], "GET", f"/pods/{settings['POD_ID']}")
    except LookupError:
        return None
    return None if pod["status"] == "TERMINATED" else pod


def running_pod(settings: dict[str, str]) -> dict:
    """The pod of .runpod.env, resumed if it is stopped; if there is none, a new one, which is noted there."""
    key = settings["RUNPOD_API_KEY"]
    pod = find_pod(settings)
    if pod is None:
        try:
            volume = ask(key, "GET", f"/network-volumes/{settings['NETWORK_VOLUME_ID']}")
        except LookupError as error:
            raise UserError(
                f"Runpod has no network volume {settings['NETWORK_VOLUME_ID']}; its console lists them"
            ) from error
        pod = ask(key, "POST", "/pods", pod_request(settings, volume["dataCenter"]))
        remember(pod["id"])
        say(f"created pod {pod['id']} with one {settings['GPU_TYPE']} for {pod['cost']} USD per hour")
    elif pod["status"] == "EXITED":
        say(
            f"resuming pod {pod['id']}; if its machine has no free GPU, empty POD_ID= in "
            f"{SETTINGS.name} to get another pod"
        )
        pod = ask(key, "POST", f"/pods/{pod['id']}/action", {"action": "start"})
    else:
        return pod
    KNOWN_HOSTS.unlink(missing_ok=True)
    return pod


def reach(settings: dict[str, str], pod: dict) -> list[str]:
    """Wait until the pod runs commands, and return the `ssh` words to run them."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if pod["status"] in ("ERROR", "EXITED", "TERMINATED"):
            raise UserError(
                f"pod {pod['id']} is {pod['status']}; see Runpod's console, or empty POD_ID= in {SETTINGS.name}"
            )
        for host, port in ssh_addresses(pod):
            words = ssh_words(settings, host, port)
            if (
                subprocess.run([*words, "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode
                == 0
            ):
                say(f"reached {USER}@{host} at port {port}")
                return words
        say(f"pod {pod['id']} is {pod['status']}")
        time.sleep(POLL)
        pod = ask(settings["RUNPOD_API_KEY"], "GET", f"/pods/{pod['id']}")
    raise UserError(
        f"pod {pod['id']} could not be reached by ssh with {settings['SSH_KEY_PATH']} within {PATIENCE:.0f} s; it "
        "is billed: stop it with python launchers/runpod.py stop"
    )


def ssh_addresses(pod: dict) -> Iterator[tuple[str, str]]:
    for port in (pod["runtime"] or {}).get("ports") or []:
        if port["private"] == 22 and port["public"] and port["ip"]:
            yield port["ip"], str(port["public"])


def ssh_words(settings: dict[str, str], host: str, port: str) -> list[str]:
    return [
        "ssh",
        "-i",
        settings["SSH_KEY_PATH"],
        "-p",
        port,
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        f"UserKnownHostsFile={KNOWN_HOSTS}",
        "-o",
        "ConnectTimeout=10",
        "-o",
        "ServerAliveInterval=30",
        "-o",
        "LogLevel=ERROR",
        f"{USER}@{host}",
    ]


# Commands for the pod


def upload_command() -> str:
    return (
        f"mkdir -p {FOLDER} && cd {FOLDER} && rm -rf recipes accelerate_configs launchers underheard-*.whl && tar -xz"
    )


def start_command(args: argparse.Namespace) -> str:
    """Command that reads the Hub's token, or an empty line, from standard input: command lines are public."""
    session = f"{shlex.join(['bash', 'launchers/run.sh', args.recipe, *args.words])} >run.log 2>&1; echo $? >run.exit"
    return f"""set -e; cd {FOLDER}; IFS= read -r HF_TOKEN; export HF_TOKEN
if [ -z "$HF_TOKEN" ]; then unset HF_TOKEN; fi
export HF_HOME={VOLUME}/huggingface RESTART={"1" if args.force_restart else ""}
command -v tmux >/dev/null || (apt-get -qq update && apt-get -qq install -y tmux) >/dev/null
rm -f run.exit; : >run.log
{TMUX} new-session -d -s recipe {shlex.quote(session)}"""


def follow_command(lines: str) -> str:
    """Command that prints the log from a line ("+1") or its end ("100") until the recipe ends, with its exit code."""
    return f"""cd {FOLDER}; tail -n {lines} -f run.log & tail=$!
while {IS_RUNNING}; do sleep 0.5; done
sleep 0.5; kill $tail
if [ -s run.exit ]; then exit "$(cat run.exit)"; fi
echo 'error: the recipe was ended from outside' >&2; exit 1"""


# The recipe


def start(ssh: list[str], args: argparse.Namespace) -> None:
    """Upload this checkout and start the recipe, unless one is already running."""
    if subprocess.run([*ssh, IS_RUNNING], stdin=subprocess.DEVNULL, check=False).returncode == 0:
        if not args.force_restart:
            return say("a recipe is already running there; this is its log. --force_restart ends it")
        subprocess.run([*ssh, END], stdin=subprocess.DEVNULL, check=False)
    with tempfile.TemporaryDirectory() as folder:
        build_parcel(Path(folder))
        parcel = subprocess.run(["tar", "-C", folder, "-cz", "."], stdout=subprocess.PIPE, check=True).stdout
    for command, given in ((upload_command(), parcel), (start_command(args), f"{hub_token()}\n".encode())):
        done = subprocess.run([*ssh, command], input=given, check=False)
        if done.returncode:
            raise UserError(f"the pod could not be set up, exit code {done.returncode}; its output is above")
    return say("started; Ctrl-C leaves it running")


def hub_token() -> str:
    """The Hub token of this machine, or ""."""
    saved = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "token"
    return os.environ.get("HF_TOKEN", "") or (saved.read_text().strip() if saved.exists() else "")


def follow(ssh: list[str], lines: str) -> int:
    try:
        code = subprocess.run([*ssh, follow_command(lines)], stdin=subprocess.DEVNULL, check=False).returncode
    except KeyboardInterrupt:
        say(
            "\nthe recipe runs on, and the pod is billed; python launchers/runpod.py attach follows it, stop ends both"
        )
        return NO_LONGER_FOLLOWED
    if code == 255:  # the exit code of ssh itself
        say("the connection was lost; the recipe runs on: python launchers/runpod.py attach")
        return NO_LONGER_FOLLOWED
    say(f"the recipe ended with exit code {code}; the pod is billed until python launchers/runpod.py stop")
    return code


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def show_all(settings: dict[str, str], args: argparse.Namespace) -> None:
    """Print the commands to run by hand; HOST and PORT are those of 22/tcp in the pod's runtime.ports."""
    ssh = ssh_words(settings, "HOST", "PORT")
    pod = settings.get("POD_ID") or "POD_ID"
    asking = f'curl -sS -H "Authorization: Bearer $RUNPOD_API_KEY" -H "Content-Type: application/json" {API}'
    if args.recipe == "stop":
        return show(f'{asking}/pods/{pod}/action -d \'{{"action": "stop"}}\'')
    creates = args.recipe not in ("attach", "tensorboard", "ssh")
    if creates and not settings.get("POD_ID"):
        show(
            f"{asking}/network-volumes/{settings['NETWORK_VOLUME_ID']}   # its dataCenter is DATA_CENTER",
            f"{asking}/pods -d {shlex.quote(as_json(pod_request(settings, 'DATA_CENTER')))}   # its id is POD_ID",
        )
    elif creates:
        show(f'{asking}/pods/{pod}/action -d \'{{"action": "start"}}\'   # if its status is EXITED')
    show(f"{asking}/pods/{pod}   # until its runtime.ports give HOST and PORT of 22/tcp")
    if creates:
        show(
            ["python", "launchers/parcel.py", "build/runpod"],
            f"tar -C build/runpod -cz . | {shlex.join([*ssh, upload_command()])}",
            f'echo "$HF_TOKEN" | {shlex.join([*ssh, start_command(args)])}',
        )
    return show(remote_command(ssh, args))


def remote_command(ssh: list[str], args: argparse.Namespace) -> list[str]:
    """Command of an action on a reached pod, or of a recipe once it is started."""
    if args.recipe == "ssh":
        words = args.words[1:] if args.words[:1] == ["--"] else args.words
        return [*ssh, f"cd {FOLDER} && {shlex.join(words)}"] if words else [ssh[0], "-t", *ssh[1:]]
    if args.recipe == "tensorboard":
        command = f"cd {FOLDER} && .venv/bin/tensorboard --logdir runs --port 6006"
        return [ssh[0], "-tt", "-L", "6006:localhost:6006", *ssh[1:], command]  # -tt: it ends with the connection
    return [*ssh, follow_command("100" if args.recipe == "attach" else "+1")]


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    settings = read_settings(for_show=args.dry_run)
    if args.dry_run:
        show_all(settings, args)
        return 0
    if args.recipe not in ("attach", "tensorboard", "ssh", "stop"):
        try:
            ssh = reach(settings, running_pod(settings))
            start(ssh, args)
        except KeyboardInterrupt:
            say("interrupted; a new or resumed pod is billed until python launchers/runpod.py stop")
            return NO_LONGER_FOLLOWED
        return follow(ssh, "+1")
    pod = find_pod(settings)
    if pod is None:
        raise UserError(f"there is no pod; {SETTINGS.name} names {settings.get('POD_ID') or 'none'}")
    if args.recipe == "stop":
        if pod["status"] != "EXITED":
            ask(settings["RUNPOD_API_KEY"], "POST", f"/pods/{pod['id']}/action", {"action": "stop"})
        say(f"pod {pod['id']} is stopped; the same command as before resumes it")
        return 0
    if pod["status"] == "EXITED":
        raise UserError(f"pod {pod['id']} is stopped; starting a recipe resumes it")
    ssh = reach(settings, pod)
    if args.recipe == "attach":
        return follow(ssh, "100")
    return subprocess.run(remote_command(ssh, args), check=False).returncode


if __name__ == "__main__":
    run(main)
