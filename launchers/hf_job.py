"""Run a recipe of this checkout as a Hugging Face Job: upload it, start it, follow its log, report how it ended.

python launchers/hf_job.py --flavor t4-small run_children_pipeline \\
    --config recipes/configs/run_children_pipeline/default.yaml --data user/children --output_dir runs/children \\
    --push_to_hub --hub_model_id user/whisper-children
python launchers/hf_job.py attach JOB_ID
python launchers/hf_job.py cancel JOB_ID

Ctrl-C leaves the job running. Exit codes: 0 the job succeeded, 1 it failed or was cancelled, 124 it ran out of time,
2 nothing was started, 130 it runs on, but is not followed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from huggingface_hub import HfApi, JobInfo, JobStage, Volume, get_token
from huggingface_hub.errors import HfHubHTTPError, HfUriError
from huggingface_hub.utils import parse_hf_mount

from launchers.commands import (
    FAILED,
    NO_LONGER_FOLLOWED,
    TIMED_OUT,
    Parser,
    UserError,
    as_json,
    check_remote,
    run,
    seconds_of,
    show,
    timeout_of,
)
from launchers.parcel import build_parcel

IMAGE = "ghcr.io/astral-sh/uv:python3.11-bookworm"  # the Python of constraints.txt, and uv
REPOSITORY = "underheard-jobs"  # private, in the user's namespace; every job makes a commit there
# The repository is mounted read-only, but recipes write beside their own files.
START = 'cp -r /parcel /tmp/underheard && exec bash /tmp/underheard/launchers/run.sh "$@"'
SECRET = "HF_TOKEN"
SOMEBODY = "YOUR_NAME"  # in a dry run of somebody who is not logged in


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(__doc__, actions=("attach", "cancel"))
    parser.flag(
        "--flavor", default="t4-small", help="hardware, listed with prices by `hf jobs hardware`; default: t4-small"
    )
    parser.flag("--timeout", help="time limit of the job, such as 90m or 2d; default: 1h with a quick.yaml, else 12h")
    parser.flag("--namespace", help="user or organisation that pays; default: the user who is logged in")
    parser.flag(
        "--volume",
        action="append",
        default=[],
        metavar="hf://TYPE/ID:/PATH",
        help="mount a dataset, model or bucket, as in hf://datasets/user/corpus:/data; may be repeated. Files "
        "in a bucket outlive the job: with --output_dir there, the same command continues it",
    )
    args = parser.parse(argv)
    if args.recipe not in parser.actions:
        mounts = [volume_of(mount).mount_path for mount in args.volume]
        check_remote(args.recipe, args.words, folders=mounts, advice="push it to the Hub and mount it with --volume")
    return args


def request(args: argparse.Namespace, namespace: str, revision: str) -> dict:
    """Arguments of `HfApi.run_job`, without the secret."""
    timeout = args.timeout or timeout_of(args.words)
    parcel = Volume(
        type="dataset", source=f"{namespace}/{REPOSITORY}", revision=revision, mount_path="/parcel", read_only=True
    )
    # The label keeps the limit for `attach`, since the Hub does not return it.
    return {
        "image": IMAGE,
        "command": ["bash", "-c", START, "run.sh", args.recipe, *args.words],
        "flavor": args.flavor,
        "timeout": seconds_of(timeout),
        "name": args.recipe,
        "labels": {"timeout": str(seconds_of(timeout))},
        "volumes": [parcel, *map(volume_of, args.volume)],
        "namespace": namespace,
    }


def volume_of(mount: str) -> Volume:
    try:
        parsed = parse_hf_mount(mount)
    except HfUriError as error:
        raise UserError(f"--volume {mount}: {error.msg}") from error
    return Volume(
        type=parsed.source.type,
        source=parsed.source.id,
        revision=parsed.source.revision,
        path=parsed.source.path_in_repo or None,
        mount_path=parsed.mount_path,
        read_only=parsed.read_only,
    )


def show_request(asked: dict) -> None:
    repository = f"{asked['namespace']}/{REPOSITORY}"
    folder = f"build/{REPOSITORY}"
    mounts = [word for volume in asked["volumes"] for word in ("--volume", volume.to_uri())]
    show(
        ["python", "launchers/parcel.py", folder],
        ["hf", "repos", "create", repository, "--type", "dataset", "--private", "--exist-ok"],
        ["hf", "upload", repository, folder, ".", "--type", "dataset", "--delete", "*"],
        "# REVISION is the commit that the upload names",
        [
            "hf",
            "jobs",
            "run",
            "--namespace",
            asked["namespace"],
            "--flavor",
            asked["flavor"],
            "--timeout",
            f"{asked['timeout']}s",
            "--secrets",
            SECRET,
            "--name",
            asked["name"],
            "--label",
            f"timeout={asked['labels']['timeout']}",
            *mounts,
            asked["image"],
            *asked["command"],
        ],
        '# in Python: huggingface_hub.HfApi().run_job(**request, secrets={"HF_TOKEN": '
        "huggingface_hub.get_token()}) with",
        as_json({**asked, "volumes": [volume.to_dict() for volume in asked["volumes"]]}),
    )


def follow(api: HfApi, job: JobInfo) -> int:
    """Print the log until the job has ended, and return the exit code."""
    where = {"job_id": job.id, "namespace": job.owner.name}
    try:
        for line in api.fetch_job_logs(**where, follow=True):
            print(line, flush=True)
        return verdict(api.wait_for_job(**where))
    except KeyboardInterrupt:
        print(
            f"\nthe job runs on; follow it again with: python launchers/hf_job.py attach {job.id}\n"
            f"and end it with: python launchers/hf_job.py cancel {job.id}",
            file=sys.stderr,
        )
        return NO_LONGER_FOLLOWED


def verdict(job: JobInfo) -> int:
    """Exit code of a job that has ended; waiting for a job raises nothing, however it ended."""
    if job.status.stage == JobStage.COMPLETED:
        print(f"the job succeeded: {job.url}", file=sys.stderr)
        return 0
    limit = int((job.labels or {}).get("timeout", 0))
    message = job.status.message or ""
    ran = job.durations.running_secs if job.durations and job.durations.running_secs else 0
    # A job that ran out of time ends in the stage ERROR, the same as one that failed.
    if job.status.stage == JobStage.ERROR and ("timeout" in message.lower() or 0 < limit <= ran):
        print(
            f"error: the job exceeded its time limit of {limit} s: {job.url}; give a longer --timeout, and an "
            "--output_dir in a mounted bucket to continue where it stopped",
            file=sys.stderr,
        )
        return TIMED_OUT
    print(f"error: the job ended as {job.status.stage}{f', {message}' if message else ''}: {job.url}", file=sys.stderr)
    return FAILED


def launch(api: HfApi, args: argparse.Namespace, namespace: str) -> JobInfo:
    repository = f"{namespace}/{REPOSITORY}"
    api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
    if not api.repo_info(repository, repo_type="dataset").private:
        raise UserError(f"{repository} is open to everyone; make it private on the Hub, then repeat the command")
    with tempfile.TemporaryDirectory() as folder:
        commit = api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=build_parcel(Path(folder)),
            delete_patterns="*",
            commit_message=f"Parcel of {args.recipe}",
        )
    job = api.run_job(**request(args, namespace, commit.oid), secrets={SECRET: get_token()})
    print(f"started {job.url}", file=sys.stderr)
    return job


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    api = HfApi()
    request(args, "user", "REVISION")  # report wrong values before any request to the Hub
    if args.recipe in ("attach", "cancel") and len(args.words) != 1:
        raise UserError(f"{args.recipe} takes the id of one job")
    if get_token() is None and not args.dry_run:
        raise UserError("a job needs a token of the Hub; log in with `hf auth login`, or set HF_TOKEN")
    try:
        namespace = args.namespace or (SOMEBODY if get_token() is None else api.whoami()["name"])
        if args.recipe in ("attach", "cancel"):
            if args.dry_run:
                action = ["logs", "--follow"] if args.recipe == "attach" else ["cancel"]
                show(["hf", "jobs", *action, "--namespace", namespace, *args.words])
                return 0
            job = api.inspect_job(job_id=args.words[0], namespace=namespace)
            if args.recipe == "attach":
                return follow(api, job)
            api.cancel_job(job_id=job.id, namespace=namespace)
            return 0
        if "--push_to_hub" not in args.words and not args.volume:
            print(
                "warning: the job's disk vanishes with it; add --push_to_hub --hub_model_id user/name, "
                "or mount a bucket",
                file=sys.stderr,
            )
        if args.dry_run:
            show_request(request(args, namespace, "REVISION"))
            return 0
        return follow(api, launch(api, args, namespace))
    except HfHubHTTPError as error:
        raise UserError(f"the Hub answered {error.response.status_code}, {error.server_message or error}") from error
    except (httpx.TransportError, OSError) as error:
        raise UserError(f"the Hub cannot be reached: {error}; a --dry_run with --namespace needs no Hub") from error


if __name__ == "__main__":
    run(main)
