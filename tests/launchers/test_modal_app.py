"""Modal without its servers: the recipe by `.local()`, folders to and from a volume that behaves as theirs."""

import importlib
import io
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from launchers.commands import UserError

modal = pytest.importorskip("modal", reason="modal is not installed; make setup")
modal_app = importlib.import_module("launchers.modal_app")
FileEntry, FileEntryType = modal_app.FileEntry, modal_app.FileEntryType


class Volume:
    """The part of `modal.Volume` that is used. A batch arrives when it is complete; `breaks_at` is the one that
    fails."""

    def __init__(self, breaks_at: int | None = None):
        self.files: dict[str, tuple[bytes, int]] = {}
        self.batches: list[list[str]] = []
        self.breaks_at = breaks_at

    def listdir(self, path: str, *, recursive: bool = False) -> list[FileEntry]:
        assert (path, recursive) == ("/", True)
        folders = {parent.as_posix() for name in self.files for parent in Path(name).parents} - {"."}
        return [
            *(FileEntry(name, FileEntryType.DIRECTORY, 0, 0) for name in folders),
            *(FileEntry(name, FileEntryType.FILE, when, len(content)) for name, (content, when) in self.files.items()),
        ]

    @contextmanager
    def batch_upload(self, force: bool = False):
        assert force  # or a changed file would be refused
        if len(self.batches) == self.breaks_at:
            raise ConnectionError
        batch = Batch()
        yield batch
        self.batches.append(sorted(batch.files))
        self.files |= {name: (content, int(time.time())) for name, content in batch.files.items()}

    def read_file_into_fileobj(self, path: str, file: io.IOBase) -> int:
        return file.write(self.files[path][0])


class Batch:
    def __init__(self):
        self.files: dict[str, bytes] = {}

    def put_file(self, local: Path, remote: str) -> None:
        self.files[remote.lstrip("/")] = local.read_bytes()


def test_the_fake_volume_has_the_interface_of_the_true_one():
    for name in ("listdir", "batch_upload", "read_file_into_fileobj"):
        assert callable(getattr(modal.Volume, name))


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    for index in range(230):
        path = folder / f"speaker_{index % 3}" / f"{index:03}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (index + 1))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.unit
def test_an_upload_continues_where_it_was_interrupted(corpus):
    volume = Volume(breaks_at=1)
    with pytest.raises(ConnectionError):
        modal_app.upload_folder(volume, corpus, "speech/raw")
    assert [len(batch) for batch in volume.batches] == [100]
    volume.breaks_at = None
    assert modal_app.upload_folder(volume, corpus, "speech/raw") == (130, 100)
    assert [len(batch) for batch in volume.batches] == [100, 100, 30]
    assert len(volume.files) == 230  # none twice, none lost
    assert {name.removeprefix("speech/raw/"): content for name, (content, _) in volume.files.items()} == contents(
        corpus
    )
    assert modal_app.upload_folder(volume, corpus, "/speech/raw/") == (0, 230)


@pytest.mark.unit
def test_a_file_that_changed_is_uploaded_again(corpus):
    volume, changed = Volume(), corpus / "speaker_0" / "000.wav"
    modal_app.upload_folder(volume, corpus, "raw")
    changed.write_bytes(b"longer than before")
    same_size = corpus / "speaker_1" / "001.wav"
    same_size.write_bytes(b"yy")
    os.utime(same_size, (time.time() + 5, time.time() + 5))
    assert modal_app.upload_folder(volume, corpus, "raw") == (2, 228)
    assert volume.files["raw/speaker_0/000.wav"][0] == b"longer than before"
    assert volume.files["raw/speaker_1/001.wav"][0] == b"yy"


@pytest.mark.unit
def test_a_download_is_the_upload_and_continues(corpus, tmp_path):
    volume = Volume()
    modal_app.upload_folder(volume, corpus, "runs/a")
    modal_app.upload_folder(volume, corpus / "speaker_0", "runs/another")
    assert modal_app.download_folder(volume, "runs/a", tmp_path / "got") == (230, 0)
    (tmp_path / "got" / "speaker_2" / "002.wav").write_bytes(b"h")  # half of it
    (tmp_path / "got" / "speaker_1" / "001.wav").unlink()
    assert modal_app.download_folder(volume, "runs/a", tmp_path / "got") == (2, 228)
    assert contents(tmp_path / "got") == contents(corpus)
    with pytest.raises(UserError, match="no folder runs/b"):
        modal_app.download_folder(volume, "runs/b", tmp_path / "got")


