"""The test Hub answers the unmodified client as the Hub does."""

import hashlib
import io
from pathlib import Path

import pytest
from hub_server import TOKEN, USER, HubServer
from huggingface_hub import CommitOperationAdd, HfApi, HfFileSystem, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

pytestmark = pytest.mark.unit

REPO = f"{USER}/thing"
LARGE = bytes(range(256)) * 2000  # four parts of the fixture's Hub
SMALL = b"\0" + LARGE[:1000]


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi()


@pytest.fixture
def filled(api) -> HfApi:
    api.create_repo(REPO)
    api.create_commit(
        REPO,
        [
            CommitOperationAdd("a.txt", b"one"),
            CommitOperationAdd("b/c.bin", SMALL),
            CommitOperationAdd("b/d/large.bin", LARGE),
        ],
        commit_message="three files",
    )
    return api


def test_who_one_is(api, hub):
    assert api.whoami()["name"] == USER
    for token, message in (("hf_wrong", "Invalid user token"), (TOKEN, "Invalid user token")):
        hub.expire()
        with pytest.raises(HfHubHTTPError, match=message) as error:
            api.whoami(token)
        assert error.value.response.status_code == 401


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_files_come_back_as_they_went(api, hub, tmp_path, kind):
    url = api.create_repo(REPO, repo_type=kind, space_sdk="static" if kind == "space" else None)
    assert (url.repo_id, url.repo_type) == (REPO, kind)
    assert api.create_repo(REPO, repo_type=kind, space_sdk="static" if kind == "space" else None, exist_ok=True) == url
    with pytest.raises(HfHubHTTPError, match="already created"):
        api.create_repo(REPO, repo_type=kind, space_sdk="static" if kind == "space" else None)
    contents = {"a.txt": b"text", "b/small.bin": SMALL, "b/large.bin": LARGE, "empty.txt": b""}
    commit = api.create_commit(
        REPO,
        [CommitOperationAdd(path, content) for path, content in contents.items()],
        commit_message="all",
        repo_type=kind,
    )
    assert hub.files(REPO, f"{kind}s") == dict(sorted(contents.items()))
    folder = snapshot_download(REPO, repo_type=kind, revision=commit.oid, cache_dir=tmp_path)
    for path, content in contents.items():
        assert (tmp_path / folder / path).read_bytes() == content
    assert len(hub.asked("PUT /objects/")) == 1 + 4  # one whole, one in parts
    assert not any(record.authorized for record in hub.records if " /objects/" in record.request)


def test_what_is_there_is_not_asked_for_again(filled, hub):
    before = len(hub.asked("PUT /objects/"))
    filled.create_commit(
        REPO, [CommitOperationAdd("other.bin", LARGE), CommitOperationAdd("a.txt", b"two")], commit_message="again"
    )
    assert len(hub.asked("PUT /objects/")) == before
    assert [commit.title for commit in filled.list_repo_commits(REPO)] == ["again", "three files", "initial commit"]


def test_tree_and_paths(filled, hub):
    entries = {entry.path: entry for entry in filled.list_repo_tree(REPO, recursive=True)}
    assert list(entries) == [".gitattributes", "a.txt", "b", "b/c.bin", "b/d", "b/d/large.bin"]
    assert entries["b/d/large.bin"].lfs.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert entries["b/d/large.bin"].size == len(LARGE) and entries["a.txt"].lfs is None
    assert [entry.path for entry in filled.list_repo_tree(REPO, "b")] == ["b/c.bin", "b/d"]
    assert [entry.path for entry in filled.get_paths_info(REPO, ["a.txt", "b", "none"])] == ["a.txt", "b"]
    assert filled.get_paths_info(REPO, "a.txt", expand=True)[0].last_commit.title == "three files"
    with pytest.raises(RemoteEntryNotFoundError):
        list(filled.list_repo_tree(REPO, "none"))
    assert [sibling.size for sibling in filled.model_info(REPO, files_metadata=True).siblings][1:] == [
        3,
        1001,
        len(LARGE),
    ]


