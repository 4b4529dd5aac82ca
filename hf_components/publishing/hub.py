"""Publish a finished folder on the Hub in one commit, with retries. The folder on disk is never changed."""

import json
import logging
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2
from accelerate import PartialState
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_components.publishing.hub_files import (
    Kind,
    check_name,
    files_of,
    is_personal,
    is_voice,
    kind_of,
    license_of,
    outdated,
)
from hf_components.runtime import UserError, causes, flag

logger = logging.getLogger(__name__)

LICENSE = "apache-2.0"
ASK_SPEAKERS = "the licence that its speakers agreed to, such as cc-by-nc-4.0: ask them"
WAITS = (2, 4, 8, 16)  # seconds before each new attempt, after the client's own, shorter retries
PASSING = (408, 429, 500, 502, 503, 504)  # HTTP errors that may be temporary
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"
ADVICE = {
    401: LOG_IN,
    403: f"free some space in the account, choose a namespace of your own, or {LOG_IN}",
    507: "free some space in the account",
}


@dataclass
class PublishArguments:
    """Whether and where to publish the complete result; recipes/publish.py does the same later."""

    push_to_hub: bool = flag("publish the result on the Hub", default=False)
    hub_model_id: str | None = flag("repository on the Hub, as user/name", default=None, needs="push_to_hub")
    hub_private_repo: bool | None = flag(
        "make a new repository private; default: only for data",
        default=None,
        nargs="?",
        const=True,
        needs="push_to_hub",
    )

    def __post_init__(self):
        if not self.push_to_hub:
            return
        if self.hub_model_id is None:
            raise UserError("--push_to_hub needs --hub_model_id, the repository as user/name")
        check_repo_id("--hub_model_id", self.hub_model_id)
        if get_token() is None:  # checked now, not after hours of training
            raise UserError(f"--push_to_hub needs a token of the Hub; {LOG_IN}")


@dataclass
class PublishModelArguments(PublishArguments):
    model_license: str = flag("Hub id of the model's licence; base model and data may restrict it", default=LICENSE)


