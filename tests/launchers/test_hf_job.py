"""Jobs on the Hub: what is asked for, what is uploaded, what is printed, and how each ending is told apart."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hub_server import TOKEN
from paths import ROOT
from small_parcel import FILES, small_parcel

from launchers import hf_job
from launchers.commands import UserError

pytestmark = pytest.mark.integration

CONFIG = "recipes/configs/run_children_pipeline/default.yaml"
WORDS = [
    "run_children_pipeline",
    "--config",
    CONFIG,
    "--data",
    "tester/children",
    "--push_to_hub",
    "--hub_model_id",
    "tester/whisper-children",
]
START = 'cp -r /parcel /tmp/underheard && exec bash /tmp/underheard/launchers/run.sh "$@"'


@pytest.fixture
def parcel(monkeypatch):
    """tests/launchers/test_parcel.py packs the true one."""
    monkeypatch.setattr(hf_job, "build_parcel", small_parcel)


def test_a_job_is_asked_for_field_by_field_and_its_log_is_streamed(hub, parcel, capsys):
    assert (
        hf_job.main(["--flavor", "l4x1", "--timeout", "90m", "--volume", "hf://buckets/tester/runs:/runs", *WORDS])
        == 0
    )
    repository = hub.repository("tester/underheard-jobs", "datasets")
    assert repository.private
    assert set(hub.files(repository.id, "datasets")) == FILES
    (job,) = hub.jobs.jobs.values()
    assert job.asked == {
        "command": ["bash", "-c", START, "run.sh", *WORDS],
        "arguments": [],
        "environment": {},
        "dockerImage": "ghcr.io/astral-sh/uv:python3.11-bookworm",
        "flavor": "l4x1",
        "timeoutSeconds": 5400,
        "secrets": {"HF_TOKEN": TOKEN},
        "labels": {"timeout": "5400", "name": "run_children_pipeline"},
        "volumes": [
            {
                "type": "dataset",
                "source": "tester/underheard-jobs",
                "mountPath": "/parcel",
                "readOnly": True,
                "revision": repository.at("main").oid,
            },
            {"type": "bucket", "source": "tester/runs", "mountPath": "/runs"},
        ],
    }
    said = capsys.readouterr()
    assert said.out.split() == ["one", "two"]
    assert job.streams == 2  # the first stream broke off while the job was running
    assert "succeeded" in said.err and TOKEN not in said.out + said.err


@pytest.mark.parametrize(
    ("ending", "code", "text"),
    [
        ({"stage": "COMPLETED"}, 0, "the job succeeded"),
        ({"stage": "ERROR", "message": "exit code 1"}, 1, "ended as ERROR, exit code 1"),
        ({"stage": "CANCELED"}, 1, "ended as CANCELED"),
        ({"stage": "ERROR", "message": "Job timeout"}, 124, "exceeded its time limit of 43200 s"),
        ({"stage": "ERROR", "running_secs": 43201}, 124, "exceeded its time limit of 43200 s"),
    ],
)
def test_every_ending_has_its_exit_code(hub, parcel, capsys, ending, code, text):
    hub.jobs.ending = ending
    assert hf_job.main(WORDS) == code
    assert text in capsys.readouterr().err
    assert hf_job.main(["attach", "job1"]) == code  # which knows the limit from the job's label


def test_as_a_program_it_exits_with_the_code(hub, tmp_path):
    hub.jobs.ending = {"stage": "ERROR", "message": "Job timeout"}
    environment = hub.environment(tmp_path)
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'support')!r}]; from launchers import "
        "commands, hf_job; "
        "from small_parcel import small_parcel; hf_job.build_parcel = small_parcel; commands.run(hf_job.main)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *WORDS], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 124, ran.stderr
    assert TOKEN not in ran.stdout + ran.stderr


def test_a_job_is_cancelled(hub, parcel, monkeypatch):
    monkeypatch.setattr(hf_job, "follow", lambda api, job: 130)
    assert hf_job.main(WORDS) == 130
    assert hf_job.main(["cancel", "job1"]) == 0
    assert hub.jobs.jobs["job1"].stage == "CANCELED"


def test_ctrl_c_leaves_the_job_running(hub, parcel, monkeypatch, capsys):
    def interrupted(self, **_):
        yield "one"
        raise KeyboardInterrupt

    monkeypatch.setattr(hf_job.HfApi, "fetch_job_logs", interrupted)
    assert hf_job.main(WORDS) == 130
    assert "attach job1" in capsys.readouterr().err
    assert hub.jobs.jobs["job1"].stage == "COMPLETED"  # as it was told to end: nobody cancelled it


def test_dry_run_prints_the_exact_request_and_sends_nothing(hub, parcel, capsys):
    assert hf_job.main(["--dry_run", "--volume", "hf://datasets/tester/raw:/raw:ro", *WORDS]) == 0
    said = capsys.readouterr()
    assert [record.request for record in hub.records] == ["GET /api/whoami-v2"]
    assert TOKEN not in said.out + said.err
    printed = json.loads(said.out[said.out.index("{\n") :])
    hf_job.main(["--volume", "hf://datasets/tester/raw:/raw:ro", *WORDS])
    asked = hub.jobs.jobs["job1"].asked
    printed["volumes"][0]["revision"] = asked["volumes"][0]["revision"]
    assert asked == {
        "command": printed["command"],
        "arguments": [],
        "environment": {},
        "flavor": printed["flavor"],
        "timeoutSeconds": printed["timeout"],
        "secrets": {"HF_TOKEN": TOKEN},
        "volumes": printed["volumes"],
        "labels": {**printed["labels"], "name": printed["name"]},
        "dockerImage": printed["image"],
    }


def test_dry_run_can_be_run_by_hand(hub, tmp_path, capsys):
    """huggingface_hub's own command reads the printed line as the same request."""
    hf_job.main(["--dry_run", *WORDS])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("hf jobs run ")]
    hf = Path(sys.executable).with_name("hf")
    ran = subprocess.run(
        [hf, "jobs", "run", "--detach", *shlex.split(line)[3:]],
        env=hub.environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    asked = hub.jobs.jobs["job1"].asked
    assert asked["command"] == ["bash", "-c", START, "run.sh", *WORDS]
    assert (asked["timeoutSeconds"], asked["flavor"], asked["secrets"]) == (43200, "t4-small", {"HF_TOKEN": TOKEN})
    assert asked["labels"] == {"timeout": "43200", "name": "run_children_pipeline"}
    assert asked["volumes"] == [
        {
            "type": "dataset",
            "source": "tester/underheard-jobs",
            "mountPath": "/parcel",
            "revision": "REVISION",
            "readOnly": True,
        }
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run_childen_pipeline"], "did you mean run_children_pipeline"),
        (["--flavour", "x", "run_children_pipeline"], "--flavour"),
        (["--timeout", "soon", "run_children_pipeline"], "90m"),
        (["--volume", "tester/runs:/runs", "run_children_pipeline"], "--volume tester/runs:/runs"),
        (["attach"], "the id of one job"),
        (["--namespace", "other", "run_children_pipeline"], "403"),
    ],
)
def test_mistakes_are_told_by_name(hub, parcel, argv, message):
    with pytest.raises(UserError, match=message):
        hf_job.main(argv)
    assert not hub.jobs.jobs


