"""Whoever gets a checkpoint's code reads nothing else of ours: its docstrings give what a caller must know."""

import ast
import re
from collections.abc import Iterator

import pytest
from paths import ROOT

pytestmark = pytest.mark.unit

CLOSED = ("acoustic_units", "decoding", "metrics", "submission", "unit_hifigan", "whisper")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in CLOSED
    for path in (ROOT / "hf_components" / folder).rglob("*.py")
    if path.name != "__init__.py"
)
SHAPE = re.compile(r"\((?:[\w .*/+=]+|\.\.\.)?,[^()]*\)|\([\w ]+,\)|any shape")  # such as (batch, frames)


def public(source: str) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    """Public classes and functions of a file, and methods of the classes."""
    waiting = list(ast.parse(source).body)
    for node in waiting:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield node
            waiting += node.body if isinstance(node, ast.ClassDef) else []


def takes_or_returns_tensors(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef):
        return False
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    annotations = [node.returns, *(one.annotation for one in arguments)]
    return any(re.search("Tensor|ndarray", ast.unparse(one)) for one in annotations if one is not None)


def complaints(source: str) -> list[str]:
    found = []
    for node in public(source):
        text = ast.get_docstring(node)
        if not text:
            found.append(f"{node.name} has no docstring")
        elif takes_or_returns_tensors(node) and not SHAPE.search(text):
            found.append(f"{node.name} gives no shape")
    return found


@pytest.mark.parametrize("path", FILES)
def test_everything_public_has_a_docstring_and_tensors_have_shapes(path):
    assert complaints((ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class A: ...", ["A has no docstring"]),
        ("class A:\n    'A.'\n    def f(self): ...", ["f has no docstring"]),
        ("def f(x: torch.Tensor):\n    'Doubles x.'", ["f gives no shape"]),
        ("def f(x: int) -> np.ndarray | None:\n    'Zeros (as many as x).'", ["f gives no shape"]),
        ("def f(x: torch.Tensor):\n    'Doubles `(batch, frames)`.'", []),
        ("def f(x: torch.Tensor):\n    'Doubles (samples,).'", []),
        ("def _f(x: torch.Tensor): ...", []),
    ],
)
def test_what_is_missing_is_found(source, expected):
    assert complaints(source) == expected