@dataclass
class PublishVoiceArguments(PublishModelArguments):
    """A voice belongs to those who spoke: its licence is never chosen for them."""

    model_license: str | None = flag(
        "Hub id of the licence of the voice, as its speakers agreed, such as cc-by-nc-4.0; needed by --push_to_hub",
        default=None,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.push_to_hub and self.model_license is None:
            raise UserError(f"--push_to_hub of a voice needs --model_license, {ASK_SPEAKERS}")


@dataclass(frozen=True)
class Published:
    """A published folder: address of the repository, and commit, which readers can use as `revision`."""

    url: str
    revision: str


def push(args: PublishArguments, folder: str | Path) -> None:
    """Publish the result of a recipe on the main process, if `--push_to_hub` is given."""
    if args.push_to_hub and PartialState().is_main_process:
        license = args.model_license if isinstance(args, PublishModelArguments) else LICENSE
        publish(folder, args.hub_model_id, private=args.hub_private_repo, license=license)


def publish(folder: str | Path, repo_id: str, *, private: bool | None = None, license: str | None = None) -> Published:
    """Send a folder to the Hub in one commit: weights, configuration, code, card, plots, figures.

    Files that are already there are not sent again: unchanged files are not part of the commit, and the checksum shows
    which large files arrived before a failure. The folder itself is not changed.

    Args:
        folder: folder of a model, an adapter, a prepared corpus, a metric or a Space.
        repo_id: id of the repository, user/name; it is created if it does not exist.
        private: whether a new repository is private. By default data and personal voices are private; the account's
            settings decide for models and Spaces.
        license: licence for the card of a model that names none; by default apache-2.0, but a voice has no default.
    Raises:
        UserError: the folder cannot be published, or an attempt failed; the message has the command to repeat it.
    """
    folder = Path(folder)
    check_repo_id("--repo_id", repo_id)
    check_name(folder, repo_id)
    kind = kind_of(folder)
    if is_voice(folder):
        if license is None and license_of(folder) is None:
            raise UserError(f"{folder} holds a voice, and its card names no licence; give --license, {ASK_SPEAKERS}")
    else:
        license = license or LICENSE
    if private is None and is_personal(folder):
        private = True
    files = files_of(folder, license, repo_id)
    command = repeating_command(folder, repo_id, private, license)
    text = "publishing %d files of %s as %s; if this is interrupted, repeat it with: %s"
    logger.info(text, len(files), folder, repo_id, command)
    try:
        published = _persistently(lambda: _send(folder, repo_id, kind, files, private))
    except Exception as error:  # after any error the result is still on disk, and the command can be repeated
        answer = _answer(error)
        advice = f"; {ADVICE[answer.response.status_code]}" if answer and answer.response.status_code in ADVICE else ""
        raise UserError(
            f"{folder} is complete, but was not published as {repo_id}: {_reason(error)}{advice}; repeat it with: "
            f"{command}"
        ) from error
    logger.info("published: %s, revision %s", published.url, published.revision)
    return published


def repeating_command(folder: Path, repo_id: str, private: bool | None, license: str | None) -> str:
    words = ["python", "recipes/publish.py", str(folder), "--repo_id", repo_id]
    words += [] if private is None else ["--private", str(private).lower()]
    words += [] if license in (None, LICENSE) else ["--license", license]
    return shlex.join(words)


def check_repo_id(flag: str, repo_id: str) -> None:
    """Raise UserError unless `repo_id` has the form user/name."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{flag} must be user/name of letters, digits, '-', '_' and '.', got {repo_id!r}") from error
    if "/" not in repo_id:
        raise UserError(f"{flag} must be user/name, got {repo_id!r}")


def _send(folder: Path, repo_id: str, kind: Kind, files: dict[str, Path | bytes], private: bool | None) -> Published:
    api = HfApi()
    wants_private = kind.repo_type == "dataset" if private is None else private
    url = api.create_repo(
        repo_id,
        repo_type=kind.repo_type,
        space_sdk=kind.sdk,
        exist_ok=True,
        private=True if wants_private else private,
    )
    there = api.repo_info(repo_id, repo_type=kind.repo_type)
    if wants_private and not there.private:  # it existed before; `create_repo` does not change it
        raise UserError(f"{url} already exists and is public; make it private there, or give --private false")
    # Every attempt needs new operations: the client stores its findings about the Hub in them.
    operations = [
        CommitOperationAdd(path, str(file) if isinstance(file, Path) else file) for path, file in files.items()
    ]
    stale = outdated([sibling.rfilename for sibling in there.siblings], files)
    commit = api.create_commit(
        repo_id,
        [*operations, *(CommitOperationDelete(path) for path in stale)],
        repo_type=kind.repo_type,
        commit_message=f"Publish {folder.resolve().name}",
    )
    return Published(str(url), commit.oid)


def _persistently(attempt: Callable[[], Published]) -> Published:
    for wait in WAITS:
        try:
            return attempt()
        except Exception as error:
            if not _passes(error):
                raise
            answer = _answer(error)
            asked = answer.response.headers.get("Retry-After", "") if answer else ""
            seconds = max(wait, int(asked) if asked.isdigit() else 0)
            logger.warning("%s; next attempt in %d s", _reason(error), seconds)
            time.sleep(seconds)
    return attempt()


def _passes(error: Exception) -> bool:
    """Whether another attempt may succeed: the connection failed, or the Hub reported a temporary error."""
    if (answer := _answer(error)) is not None:
        return answer.response.status_code in PASSING
    # A gateway may return a page instead of JSON; Xet reports connection errors as RuntimeError.
    return any(isinstance(e, (httpx2.TransportError, json.JSONDecodeError, RuntimeError)) for e in causes(error))


def _answer(error: Exception) -> HfHubHTTPError | None:
    """The Hub's HTTP error, if there is one; for large files the client wraps it in another exception."""
    return next((e for e in causes(error) if isinstance(e, HfHubHTTPError)), None)


def _reason(error: Exception) -> str:
    """The error in one line, without credentials: tokens, and signatures in addresses of the storage."""
    answer = _answer(error)
    token = get_token()
    if answer is None:
        cause = list(causes(error))[-1]
        text = f"{type(cause).__name__}: {cause}"
    else:
        text = (
            f"the Hub answered {answer.response.status_code}, {answer.server_message or answer.response.reason_phrase}"
        )
    text = " ".join((text.replace(token, "<token>") if token else text).split())
    return re.sub(r"\bhf_[A-Za-z0-9]{8,}", "<token>", re.sub(r"(https?://[^\s?]+)\?\S*", r"\1", text))
