"""Text files whose lines end in CRLF, as editors and checkouts on Windows write them, are read as with LF."""

import importlib
import json
import subprocess
from pathlib import Path

import pytest
from make_corpus import children_corpus, small_corpus
from paths import CONFIGS, ROOT
from tiny_recordings import recordings
from tiny_speech import rows

from dataset_scripts import JsonlManifest, SpeakerJson
from dataset_scripts.audio_folder import AudioFolder
from dataset_scripts.manifest_recordings import read_recordings
from hf_components.asr.transcripts import read_submission_format
from hf_components.correction.record import LINE_FORM, _read
from hf_components.moe.benchmark.sample import fixed_sample
from hf_components.publishing.hub_files import _metadata
from hf_components.runtime.arguments import check_words
from hf_components.runtime.records import read_record
from hf_components.scoring import read_transcripts
from hf_components.speech.sampling import Sampling
from hf_components.speech.splits import read_split
from hf_components.units.learning.phone_labels import read_phone_labels
from launchers import runpod

pytestmark = pytest.mark.unit

LINES = '{"utterance_id": "a", "orthographic_text": "one two"}\n{"utterance_id": "b", "orthographic_text": ""}\n'
PHONES = (
    '{"source_file": "x/a.wav", "start": 0, "end": 0.5, "phone": "a"}\n'
    '{"source_file": "x/a.wav", "start": 0.5, "end": 1, "phone": "b"}\n'
)
SPLIT = '{\n  "speakers": {\n    "train": ["a"],\n    "dev": ["b"]\n  }\n}\n'
SAMPLE = '{\n  "size": 2,\n  "ids": ["u1",\n  "u3"]\n}\n'
CARD = "---\nlicense: cc-by-4.0\ntags:\n- speech\n---\n\n# A title\n"
TEXTGRID = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0 \nxmax = 1 \ntiers? <exists> \nsize = 1 \n'
    'item []: \n    item [1]:\n        class = "IntervalTier" \n        name = "phones" \n        xmin = 0 \n'
    "        xmax = 1 \n        intervals: size = 2 \n        intervals [1]:\n            xmin = 0 \n"
    '            xmax = 0.5 \n            text = "a" \n        intervals [2]:\n            xmin = 0.5 \n'
    '            xmax = 1 \n            text = "b" \n'
)
SHORT_TEXTGRID = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n1\n2\n'
    '0\n0.5\n"a"\n0.5\n1\n"b"\n'
)


def phones(path: Path) -> dict:
    read = read_phone_labels(path, "phones")
    return {name: (one.starts.tolist(), one.ends.tolist(), one.names.tolist()) for name, one in read.items()}


def sampled(file: Path) -> list[str]:
    return fixed_sample(rows(5), file, Sampling(max_samples=2))["id"][:]


