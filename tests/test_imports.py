"""Imports point downward, layer by layer, and take from another package what its `__init__` exports; closed folders
import nothing else of ours.

Sound files and pickles are opened in one place each.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import PurePosixPath

import pytest
from paths import ROOT
from transformers.dynamic_module_utils import get_relative_import_files

pytestmark = pytest.mark.unit

OURS = {"recipes", "dataset_scripts", "hf_components", "tests", "benchmarks"}
RECIPES = {path.stem for path in ROOT.glob("recipes/*.py")} - {"__init__"}
CLOSED = re.compile(r"hf_components/(whisper|acoustic_units|unit_hifigan|submission|decoding|metrics/[^/]+)/")

# The layers, the lowest first. A set names packages of hf_components, a string a folder beside it.
LAYERS = (
    {"whisper", "acoustic_units", "unit_hifigan", "metrics", "submission", "decoding"},
    {"runtime"},
    {"reporting"},
    {"speech"},
    {"scoring"},
    {"checkpoints"},
    {"asr"},
    {"training"},
    {"publishing"},
    {"moe", "children", "units", "correction", "voices"},
    "dataset_scripts",
    "recipes",
)

MAY_OPEN_SOUND = {
    "hf_components/decoding/reading.py",
    "hf_components/decoding/ffmpeg.py",
    "hf_components/decoding/sndfile.py",
    "hf_components/submission/main.py",
}  # the latter runs without the rest of us
MAY_WRITE_SOUND = {
    "hf_components/speech/audio.py",
    "dataset_scripts/demo_speakers.py",
    "dataset_scripts/demo_recordings.py",
}
SOUND_LIBRARIES = {
    "soundfile",
    "av",
    "torchaudio",
    "librosa",
    "torchcodec",
    "audioread",
    "pydub",
    "wave",
    "scipy.io.wavfile",
}
SOUND_FUNCTIONS = {"load_audio", "ffmpeg_read"}  # of transformers and whisper

MAY_UNPICKLE = {
    "hf_components/training/trainer.py",  # optimizer and scheduler state of training checkpoints
    "hf_components/units/resynthesis/speaker_encoder.py",  # one file in a package, whose digest is checked first
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@cache
def imported(path: str, source: str) -> list[tuple[int, str, bool]]:
    """`(line, dotted name, is relative)` of each import anywhere in `source`, relative ones made absolute.

    `from a import b` yields `a.b`: whether b is a module or a name in one, its prefix tells.
    """
    return list(_imports(path, source))


def _imports(path: str, source: str) -> Iterator[tuple[int, str, bool]]:
    folder = PurePosixPath(path).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(folder[: len(folder) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((node.lineno, f"{module}.{alias.name}", bool(node.level)) for alias in node.names)
        elif isinstance(node, ast.Call) and _callee(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value, False


def place(name: str) -> tuple[str, ...]:
    """The package that a module or file of ours belongs to, as parts of a path; a recipe is a package of its own.

    >>> place("hf_components/moe/clustering/density.py"), place("hf_components.asr.Transcriber")
    (("hf_components", "moe"), ("hf_components", "asr"))
    """
    parts = tuple(re.split(r"[./]", name.removesuffix(".py")))
    return parts[:2] if parts[0] in ("hf_components", "recipes") else parts[:1]


def layer(package: tuple[str, ...]) -> int:
    """Number of the layer of a package; imports go to a lower one."""
    if package[0] != "hf_components":
        return LAYERS.index(package[0])
    found = [number for number, names in enumerate(LAYERS) if not isinstance(names, str) and package[-1] in names]
    return found[0] if found else len(LAYERS)  # a package without a layer lies above all others


def directions(path: str, source: str) -> list[str]:
    """Imports of our own modules that the order of the layers forbids."""
    found = []
    closed, here = CLOSED.match(path), place(path)
    for line, name, relative in imported(path, source):
        if name.split(".")[0] in RECIPES:  # a launched recipe finds its neighbours without the folder's name
            name = f"recipes.{name}"
        if (name.split(".")[0] not in OURS and not (closed and relative)) or name == "hf_components.__version__":
            continue
        where = f"{path}:{line} imports {name}: "
        if closed:
            if not relative or not f"{name.replace('.', '/')}/".startswith(closed.group()):
                found.append(
                    where + f"{closed.group()} is copied to the Hub alone; import siblings only, as `from .x`"
                )
            continue
        package = place(name)
        if package[0] in ("tests", "benchmarks"):
            found.append(where + "nothing imports tests or benchmarks")
        elif here[0] == package[0] == "recipes":
            step = (name.split(".") + [""])[1]
            if (here[-1], step) == (
                "finetune_whisper",
                "finetune_asr",
            ):  # the same recipe, with its own configurations
                continue
            repeats = here[-1] == "cross_validate"  # a pipeline, fold by fold
            if repeats != _is_pipeline(step) or not (repeats or _is_pipeline(here[-1])):
                found.append(where + "only a pipeline imports recipes, and only steps")
        elif package != here and layer(package) >= layer(here):
            found.append(where + f"{'.'.join(package)} is not in a layer below {'.'.join(here)}")
    return found


def interfaces(path: str, source: str) -> list[str]:
    """Imports from inside another package, past what its `__init__` exports."""
    found = []
    for line, name, relative in imported(path, source):
        parts = name.split(".")
        if relative or parts[0] != "hf_components" or len(parts) < 3 or place(name) == place(path):
            continue
        if CLOSED.match(name.replace(".", "/") + "/"):  # whose `__init__` names what the Hub needs
            continue
        package = ".".join(parts[:-1])
        if not (ROOT / package.replace(".", "/") / "__init__.py").is_file():
            exported = f"`from {package_of(parts)}`"
            found.append(f"{path}:{line} imports {name}: take what the package exports, {exported}")
    return found


def package_of(parts: list[str]) -> str:
    """The innermost package of a dotted name."""
    for end in range(len(parts) - 1, 0, -1):
        if (ROOT / "/".join(parts[:end]) / "__init__.py").is_file():
            return ".".join(parts[:end])
    return parts[0]


def sounds(path: str, source: str) -> list[str]:
    """Imports with which a file could open a sound file."""
    if path in MAY_OPEN_SOUND:
        return []
    found = []
    for line, name, relative in imported(path, source):
        foreign = not relative and name.split(".")[0] not in OURS
        library = foreign and _inside(name, SOUND_LIBRARIES) and name != "torchaudio.functional.forced_align"
        function = foreign and name.split(".")[-1] in SOUND_FUNCTIONS
        if function or (library and not (path in MAY_WRITE_SOUND and name.split(".")[0] == "soundfile")):
            found.append(f"{path}:{line} imports {name}: sound files are opened in {', '.join(MAY_OPEN_SOUND)} only")
    return found


def pickles(path: str, source: str) -> list[str]:
    """Ways to read or write a pickle."""
    if path in MAY_UNPICKLE:
        return []
    found = [
        f"{path}:{line} imports {name}"
        for line, name, relative in imported(path, source)
        if not relative
        and (_inside(name, PICKLES) or name in ("torch.load", "torch.save"))
        and name != "pickle.UnpicklingError"  # to say that a pickle was refused
    ]
    tree = ast.parse(source)
    torch_names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "torch"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("load", "save") and _is_name(node.value, torch_names):
            found.append(f"{path}:{node.lineno} uses torch.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_false(node.value):
            found.append(f"{path}:{node.value.lineno} allows pickle")
    return [f"{line}: learned things are safetensors, JSON or Parquet" for line in found]


def _inside(name: str, modules: set[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _is_pipeline(stem: str) -> bool:
    return re.fullmatch(r"run_\w+_pipeline", stem) is not None


def _is_name(node: ast.expr, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _callee(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


OTHERS = [
    path.relative_to(ROOT).as_posix()
    for name in ("spaces", "benchmarks", "launchers", "tests")
    for path in (ROOT / name).rglob("*.py")
]
FOR_USERS = {"Transcript"}  # what a user of the package needs, and we do not

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("recipes", "dataset_scripts", "hf_components")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("rule", [directions, interfaces, sounds, pickles])
@pytest.mark.parametrize("path", FILES)
def test_file_keeps_the_rule(rule, path):
    found = rule(path, (ROOT / path).read_text())
    assert not found, "\n".join(found)


def test_there_is_something_to_check():
    assert {"hf_components/speech/audio.py", "hf_components/runtime/stages.py"} <= set(FILES)
    assert any(CLOSED.match(path) for path in FILES)


def test_every_package_has_its_layer_and_the_root_holds_nothing_else():
    entries = {path.name for path in (ROOT / "hf_components").iterdir() if path.name != "__pycache__"}
    assert entries == {"__init__.py"}.union(*(names for names in LAYERS if not isinstance(names, str)))


@pytest.mark.parametrize("file", sorted(ROOT.glob("hf_components/*/configuration_*.py")), ids=lambda file: file.stem)
def test_a_configuration_names_the_code_of_its_model(file):
    """transformers takes two local checkpoints of one folder name for one if these files are the same."""
    model = file.with_name(file.name.replace("configuration_", "modeling_"))
    assert str(model) in get_relative_import_files(file)


@pytest.fixture(scope="module")
def takers() -> dict[tuple[str, str], set[str]]:
    """The files that take a name from a package, by package and name."""
    found = defaultdict(set)
    for path in (*FILES, *OTHERS):
        for _, dotted, _ in imported(path, (ROOT / path).read_text()):
            package, _, name = dotted.rpartition(".")
            found[package, name].add(path)
    return found


@pytest.mark.parametrize("init", [path for path in FILES if path.endswith("/__init__.py") and not CLOSED.match(path)])
def test_a_package_exports_what_others_use_and_no_more(init, takers):
    package = init.removesuffix("/__init__.py").replace("/", ".")
    given = {name.split(".")[-1] for _, name, _ in imported(init, (ROOT / init).read_text())}
    used = {name for (taken_from, name), paths in takers.items() if taken_from == package and paths != {init}}
    assert given - used <= FOR_USERS | sys.stdlib_module_names  # which a face uses, and does not give


MOE = "hf_components/whisper/modeling_moe_whisper.py"


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (directions, "hf_components/runtime/stages.py", "import dataset_scripts"),
        (directions, "hf_components/runtime/stages.py", "from dataset_scripts.speaker_json import SpeakerJson"),
        (directions, "hf_components/runtime/stages.py", "from recipes import prepare_corpus"),
        (directions, "hf_components/runtime/stages.py", "def f():\n    import recipes.prepare_corpus"),
        (directions, "hf_components/runtime/stages.py", "import importlib\nimportlib.import_module('recipes.x')"),
        (directions, "hf_components/runtime/stages.py", "from tests.conftest import ROOT"),
        (directions, "hf_components/runtime/stages.py", "from ..recipes import x"),
        (directions, "hf_components/training/trainer.py", "from dataset_scripts import SpeakerJson"),
        (directions, "hf_components/training/trainer.py", "if True:\n    from recipes.x import y"),
        (directions, "dataset_scripts/speaker_json.py", "from recipes.prepare_corpus import main"),
        (directions, "dataset_scripts/speaker_json.py", "import benchmarks.timing"),
        (directions, "hf_components/runtime/stages.py", "from hf_components.speech import decode"),
        (directions, "hf_components/speech/corpus.py", "from hf_components.scoring import score"),
        (directions, "hf_components/scoring/comparison.py", "from hf_components.publishing import percent"),
        (directions, "hf_components/checkpoints/soups.py", "from hf_components.training import SpeechTrainer"),
        (directions, "hf_components/training/trainer.py", "from hf_components.moe import MoeTrainer"),
        (directions, "hf_components/moe/trainer.py", "from hf_components.units import UnitTable"),
        (directions, "hf_components/units/table.py", "from hf_components.correction.finetuning import improve"),
        (directions, "hf_components/moe/trainer.py", "from dataset_scripts import SpeakerJson"),
        (interfaces, "recipes/train_x.py", "from hf_components.speech.audio import decode"),
        (interfaces, "dataset_scripts/speaker_json.py", "from hf_components.runtime.errors import UserError"),
        (interfaces, "hf_components/training/trainer.py", "from hf_components.asr.families import family_of"),
        (interfaces, "recipes/train_x.py", "from hf_components.moe.clustering.density import x"),
        (directions, "recipes/train_x.py", "from recipes.import_whisper import main"),
        (directions, "recipes/train_x.py", "from recipes import import_whisper"),
        (directions, "recipes/train_x.py", "from . import import_whisper"),
        (directions, "recipes/train_x.py", "import import_whisper"),
        (directions, "recipes/run_all_pipeline.py", "from recipes import run_moe_pipeline"),
        (directions, MOE, "from hf_components.runtime.errors import UserError"),
        (directions, MOE, "from hf_components.whisper.routed_lora import RoutedLinear"),
        (directions, MOE, "from ..errors import UserError"),
        (directions, MOE, "from .. import errors"),
        (directions, MOE, "from ..whisper_wer import x"),
        (directions, MOE, "def f():\n    from dataset_scripts import SpeakerJson"),
        (directions, "hf_components/metrics/whisper_wer/whisper_wer.py", "from hf_components.metrics.other import x"),
        (directions, "hf_components/metrics/whisper_wer/whisper_wer.py", "from ..other import x"),
        (directions, "hf_components/acoustic_units/modeling.py", "from ..unit_hifigan import x"),
        (sounds, "recipes/train_x.py", "import soundfile as sf"),
        (sounds, "dataset_scripts/speaker_json.py", "from soundfile import read"),
        (sounds, "dataset_scripts/speaker_json.py", "def f():\n    import torchaudio.functional as F"),
        (sounds, "hf_components/runtime/stages.py", "import librosa"),
        (sounds, "hf_components/runtime/stages.py", "from scipy.io import wavfile"),
        (sounds, "hf_components/runtime/stages.py", "from torchcodec.decoders import AudioDecoder"),
        (sounds, "hf_components/runtime/stages.py", "from transformers.audio_utils import load_audio"),
        (sounds, "dataset_scripts/demo_speakers.py", "import torchaudio"),
        (sounds, MOE, "import wave"),
        (pickles, "hf_components/runtime/stages.py", "import pickle"),
        (pickles, "hf_components/runtime/stages.py", "from joblib import dump"),
        (pickles, "recipes/train_x.py", "def f():\n    import dill"),
        (pickles, "recipes/train_x.py", "import torch\ntorch.load('x')"),
        (pickles, "recipes/train_x.py", "import torch as t\nt.save({}, 'x')"),
        (pickles, "recipes/train_x.py", "from torch import load"),
        (pickles, "recipes/train_x.py", "import numpy as np\nnp.load('x', allow_pickle=True)"),
    ],
)
def test_rule_finds_what_it_forbids(rule, path, source):
    found = rule(path, source)
    assert found
    assert found[0].startswith(f"{path}:")


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (
            directions,
            "recipes/train_x.py",
            "from hf_components.whisper import x\nfrom dataset_scripts import SpeakerJson",
        ),
        (directions, "recipes/run_all_pipeline.py", "from recipes import import_whisper\nimport import_whisper"),
        (
            directions,
            "dataset_scripts/speaker_json.py",
            "from hf_components.speech import decode\nfrom .transcripts import x",
        ),
        (
            directions,
            "hf_components/scoring/error_rates.py",
            "from hf_components.metrics.whisper_wer.bootstrap import x",
        ),
        (directions, "hf_components/training/trainer.py", "from ..whisper import x\nfrom .collators import y"),
        (directions, "hf_components/moe/merging.py", "from hf_components.moe.benchmark.rows import score_rows"),
        (directions, "hf_components/runtime/stages.py", "from hf_components import __version__"),
        (interfaces, "hf_components/moe/merging.py", "from hf_components.moe.benchmark.rows import score_rows"),
        (interfaces, "recipes/train_x.py", "from hf_components.moe.benchmark import score_rows"),
        (interfaces, "recipes/train_x.py", "from hf_components.whisper.audio_context import x"),
        (directions, MOE, "import torch\nfrom .routed_lora import RoutedLinear\nfrom . import adapters"),
        (sounds, "hf_components/decoding/sndfile.py", "import soundfile"),
        (sounds, "dataset_scripts/demo_speakers.py", "import soundfile"),
        (sounds, "recipes/train_x.py", "from hf_components.speech import load_audio"),
        (pickles, "hf_components/training/trainer.py", "import torch\ntorch.load('x')"),
        (pickles, "recipes/train_x.py", "import numpy as np\nnp.load('x', allow_pickle=False)\nnp.save('x', 1)"),
    ],
)
def test_rule_lets_pass_what_it_allows(rule, path, source):
    assert rule(path, source) == []
