"""An OpenSSH server of the test's own on this machine: a port, a host key, a user key and a home that are thrown
away."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass(frozen=True)
class Sshd:
    port: int
    key: Path  # the private key that is let in
    log: Path
    home: Path


def missing_programs() -> list[str]:
    return [name for name, path in {"sshd": SSHD, "ssh": "ssh", "tmux": "tmux"}.items() if shutil.which(path) is None]


@contextmanager
def loopback_sshd(folder: Path, path: str) -> Iterator[Sshd]:
    """Let this test's user in; sessions see `folder/home` as their home, and `path` as PATH.

    Raises:
        RuntimeError: the server does not start; with what it says.
    """
    home, key, log = folder / "home", folder / "key", folder / "sshd.log"
    home.mkdir(parents=True)
    for name in (key, folder / "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", name], check=True)
    shutil.copy(f"{key}.pub", folder / "authorized_keys")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of root keeps its unprivileged child
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nLogLevel VERBOSE\n"
        f"SetEnv HOME={home} TMUX_TMPDIR={home} PATH={path}\n"
    )
    server = subprocess.Popen([SSHD, "-D", "-f", folder / "sshd_config", "-E", log])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if server.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)
        yield Sshd(port, key, log, home)
    finally:
        server.terminate()
        server.wait(10)
