"""The lock holds what pyproject.toml asks for, by digests and from any index; its SBOM and its audit."""

import json
import re
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from paths import ROOT

from launchers import supply

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_LOCKED = {"voxtral"}  # it wants an older numpy


@pytest.fixture(scope="module")
def lock() -> dict[str, supply.Locked]:
    return {package.name: package for package in supply.read_lock(supply.LOCK.read_text())}


def test_the_lock_holds_all_that_is_asked_for(lock):
    extras = [names for extra, names in PROJECT["optional-dependencies"].items() if extra not in NOT_LOCKED]
    asked = [Requirement(text) for names in (PROJECT["dependencies"], *extras) for text in names]
    for requirement in asked:
        if requirement.name != PROJECT["name"]:
            version = lock[supply.canonical(requirement.name)].version
            assert requirement.specifier.contains(version), f"{requirement} and {version}; make lock"


def test_the_lock_is_of_digests_and_names_no_index(lock):
    text = supply.LOCK.read_text()
    assert not re.search(r"://| @ |--(extra-)?index|--find-links", text)
    assert lock and all(package.digests for package in lock.values())
    assert text.count("==") - len(re.findall("==", " ".join(re.findall(";.*", text)))) == len(lock)


def test_a_lock_is_read_with_its_markers_and_digests():
    digests = ("a" * 64, "b" * 64)
    text = (
        f"# a comment\nsome-name==1.2 ; sys_platform == 'win32' \\\n    --hash=sha256:{digests[0]} \\\n"
        f"    --hash=sha256:{digests[1]}\nother==3\n"
    )
    assert supply.read_lock(text) == [supply.Locked("some-name", "1.2", digests), supply.Locked("other", "3", ())]


def test_the_sbom_names_all_packages_with_digests_and_licences(lock):
    pytest.importorskip("cyclonedx")
    found = {row["name"]: row for row in json.loads(supply.sbom(list(lock.values())))["components"]}
    assert found.keys() == lock.keys()
    numpy = found["numpy"]
    assert numpy["purl"] == f"pkg:pypi/numpy@{lock['numpy'].version}"
    assert {row["content"] for row in numpy["hashes"]} == set(lock["numpy"].digests)
    assert numpy["licenses"]


@pytest.mark.parametrize(("affected", "code"), [("3.1.6", 1), ("3.1.5", 0)])
def test_an_audit_without_a_network(tmp_path, monkeypatch, capfd, affected, code):
    pytest.importorskip("pip_audit")
    events = [{"introduced": "0"}, {"fixed": "3.1.7"}]
    entry = {
        "id": "PYSEC-2026-1",
        "summary": "made up for a test",
        "affected": [
            {
                "package": {"name": "Jinja2", "ecosystem": "PyPI"},
                "versions": [affected],
                "ranges": [{"type": "ECOSYSTEM", "events": events}],
            }
        ],
    }
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("PYSEC-2026-1.json", json.dumps(entry))
    lock = tmp_path / "lock.txt"
    lock.write_text(f"jinja2==3.1.6 \\\n    --hash=sha256:{'a' * 64}\n")
    monkeypatch.setattr(supply, "LOCK", lock)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing may be asked there
    assert supply.main(["audit", str(tmp_path / "all.zip")]) == code
    said = capfd.readouterr()
    assert ("PYSEC-2026-1 3.1.7" in said.out) == bool(code)
    assert "WARNING" not in said.err


def test_what_cannot_be_audited_is_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "all.zip").write_text("no zip")
    assert supply.main(["audit", str(tmp_path / "all.zip")]) == 2
    assert "is no zip file" in capsys.readouterr().err
    pytest.importorskip("pip_audit")
    monkeypatch.setattr(supply, "OSV", "http://127.0.0.1:9/v1/query")  # nothing listens there
    assert supply.main(["audit"]) == 2
    assert "cannot be reached; give a copy" in capsys.readouterr().err
    assert supply.main(["no", "such", "words"]) == 2
    assert sys.executable not in capsys.readouterr().err
