"""The endpoints of the test Hub that huggingface_hub calls: accounts, repositories, references, commits, large files.

Each function takes the request and the groups of its route's pattern. https://huggingface.co/docs/hub/api
"""

import base64
import hashlib
import json
import re
from pathlib import PurePosixPath
from urllib.parse import parse_qs, quote

import yaml
from hub_http import Answer, Request
from hub_store import KINDS, Commit, File, HubError, Repository, Store, pointer

REPO = rf"/api/(?P<kind>{'|'.join(KINDS)})/(?P<id>[^/]+/[^/]+)"
FILES = r"/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
LARGE = 10 * 2**20  # bytes; binary files are large whatever their size
SDKS = ("gradio", "streamlit", "docker", "static")


class Api:
    """The Hub itself. Large files lie at another address, `storage`, to which no token must go.

    Args:
        part_size: bytes; larger files are uploaded in parts of this size.
        page_size: entries in a page of a tree.
    """

    def __init__(self, store: Store, part_size: int, page_size: int):
        self.store, self.part_size, self.page_size = store, part_size, page_size
        self.url = self.storage_url = ""
        self.routes = [
            ("GET", "/api/whoami-v2", self.whoami),
            ("POST", "/api/validate-yaml", self.validate_yaml),
            ("POST", "/api/repos/create", self.create),
            ("DELETE", "/api/repos/delete", self.delete),
            ("PUT", f"{REPO}/settings", self.settings),
            ("GET", f"{REPO}/auth-check", self.auth_check),
            ("GET", f"{REPO}/refs", self.refs),
            ("POST", rf"{REPO}/branch/(?P<name>.+)", self.create_branch),
            ("DELETE", rf"{REPO}/branch/(?P<name>.+)", self.delete_branch),
            ("POST", rf"{REPO}/tag/(?P<revision>.+)", self.create_tag),
            ("DELETE", rf"{REPO}/tag/(?P<revision>.+)", self.delete_tag),
            ("GET", rf"{REPO}/commits/(?P<revision>.+)", self.commits),
            ("GET", rf"{REPO}(?:/revision/(?P<revision>.+))?", self.info),
            ("GET", rf"{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", self.tree),
            ("POST", rf"{REPO}/paths-info/(?P<revision>[^/]+)", self.paths_info),
            ("POST", rf"{REPO}/preupload/(?P<revision>[^/]+)", self.preupload),
            ("POST", rf"{REPO}/commit/(?P<revision>[^/]+)", self.commit),
            ("POST", rf"{FILES}\.git/info/lfs/objects/batch", self.lfs_batch),
            ("POST", rf"{FILES}\.git/info/lfs/objects/verify", self.lfs_verify),
            ("POST", r"/api/complete_multipart/(?P<oid>\w+)", self.complete_multipart),
            ("HEAD", rf"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.resolve),
            ("GET", rf"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self.resolve),
        ]
        self.storage_routes = [
            ("PUT", r"/objects/(?P<oid>\w+)", self.put_object),
            ("PUT", r"/objects/(?P<oid>\w+)/(?P<part>\d+)", self.put_part),
            ("HEAD", r"/objects/(?P<oid>\w+)", self.get_object),
            ("GET", r"/objects/(?P<oid>\w+)", self.get_object),
        ]

    def user(self, request: Request) -> str | None:
        return self.store.user_of(request.headers.get("authorization"))

    def readable(self, request: Request, kind: str | None, id: str) -> Repository:
        return self.store.find(kind or "models", id, self.user(request))

    def writable(self, request: Request, kind: str | None, id: str) -> Repository:
        return self.store.find_own(kind or "models", id, self.user(request))

    # Accounts and repositories

    def whoami(self, request: Request) -> Answer:
        name = self.user(request)
        if name is None:
            raise HubError(401, "Invalid username or password.")
        return Answer.of(
            {
                "type": "user",
                "name": name,
                "fullname": name,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}},
            }
        )

    def validate_yaml(self, request: Request) -> Answer:
        """The rules for a card's metadata that can be told without the Hub's lists."""
        given = request.json()
        match = re.match(r"---\r?\n(.*?)\r?\n---", given["content"], re.DOTALL)
        try:
            metadata = yaml.safe_load(match[1]) if match else None
        except yaml.YAMLError as error:
            return Answer.of({"errors": [{"message": f"YAML Metadata Error: {error}"}], "warnings": []}, 400)
        if metadata is None:
            return Answer.of({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        errors = metadata_errors(metadata, given["repoType"])
        return Answer.of({"errors": [{"message": error} for error in errors], "warnings": []}, 400 if errors else 200)

    def create(self, request: Request) -> Answer:
        given, user = request.json(), self.user(request)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        kind, owner = f"{given.get('type', 'model')}s", given.get("organization") or user
        if owner != user:
            raise HubError(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{owner}"')
        id = f"{owner}/{given['name']}"
        if (kind, id) in self.store.repositories:
            raise HubError(409, f"You already created this {kind[:-1]} repo", url=self.page(kind, id))
        self.store.create(kind, id, given.get("visibility") == "private", given.get("sdk"))
        return Answer.of({"url": self.page(kind, id), "name": id, "id": id})

    def delete(self, request: Request) -> Answer:
        given = request.json()
        kind = f"{given.get('type', 'model')}s"
        id = f"{given.get('organization') or self.user(request)}/{given['name']}"
        self.writable(request, kind, id)
        del self.store.repositories[kind, id]
        return Answer()

    def settings(self, request: Request, kind: str, id: str) -> Answer:
        repository, given = self.writable(request, kind, id), request.json()
        if "visibility" in given:
            repository.private = given["visibility"] == "private"
        return Answer.of({"private": repository.private})

    def auth_check(self, request: Request, kind: str, id: str) -> Answer:
        self.readable(request, kind, id)
        return Answer.of({})

    def info(self, request: Request, kind: str, id: str, revision: str | None) -> Answer:
        repository = self.readable(request, kind, id)
        commit = repository.at(revision or "main")
        blobs = request.flag("blobs")
        siblings = [
            {"rfilename": path, **({"size": file.size, "blobId": file.oid, **lfs(file)} if blobs else {})}
            for path, file in sorted(commit.files.items())
        ]
        return Answer.of(
            {
                "_id": commit.oid[:24],
                "id": id,
                "modelId": id,
                "author": id.split("/")[0],
                "sha": commit.oid,
                "private": repository.private,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "createdAt": repository.history("main")[-1].date,
                "lastModified": commit.date,
                "siblings": siblings,
                **({"sdk": repository.sdk} if repository.sdk else {}),
            }
        )

    # References

    def refs(self, request: Request, kind: str, id: str) -> Answer:
        repository = self.readable(request, kind, id)
        return Answer.of(
            {
                "converts": [],
                "pullRequests": [],
                **{
                    group: [
                        {"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": oid} for name, oid in found.items()
                    ]
                    for group, ref, found in (
                        ("branches", "heads", repository.branches),
                        ("tags", "tags", repository.tags),
                    )
                },
            }
        )

    def create_branch(self, request: Request, kind: str, id: str, name: str) -> Answer:
        repository = self.writable(request, kind, id)
        if name in repository.branches:
            raise HubError(409, f"Reference already exists: refs/heads/{name}")
        repository.branches[name] = repository.at(request.json().get("startingPoint", "main")).oid
        return Answer.of({})

    def delete_branch(self, request: Request, kind: str, id: str, name: str) -> Answer:
        repository = self.writable(request, kind, id)
        repository.at(name)
        del repository.branches[name]
        return Answer()

    def create_tag(self, request: Request, kind: str, id: str, revision: str) -> Answer:
        repository, name = self.writable(request, kind, id), request.json()["tag"]
        if name in repository.tags:
            raise HubError(409, f"Tag reference exists already: {name}")
        repository.tags[name] = repository.at(revision).oid
        return Answer.of({})

    def delete_tag(self, request: Request, kind: str, id: str, revision: str) -> Answer:
        repository = self.writable(request, kind, id)
        repository.at(revision)
        del repository.tags[revision]
        return Answer()

    def commits(self, request: Request, kind: str, id: str, revision: str) -> Answer:
        return Answer.of(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": "",
                    "date": commit.date,
                    "authors": [{"user": id.split("/")[0]}],
                }
                for commit in self.readable(request, kind, id).history(revision)
            ]
        )

    # Files of a commit

    def tree(self, request: Request, kind: str, id: str, revision: str, path: str | None) -> Answer:
        commit = self.readable(request, kind, id).at(revision)
        folder = (path or "").strip("/")
        entries = self.entries(commit, folder, request.flag("recursive"), request.flag("expand"))
        if folder and not entries:
            raise HubError(404, f'{folder} does not exist on "{revision}"', "EntryNotFound")
        first = int(request.query.get("cursor", ["0"])[0])
        last = first + min(self.page_size, int(request.query.get("limit", [self.page_size])[0]))
        more = {}
        if last < len(entries):
            query = "&".join(f"{key}={quote(value)}" for key, (value, *_) in request.query.items() if key != "cursor")
            more["Link"] = f'<{self.url}{request.path}?{query}&cursor={last}>; rel="next"'
        return Answer.of(entries[first:last], **more)

    def paths_info(self, request: Request, kind: str, id: str, revision: str) -> Answer:
        commit, form = self.readable(request, kind, id).at(revision), parse_qs(request.body.decode())
        wanted = {path.strip("/") for path in form.get("paths", [])}
        expand = form.get("expand", ["false"])[0].lower() == "true"
        return Answer.of([entry for entry in self.entries(commit, "", True, expand) if entry["path"] in wanted])

    def entries(self, commit: Commit, folder: str, recursive: bool, expand: bool) -> list[dict]:
        """Files and folders below a folder, in the order of their paths."""
        last = {"lastCommit": {"id": commit.oid, "title": commit.title, "date": commit.date}} if expand else {}
        found = {}
        for path, file in commit.files.items():
            if folder and not path.startswith(f"{folder}/"):
                continue
            for parent in PurePosixPath(path).parents:
                if (name := parent.as_posix()) not in (".", folder) and len(name) > len(folder):
                    found[name] = {
                        "type": "directory",
                        "path": name,
                        "size": 0,
                        **last,
                        "oid": hashlib.sha1(f"{commit.oid} {name}".encode()).hexdigest(),
                    }
            found[path] = {"type": "file", "path": path, "size": file.size, "oid": file.oid, **lfs(file), **last}
        depth = len(folder.split("/")) if folder else 0
        return [entry for path, entry in sorted(found.items()) if recursive or path.count("/") == depth]

    def resolve(self, request: Request, kind: str | None, id: str, revision: str, path: str) -> Answer:
        commit = self.readable(request, kind, id).at(revision)
        if path not in commit.files:
            raise HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.oid})
        file = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"'}
        if file.sha256:
            return Answer(
                302,
                {
                    **headers,
                    "X-Linked-Etag": f'"{file.etag}"',
                    "X-Linked-Size": str(file.size),
                    "Location": self.signed(f"/objects/{file.sha256}"),
                },
            )
        return ranged(request, file.content, headers)

    # Commits

    def preupload(self, request: Request, kind: str, id: str, revision: str) -> Answer:
        files = self.writable(request, kind, id).at(revision).files
        return Answer.of(
            {
                "files": [
                    {
                        "path": given["path"],
                        "shouldIgnore": False,
                        "uploadMode": "lfs"
                        if given["size"] > LARGE or b"\0" in base64.b64decode(given["sample"])
                        else "regular",
                        "oid": files[given["path"]].etag if given["path"] in files else None,
                    }
                    for given in request.json()["files"]
                ]
            }
        )

    def commit(self, request: Request, kind: str, id: str, revision: str) -> Answer:
        repository = self.writable(request, kind, id)
        head, *operations = map(json.loads, request.body.splitlines())
        before = repository.at(revision)
        if head["value"].get("parentCommit", before.oid) != before.oid:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(before.files)
        for operation in operations:
            self.apply(operation["key"], operation["value"], files)
        commit = self.store.commit(repository, revision, head["value"]["summary"], files)
        return Answer.of(
            {
                "success": True,
                "commitOid": commit.oid,
                "hookOutput": "",
                "commitUrl": f"{self.page(kind, id)}/commit/{commit.oid}",
            }
        )

    def apply(self, key: str, value: dict, files: dict[str, File]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = File.regular(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.store.objects:
                raise HubError(400, f"LFS pointer {path} points to a file that does not exist")
            files[path] = File.large(value["oid"], len(self.store.objects[value["oid"]]))
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]
        else:
            raise HubError(400, f"unknown operation {key}")

    # Large files, https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md

    def lfs_batch(self, request: Request, kind: str | None, id: str) -> Answer:
        repository, given = self.writable(request, kind, id), request.json()
        if self.store.is_full:
            raise HubError(
                403,
                "Private repository storage limit reached, please upgrade your plan to increase your "
                "private storage limit.",
            )
        verify = {"href": f"{self.page(repository.kind, id)}.git/info/lfs/objects/verify"}
        objects = []
        for wanted in given["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            found = {"oid": oid, "size": size}
            if oid not in self.store.objects:
                found["actions"] = {"upload": self.upload_action(oid, size), "verify": verify}
            objects.append(found)
        return Answer.of({"transfer": "basic", "objects": objects}, **{"Content-Type": "application/vnd.git-lfs+json"})

    def upload_action(self, oid: str, size: int) -> dict:
        if size <= self.part_size:
            return {"href": self.signed(f"/objects/{oid}")}
        arrived = self.store.parts.setdefault(oid, {})
        arrived.clear()
        count = -(-size // self.part_size)
        parts = {f"{part:05d}": self.signed(f"/objects/{oid}/{part}") for part in range(1, count + 1)}
        return {
            "href": f"{self.url}/api/complete_multipart/{oid}",
            "header": {"chunk_size": str(self.part_size), **parts},
        }

    def complete_multipart(self, request: Request, oid: str) -> Answer:
        parts = self.store.parts.pop(oid)
        for part in request.json()["parts"]:
            if part["etag"] != md5(parts[part["partNumber"]]):
                raise HubError(400, f"part {part['partNumber']} is not what arrived")
        return self.keep(oid, b"".join(content for _, content in sorted(parts.items())))

    def lfs_verify(self, request: Request, kind: str | None, id: str) -> Answer:
        self.writable(request, kind, id)
        given = request.json()
        if len(self.store.objects.get(given["oid"], b"")) != given["size"]:
            raise HubError(404, "the object has not arrived")
        return Answer.of({})

    def put_object(self, request: Request, oid: str) -> Answer:
        self.check_signature(request)
        return self.keep(oid, request.body)

    def put_part(self, request: Request, oid: str, part: str) -> Answer:
        self.check_signature(request)
        self.store.parts[oid][int(part)] = request.body
        return Answer(200, {"ETag": md5(request.body)})

    def get_object(self, request: Request, oid: str) -> Answer:
        self.check_signature(request)
        return ranged(request, self.store.objects[oid], {"ETag": f'"{oid}"'})

    def keep(self, oid: str, content: bytes) -> Answer:
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, "the checksum differs")
        self.store.objects[oid] = content
        return Answer()

    def signed(self, path: str) -> str:
        """An address that anyone may use who has it, as S3 gives them."""
        return f"{self.storage_url}{path}?X-Amz-Signature={signature(path)}"

    def check_signature(self, request: Request) -> None:
        if request.query.get("X-Amz-Signature") != [signature(request.path)]:
            raise HubError(403, "SignatureDoesNotMatch")
        if "authorization" in request.headers:  # S3 refuses it, and it is none of its business
            raise HubError(400, "Only one auth mechanism allowed")

    def page(self, kind: str, id: str) -> str:
        return f"{self.url}/{'' if kind == 'models' else f'{kind}/'}{id}"


def metadata_errors(metadata: object, repo_type: str) -> list[str]:
    if not isinstance(metadata, dict):
        return ["metadata must be an object"]
    errors = []
    if "license" in metadata and not re.fullmatch(r"[a-z0-9.+-]+", str(metadata["license"])):
        errors.append(f'"license" must be one of the known identifiers, got {metadata["license"]!r}')
    if repo_type == "space" and metadata.get("sdk") not in SDKS:
        errors.append(f'"sdk" must be one of [{", ".join(SDKS)}]')
    for name in ("tags", "metrics", "datasets", "task_categories"):
        if name in metadata and not isinstance(metadata[name], (list, str)):
            errors.append(f'"{name}" must be an array')
    for base in (
        [metadata["base_model"]] if isinstance(metadata.get("base_model"), str) else metadata.get("base_model") or []
    ):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
            errors.append(f'"base_model" with value {base!r} is not valid. Use a model id from https://hf.co/models.')
    for model in metadata.get("model-index") or []:
        for result in model.get("results", ["none"]):
            missing = {"task", "dataset", "metrics"} - set(result)
            errors += [f'"model-index[0].results[0].{name}" is required' for name in sorted(missing)]
    return errors


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    """All of a file, or the range that is asked for."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
    if request.method == "HEAD":
        return Answer(200, headers, content)
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if match is None:
        return Answer(200, headers, content)
    first = int(match[1]) if match[1] else max(0, len(content) - int(match[2]))
    last = min(int(match[2]) if match[1] and match[2] else len(content) - 1, len(content) - 1)
    if first > last:
        raise HubError(416, "Requested Range Not Satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1])


def lfs(file: File) -> dict:
    return (
        {}
        if file.sha256 is None
        else {
            "lfs": {
                "oid": file.sha256,
                "sha256": file.sha256,
                "size": file.size,
                "pointerSize": len(pointer(file.sha256, file.size)),
            }
        }
    )


def signature(path: str) -> str:
    return hashlib.sha256(f"signed {path}".encode()).hexdigest()


def md5(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'