def test_a_long_tree_comes_in_pages(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with HubServer(page_size=7) as hub:
        api = HfApi(endpoint=hub.url, token=TOKEN)
        api.create_repo(REPO)
        api.create_commit(
            REPO, [CommitOperationAdd(f"{i:02d} ä.txt", b"%d" % i) for i in range(20)], commit_message="many"
        )
        assert len(list(api.list_repo_tree(REPO))) == 21
        assert len(hub.asked("GET /api/models/tester/thing/tree")) == 3


def test_revisions(filled, hub, tmp_path):
    first = filled.model_info(REPO).sha
    filled.create_tag(REPO, tag="v1")
    filled.create_branch(REPO, branch="try/this", revision="v1")
    filled.upload_file(path_or_fileobj=b"changed", path_in_repo="a.txt", repo_id=REPO, revision="try/this")
    refs = filled.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": first}
    assert {ref.name for ref in refs.branches} == {"main", "try/this"}
    for revision, content in ((None, b"one"), (first, b"one"), ("v1", b"one"), ("try/this", b"changed")):
        file = hf_hub_download(REPO, "a.txt", revision=revision, cache_dir=tmp_path)
        assert Path(file).read_bytes() == content
    filled.delete_tag(REPO, tag="v1")
    filled.delete_branch(REPO, branch="try/this")
    with pytest.raises(RevisionNotFoundError):
        filled.model_info(REPO, revision="v1")
    with pytest.raises(HfHubHTTPError) as error:
        filled.create_commit(REPO, [CommitOperationAdd("x", b"x")], commit_message="late", parent_commit="a" * 40)
    assert error.value.response.status_code == 412


def test_parts_of_a_file_can_be_read(filled, hub):
    with HfFileSystem(endpoint=hub.url).open(f"{REPO}/b/d/large.bin", block_size=1000) as file:
        file.seek(5000)
        assert file.read(300) == LARGE[5000:5300]
        file.seek(-10, io.SEEK_END)
        assert file.read() == LARGE[-10:]
    with HfFileSystem(endpoint=hub.url).open(f"{REPO}/a.txt") as file:
        assert file.read() == b"one"


def test_private_repositories(api, hub, tmp_path):
    api.create_repo(REPO, private=True)
    assert api.model_info(REPO).private
    hub.store.tokens["hf_other"] = "other"
    for token, status in ((False, 401), ("hf_other", 404), ("hf_wrong", 401)):
        with pytest.raises(HfHubHTTPError) as error:
            api.model_info(REPO, token=token)
        assert error.value.response.status_code == status
        assert isinstance(error.value, RepositoryNotFoundError) == (token != "hf_wrong")
        with pytest.raises(HfHubHTTPError) as error:
            hf_hub_download(REPO, "a.txt", token=token, cache_dir=tmp_path)
        assert error.value.response.status_code == status
    api.update_repo_settings(REPO, private=False)
    assert not api.model_info(REPO, token=False).private
    for kind in ("other/thing", "other/new"):
        with pytest.raises(HfHubHTTPError) as error:
            api.create_repo(kind)
        assert error.value.response.status_code == 403
    api.delete_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info(REPO)


def test_a_missing_file_is_told_from_a_missing_repository(filled, hub, tmp_path):
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "none.txt", cache_dir=tmp_path)
    assert not filled.file_exists(REPO, "none.txt") and filled.file_exists(REPO, "a.txt")
    assert not filled.repo_exists(f"{USER}/none") and filled.revision_exists(REPO, "main")


@pytest.mark.parametrize(
    ("kind", "metadata", "wrong"),
    [
        ("model", "license: apache-2.0\nlibrary_name: transformers", None),
        ("model", "license: [", "YAML Metadata Error"),
        ("model", "license: My own", "license"),
        ("model", "base_model: /home/me/model", "base_model"),
        ("model", "model-index:\n- name: x\n  results:\n  - task: {type: x}", "dataset"),
        ("space", "title: x", "sdk"),
    ],
)
def test_metadata_are_checked(api, kind, metadata, wrong):
    api.create_repo(REPO, repo_type=kind, space_sdk="static" if kind == "space" else None)
    card = CommitOperationAdd("README.md", f"---\n{metadata}\n---\ntext\n".encode())
    if wrong is None:
        api.create_commit(REPO, [card], commit_message="card", repo_type=kind)
    else:
        with pytest.raises(ValueError, match=wrong):
            api.create_commit(REPO, [card], commit_message="card", repo_type=kind)


def test_failures_on_demand(filled, hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.fail("GET */tree/*", times=2, status=503)
    assert len(list(filled.list_repo_tree(REPO))) == 3
    hub.limit("GET */tree/*")
    assert len(list(filled.list_repo_tree(REPO))) == 3
    hub.drop("PUT /objects/*", after=300)
    filled.upload_file(path_or_fileobj=b"\0" * 500, path_in_repo="zeros.bin", repo_id=REPO)
    assert [(r.status, r.received) for r in hub.asked("PUT /objects/")][-2:] == [(0, 300), (200, 500)]
    hub.fill_disk()
    with pytest.raises(HfHubHTTPError, match="storage limit"):
        filled.upload_file(path_or_fileobj=b"\0" * 600, path_in_repo="zeros.bin", repo_id=REPO)
    hub.recover()
    hub.lose_answer("POST */commit/*")
    with pytest.raises(Exception, match="disconnected"):
        filled.upload_file(path_or_fileobj=b"here", path_in_repo="lost.txt", repo_id=REPO)
    assert hub.files(REPO)["lost.txt"] == b"here"
