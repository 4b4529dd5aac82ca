"""Private methods of transformers are overridden and called in the files that say so, and nowhere else."""

import ast
import inspect

import pytest
import torch
import transformers
from paths import ROOT

from hf_components.whisper import hooks

pytestmark = pytest.mark.unit

MODELS = (
    transformers.WhisperForConditionalGeneration,
    transformers.WhisperModel,
    transformers.Wav2Vec2ForCTC,
    transformers.ParakeetForCTC,
)
PRIVATE = {
    name
    for model in MODELS
    for name, value in inspect.getmembers(model, callable)
    if name.startswith("_") and not name.startswith("__") and not hasattr(torch.nn.Module, name)
} | {"_reorder_cache"}
FOR_SUBCLASSES = {"_init_weights"}  # meant to be overridden: every model of transformers does
TOUCH = {
    "hf_components/whisper/hooks.py",
    "hf_components/asr/output_frames.py",
    "hf_components/submission/main.py",  # which must run alone
}
OWN = {"hf_components/whisper/modeling_whisper_ctc.py"}  # a model that has the methods which others are asked for


def touched(path: str, source: str) -> set[str]:
    """Names of private methods of transformers that a source file uses.

    Of another object anywhere; in a package that is models, also those that a class defines, or uses of its own.
    """
    is_models = path.startswith("hf_components/whisper/")
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and (is_models or ast.unparse(node.value) not in ("self", "cls")):
            found.add(node.attr)
        elif isinstance(node, ast.FunctionDef) and is_models:
            found.add(node.name)
    return found & PRIVATE - FOR_SUBCLASSES


FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_components").rglob("*.py"))


@pytest.mark.parametrize("path", [path for path in FILES if path not in TOUCH | OWN])
def test_no_other_file_touches_a_private_method(path):
    assert touched(path, (ROOT / path).read_text()) == set()


@pytest.mark.parametrize("path", sorted(TOUCH))
def test_the_files_that_are_named_do(path):
    assert touched(path, (ROOT / path).read_text())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("hf_components/whisper/x.py", "class A:\n    def _beam_search(self): ..."),
        ("hf_components/whisper/x.py", "self._mask_input_features(x)"),
        ("hf_components/asr/x.py", "model._get_feat_extract_output_lengths(x)"),
    ],
)
def test_a_touch_is_found(path, source):
    assert touched(path, source)


def test_every_override_is_checked_when_the_package_is_imported():
    """All but `_reorder_cache`, which beam search calls if there is one."""
    overridden = {name for mixin in (hooks.DynamicContextHooks, hooks.MoeHooks) for name in vars(mixin)}
    overridden = {name for name in overridden if not name.startswith("__")}
    assert overridden - {"_reorder_cache"} == set(hooks.HOOKS)