READERS = {
    "transcripts": (LINES, "t.jsonl", read_transcripts),
    "submission format": (LINES, "s.jsonl", read_submission_format),
    "phones of JSON lines": (PHONES, "p.jsonl", phones),
    "long TextGrid": (TEXTGRID, "a.TextGrid", lambda file: phones(file.parent)),
    "short TextGrid": (SHORT_TEXTGRID, "a.TextGrid", lambda file: phones(file.parent)),
    "split": (SPLIT, "splits.json", read_split),
    "card": (CARD, "README.md", lambda file: _metadata(file.parent)),
    "record": (SAMPLE, "r.json", lambda file: read_record(file, {"ids": [str]}, "")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_reads_the_same(tmp_path, name):
    text, place, read = READERS[name]
    found = []
    for end in ("\n", "\r\n"):
        file = tmp_path / ("lf" if end == "\n" else "crlf") / place
        file.parent.mkdir()
        file.write_bytes(text.replace("\n", end).encode())
        found.append(read(file))
    assert found[0] == found[1] and found[0]
    assert "\\r" not in repr(found[1])


def with_crlf(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for file in folder.rglob(pattern):
            content = file.read_bytes()
            assert b"\n" in content and b"\r" not in content
            file.write_bytes(content.replace(b"\n", b"\r\n"))


def test_a_fixed_sample(tmp_path):
    ids = rows(5)["id"]
    file = tmp_path / "sample.json"
    for end in ("\n", "\r\n"):
        file.write_bytes(json.dumps({"ids": [ids[3], ids[1]]}, indent=1).replace("\n", end).encode())
        assert sampled(file) == [ids[3], ids[1]]


def test_manifests(tmp_path):
    """The rows of all builders, and their rejections; JSON of a speaker, JSON lines, truth of recordings."""
    speakers = small_corpus(tmp_path / "speakers")
    children = children_corpus(tmp_path / "children")
    folder = recordings(tmp_path / "recordings")
    manifest = next(children.glob("*.jsonl"))

    def listings() -> list:
        builders = (
            SpeakerJson(data_dir=str(speakers)),
            JsonlManifest(manifest=str(manifest), stratify_by="none"),
            AudioFolder(data_dir=str(folder)),
        )
        found = [(builder.read_manifests().splits, builder.read_manifests().rejected) for builder in builders]
        return [*found, read_recordings(str(manifest), None, {}).ids]

    before = repr(listings())
    with_crlf(tmp_path, "*.json", "*.jsonl")
    assert repr(listings()) == before and "\\r" not in before


@pytest.mark.parametrize(
    "config", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_configurations(config, tmp_path):
    recipe = importlib.import_module(f"recipes.{config.parent.name}")
    kinds = recipe.ARGUMENTS if "ARGUMENTS" in vars(recipe) else (recipe.Arguments,)
    copy = tmp_path / "config.yaml"
    copy.write_bytes(b"\xef\xbb\xbf" + config.read_bytes().replace(b"\n", b"\r\n"))
    assert check_words(kinds, [f"--config={copy}"]) | {"config": None} == check_words(
        kinds, [f"--config={config}"]
    ) | {"config": None}


def test_a_configuration_in_json(tmp_path):
    recipe = importlib.import_module("recipes.extract_embeddings")
    file = tmp_path / "config.json"
    file.write_bytes(b'\xef\xbb\xbf{\r\n  "layer": 3,\r\n  "pooling": "flatten"\r\n}\r\n')
    values = check_words((recipe.Arguments,), [f"--config={file}"])
    assert (values["layer"], values["pooling"]) == (3, "flatten")


def test_corrections_are_not_asked_for_again(tmp_path):
    row = {"id": "a", "heard": "x", "alternatives": [], "shown": ["x"], "proposed": "y", "text": "y", "accepted": True}
    row |= {"reason": "corrected", "seconds": 0.5, "asked": "settings"}
    assert row.keys() == {name.removesuffix("?") for name in LINE_FORM}
    found = []
    for end in ("\n", "\r\n"):
        file = tmp_path / "corrections.jsonl"
        file.write_bytes((json.dumps(row) + end).encode() * 2)
        found.append(_read(file, {"settings"}))
    assert found[0] == found[1] and len(found[0]) == 1


def test_the_settings_of_runpod(tmp_path, monkeypatch):
    (tmp_path / "key.pub").touch()
    text = f"# a comment\nRUNPOD_API_KEY=k\nNETWORK_VOLUME_ID=v # here\nSSH_KEY_PATH={tmp_path}/key\nGPU_TYPE=A100\n"
    found = []
    for end in ("\n", "\r\n"):
        file = tmp_path / ".runpod.env"
        file.write_bytes(text.replace("\n", end).encode())
        file.chmod(0o600)
        monkeypatch.setattr(runpod, "SETTINGS", file)
        found.append(runpod.read_settings())
    assert found[0] == found[1] and found[0]["NETWORK_VOLUME_ID"] == "v"


def test_scripts_keep_lf_in_every_checkout():
    """A shell does not run a script with CRLF, and `make` fails in its recipes."""
    if not (ROOT / ".git").exists():
        pytest.skip("the attributes are of git, and this is no checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [
        name
        for name in listed.split("\0")
        if name.endswith(".sh")
        or name in (".ci/run", "Makefile")
        or (name and (ROOT / name).is_file() and (ROOT / name).read_bytes()[:2] == b"#!")
    ]
    assert {".ci/run", "Makefile", "launchers/launch.sh", "launchers/run.sh"} <= set(files)
    asked = ["git", "check-attr", "eol", "--", *files]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == len(files) and all(line.endswith(": eol: lf") for line in said), said
