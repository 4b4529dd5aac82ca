"""What a Hub keeps: accounts, repositories with their commits and references, large files by their SHA-256."""

import hashlib
import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime

KINDS = ("models", "datasets", "spaces")
GIT_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.parquet filter=lfs diff=lfs merge=lfs -text\n"


class HubError(Exception):
    """An answer other than success, with the header by which the client tells such answers apart."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None, **body
    ):
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


@dataclass(frozen=True)
class File:
    """A file of a commit: its bytes, or the SHA-256 of a large one. `oid` is git's, of the bytes or of the pointer."""

    oid: str
    size: int
    content: bytes | None = None
    sha256: str | None = None

    @classmethod
    def regular(cls, content: bytes) -> "File":
        return cls(git_hash(content), len(content), content=content)

    @classmethod
    def large(cls, sha256: str, size: int) -> "File":
        return cls(git_hash(pointer(sha256, size)), size, sha256=sha256)

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, File]
    parent: str | None
    date: str


@dataclass
class Repository:
    kind: str
    id: str
    private: bool = False
    sdk: str | None = None
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, File], number: int) -> Commit:
        parent = self.branches.get(branch)
        oid = hashlib.sha1(f"{self.kind}/{self.id} {number} {parent} {title}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files, parent, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"))
        self.branches[branch] = oid
        return self.commits[oid]

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag or (the beginning of) a commit's id."""
        oid = (
            self.branches.get(revision)
            or self.tags.get(revision)
            or next((oid for oid in self.commits if len(revision) >= 7 and oid.startswith(revision)), None)
        )
        if oid is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str) -> list[Commit]:
        found, commit = [], self.at(revision)
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent)
        return found


class Store:
    """Everything, and who may see it. `tokens` maps a token to the user whose it is; those in `expired` are
    refused."""

    def __init__(self, tokens: dict[str, str]):
        self.tokens, self.expired = dict(tokens), set[str]()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}  # large files
        self.parts: dict[str, dict[int, bytes]] = {}  # of multipart uploads that are under way, by SHA-256
        self.is_full = False
        self._numbers = itertools.count()

    def user_of(self, authorization: str | None) -> str | None:
        """The user of an `Authorization` header; None without one."""
        if authorization is None:
            return None
        token = authorization.removeprefix("Bearer ")
        if token in self.expired:
            raise HubError(401, 'User Access Token "test" is expired')
        if token not in self.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.tokens[token]

    def create(self, kind: str, id: str, private: bool, sdk: str | None) -> Repository:
        repository = self.repositories[kind, id] = Repository(kind, id, private, sdk)
        self.commit(repository, "main", "initial commit", {".gitattributes": File.regular(GIT_ATTRIBUTES)})
        return repository

    def commit(self, repository: Repository, branch: str, title: str, files: dict[str, File]) -> Commit:
        return repository.commit(branch, title, files, next(self._numbers))

    def find(self, kind: str, id: str, user: str | None) -> Repository:
        """A repository that the user may read: whether it is missing or another's secret is not told."""
        repository = self.repositories.get((kind, id))
        if repository is None or (repository.private and user != id.split("/")[0]):
            raise HubError(
                *((401, "Invalid username or password.") if user is None else (404, "Repository not found")),
                "RepoNotFound",
            )
        return repository

    def find_own(self, kind: str, id: str, user: str | None) -> Repository:
        """A repository that the user may write to."""
        repository = self.find(kind, id, user)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user != id.split("/")[0]:
            raise HubError(403, f"You don't have the rights to write to the repository {id}")
        return repository

    def content(self, file: File) -> bytes:
        return self.objects[file.sha256] if file.sha256 else file.content


def pointer(sha256: str, size: int) -> bytes:
    """What git keeps of a large file, https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