@pytest.mark.unit
def test_the_command_line_moves_folders(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(modal_app, "volume", Volume())
    assert modal_app.main(["upload", str(corpus), "raw"]) == 0
    assert "230 files uploaded, 0 were there" in capsys.readouterr().out
    assert modal_app.main(["ls", "raw/speaker_0"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 77 and listed[0].split() == ["1", "000.wav"]
    assert modal_app.main(["download", "raw", str(tmp_path / "got")]) == 0
    assert "230 files downloaded" in capsys.readouterr().out


@pytest.mark.unit
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["upload", "x"], "upload takes 2 folders, got 1"),
        (["upload", "/nowhere", "x"], "a folder of this machine"),
        (["ls"], "ls takes 1 folder, got 0"),
        (["--timeout", "soon", "learn_units"], "90m"),
        (["learn_unit"], "did you mean learn_units"),
    ],
)
def test_mistakes_are_told_by_name(argv, message):
    with pytest.raises(UserError, match=message):
        modal_app.main(argv)


class Remote:
    """Where functions run: keeps what is asked for, and gives or raises `answer`."""

    def __init__(self):
        self.asked, self.answer = [], 0

    @contextmanager
    def run(self, **how):
        self.asked.append(how)
        yield

    def with_options(self, **options) -> "Remote":
        self.asked.append(options)
        return self

    def spawn(self, *words) -> "Remote":
        self.asked.append(words)
        return self

    remote = spawn

    def get(self) -> int:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def remote(monkeypatch) -> Remote:
    found = Remote()
    monkeypatch.setattr(modal_app.app, "run", found.run)
    monkeypatch.setattr(modal_app.run_recipe, "with_options", found.with_options)
    return found


@pytest.mark.unit
@pytest.mark.parametrize(
    ("answer", "code"), [(0, 0), (2, 2), (modal.exception.FunctionTimeoutError(), 124), (KeyboardInterrupt(), 130)]
)
def test_a_run_is_detached_and_its_ending_told_by_exit_code(remote, capsys, answer, code):
    remote.answer = answer
    words = ["learn_units", "--output_dir", "/data/runs/u"]
    assert modal_app.main(["--gpu", "H100:2", "--timeout", "2h", *words]) == code
    assert remote.asked == [{"detach": True}, {"gpu": "H100:2", "timeout": 7200}, ("learn_units", words[1:])]
    assert "are lost" not in capsys.readouterr().err
    modal_app.main(["learn_units", "--output_dir", "runs/u"])
    assert "are lost" in capsys.readouterr().err


@pytest.mark.unit
def test_dry_run_prints_what_python_runs(remote, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "ThisMustNotBePrinted")
    words = ["--config", "recipes/configs/learn_units/quick.yaml", "--corpus", "/data/it's here"]
    assert modal_app.main(["--dry_run", "--gpu", "L4", "learn_units", *words]) == 0
    said = capsys.readouterr().out
    assert "hf_" not in said.replace("hf_components", "")
    assert not remote.asked
    shell = f'python() {{ printf %s "$2"; }}\n{said}'
    code = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    exec(code.stdout, {})
    assert remote.asked == [{"detach": True}, {"gpu": "L4", "timeout": 3600}, ("learn_units", words)]


@pytest.mark.unit
def test_dry_run_of_the_volume_prints_modals_own_commands(corpus, capsys):
    for argv, line in (
        (["ls", "runs"], "modal volume ls underheard runs"),
        (["upload", str(corpus), "raw"], f"modal volume put underheard {corpus} raw"),
        (["download", "raw", "here"], "modal volume get underheard raw here"),
    ):
        assert modal_app.main(["--dry_run", *argv]) == 0
        assert capsys.readouterr().out.strip() == line


@pytest.mark.slow
def test_the_function_runs_a_recipe_locally(tmp_path):
    """What Modal calls in its container, on the demo corpus' quick configuration."""
    assert (
        modal_app.run_recipe.local(
            "make_demo_corpus",
            ["--config", "recipes/configs/make_demo_corpus/quick.yaml", "--output_dir", str(tmp_path / "demo")],
        )
        == 0
    )
    assert (tmp_path / "demo" / "stage.json").is_file()
    assert modal_app.run_recipe.local("make_demo_corpus", ["--no_such_flag"]) != 0


@pytest.mark.slow
def test_it_is_a_program():
    ran = subprocess.run(
        [sys.executable, "launchers/modal_app.py", "--dry_run", "ls", "runs"],
        capture_output=True,
        text=True,
        cwd=modal_app.ROOT,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "modal volume ls underheard runs\n")


@pytest.mark.unit
@pytest.mark.parametrize("words", [["ls", "runs"], ["download", "runs", "here"], ["transcribe", "--model=a/b"]])
def test_without_a_token_it_says_how_to_get_one(monkeypatch, words):
    def refuse(*args, **options):
        raise modal.exception.AuthError("Token missing. Could not authenticate client.")

    for name in ("files_on", "launch"):
        monkeypatch.setattr(modal_app, name, refuse)
    with pytest.raises(UserError, match="Token missing.*modal setup"):
        modal_app.main(words)