def test_without_a_token_nothing_starts(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="hf auth login"):
        hf_job.main(WORDS)


@pytest.mark.parametrize("argv", [WORDS, ["attach", "job1"], ["cancel", "job1"]])
def test_a_dry_run_needs_no_token(hub, monkeypatch, capsys, argv):
    monkeypatch.delenv("HF_TOKEN")
    assert hf_job.main(["--dry_run", *argv]) == 0
    assert "--namespace YOUR_NAME" in capsys.readouterr().out
    assert not hub.records


def test_a_hub_that_cannot_be_reached_is_named(hub, monkeypatch):
    def refuse(self):
        raise httpx.ConnectError("no route")

    monkeypatch.setattr(hf_job.HfApi, "whoami", refuse)
    with pytest.raises(UserError, match="cannot be reached: no route.*--namespace"):
        hf_job.main(["--dry_run", *WORDS])


def test_what_would_vanish_with_the_job_is_warned_of(hub, capsys):
    hf_job.main(["--dry_run", "run_children_pipeline"])
    assert "vanishes" in capsys.readouterr().err
    hf_job.main(["--dry_run", *WORDS])
    assert "vanishes" not in capsys.readouterr().err


def test_an_open_repository_gets_no_parcel(hub, parcel):
    hub.store.create("datasets", "tester/underheard-jobs", private=False, sdk=None)
    with pytest.raises(UserError, match="open to everyone"):
        hf_job.main(WORDS)
    assert hub.files("tester/underheard-jobs", "datasets") == {}


@pytest.mark.parametrize(("config", "limit"), [("quick", 3600), ("default", 43200), (None, 43200)])
def test_the_limit_fits_the_configuration(hub, capsys, config, limit):
    hf_job.main(
        ["--dry_run", "learn_units", *(["--config", f"recipes/configs/learn_units/{config}.yaml"] if config else [])]
    )
    assert json.loads((out := capsys.readouterr().out)[out.index("{\n") :])["timeout"] == limit
