"""What the tested set of versions consists of, and which known vulnerabilities are in it.

python launchers/supply.py sbom underheard.cdx.json        # an SBOM as CycloneDX
python launchers/supply.py audit                           # pip-audit, which asks osv.dev
python launchers/supply.py audit all.zip                   # offline, by a copy of OSV's database for PyPI

The exit code of `audit` is 1 if a version of constraints.txt has a known vulnerability.
"""

import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints.txt"
OSV = "https://api.osv.dev/v1/query"
COPY = "https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip"
AUDIT = (
    "--disable-pip",
    "--require-hashes",
    "--strict",
    "--progress-spinner",
    "off",
    "--vulnerability-service",
    "osv",
)


class Locked(NamedTuple):
    name: str
    version: str
    digests: tuple[str, ...]  # SHA-256 of each file that an index may give


def read_lock(text: str) -> list[Locked]:
    """The packages of `constraints.txt`."""
    packages = []
    for entry in re.split(r"\n(?=\S)", text.replace("\\\n", " ")):
        if match := re.match(r"([\w.-]+)==([^\s;]+)", entry):
            packages.append(Locked(*match.groups(), tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))))
    return packages


def sbom(packages: Sequence[Locked]) -> str:
    """CycloneDX 1.6 as JSON: name, version, digests, and the licence that an installed package states."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    components = [
        Component(
            name=package.name,
            version=package.version,
            type=ComponentType.LIBRARY,
            bom_ref=f"pkg:pypi/{package.name}@{package.version}",
            purl=PackageURL("pypi", name=package.name, version=package.version),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in package.digests],
            licenses=[LicenseFactory().make_from_string(licence)] if (licence := licence_of(package.name)) else [],
        )
        for package in packages
    ]
    root = Component(name="underheard", type=ComponentType.APPLICATION)
    bom = Bom(components=components)
    bom.metadata.component = root
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=2)


def licence_of(name: str) -> str | None:
    """The licence that an installed package states in a line."""
    try:
        fields = metadata(name)
    except PackageNotFoundError:  # of another system
        return None
    stated = fields.get("License-Expression") or fields.get("License")
    if stated and "\n" not in stated:
        return stated
    classifiers = [line for line in fields.get_all("Classifier", []) if line.startswith("License :: ")]
    return classifiers[0].rsplit(" :: ", 1)[1] if classifiers else None


def read_database(file: Path, names: set[str]) -> dict[tuple[str, str], list[dict]]:
    """What OSV's database knows of some packages, by name and affected version."""
    found = defaultdict(list)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.namelist():
            vulnerability = json.loads(archive.read(entry))
            for affected in vulnerability.get("affected", []):
                package = affected.get("package", {})
                package["name"] = canonical(package.get("name", ""))  # pip-audit compares it
                for version in affected.get("versions", []) if package["name"] in names else []:
                    found[package["name"], version].append(vulnerability)
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@contextmanager
def served(database: dict[tuple[str, str], list[dict]]) -> Iterator[str]:
    """Answer as osv.dev does, on this machine alone; yields the address."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = database.get((canonical(query["package"]["name"]), query["version"]), [])
            body = json.dumps({"vulns": known} if known else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            """Say nothing of each request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()


def audit(lock: Path, database: Path | None) -> int:
    """Exit code of pip-audit: 0 if it knows nothing against the versions of the lock."""
    names = {canonical(package.name) for package in read_lock(lock.read_text())}
    source = served(read_database(database, names)) if database else nullcontext(OSV)
    with source as address:
        command = [sys.executable, "-m", "pip_audit", *AUDIT, "--osv-url", address, "--requirement", str(lock)]
        local = {"NO_PROXY": f"127.0.0.1,{os.environ.get('NO_PROXY', '')}", "PIP_AUDIT_LOGLEVEL": "error"}
        done = subprocess.run(command, env=os.environ | local, stderr=subprocess.PIPE, text=True)
    if "ConnectionError" in done.stderr:
        print(f"error: {OSV} cannot be reached; give a copy of its database: {COPY}", file=sys.stderr)
        return 2
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


def main(words: Sequence[str]) -> int:
    match list(words):
        case ["sbom", file]:
            Path(file).write_text(sbom(read_lock(LOCK.read_text())) + "\n", encoding="utf-8")
            print(file)
            return 0
        case ["audit", *more] if len(more) <= 1:
            if more and not zipfile.is_zipfile(more[0]):
                print(f"error: {more[0]} is no zip file; audit takes OSV's all.zip", file=sys.stderr)
                return 2
            return audit(LOCK, Path(more[0]) if more else None)
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
