"""What the pages say is so: figures of the README are in results.md, and the functions of the walks exist."""

import ast
import importlib
import re

import pytest
from paths import ROOT

pytestmark = pytest.mark.unit

README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
LOG = (ROOT / "docs" / "log.md").read_text()
WALKS = (ROOT / "docs" / "how_it_works.md").read_text().partition("\n## Walk 1")[2]
WORDS = 25  # a sentence of the README has fewer
NUMBER = r"[-+]?\d+(?:\.\d+)?"
DIFFERENCE = re.compile(rf"({NUMBER})[\w ]* ?\(({NUMBER}) to ({NUMBER})\)")


def tables_and_bullets(page: str) -> str:
    """The lines of a page that are rows of a table, or bullets with the lines that belong to them."""
    without_code = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in without_code.splitlines() if re.match(r"\| |- |  \S", line))


def numbers(text: str) -> set[float]:
    """All numbers of a text without their signs; those inside of names, such as `wav2vec2`, are none."""
    return {float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)", text)}


def differences(text: str) -> set[tuple[float, float, float]]:
    """Every difference with its interval, as `-0.8 (-1.6 to -0.2)` or with a comma before the interval."""
    text = re.sub(rf"({NUMBER}), ({NUMBER} to {NUMBER})\b", r"\1 (\2)", text)
    return {tuple(map(float, found)) for found in DIFFERENCE.findall(text)}


def unbacked(page: str, results: str) -> list[str]:
    """Figures of the tables and bullets of `page` that `results` does not have.

    A gain in the one may be a difference with the opposite sign in the other.
    """
    shown, found = tables_and_bullets(page), differences(results)
    found |= {(-value, -high, -low) for value, low, high in found}
    return [
        *(f"{number:g}" for number in sorted(numbers(shown) - numbers(results))),
        *("{} ({} to {})".format(*line) for line in sorted(differences(shown) - found)),
    ]


def sentences(page: str) -> list[str]:
    """The sentences of a page's prose; a colon or semicolon does not end one, a bullet or a paragraph does."""
    prose = re.sub(r"^```.*?^```", "\n", page, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^(\||#|!\[).*$", "\n", prose, flags=re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    paragraphs = re.split(r"\n\s*\n|\n(?=- )", prose)
    return [
        sentence
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.!?])\s+(?=[^a-z])", " ".join(paragraph.split()))
        if sentence
    ]


def names_in_walks(text: str) -> list[tuple[str, str]]:
    """`(function, class or method, file)` of each "`f` in `file.py`" and "`f`, `g` (`file.py`" of the steps."""
    steps = [" ".join(step.split()) for step in re.split(r"\n(?=\d+\. )", text)]
    return [
        (name, file)
        for step in steps
        for listed, file in re.findall(r"((?:`[\w.]+`(?:, | and )?)+) (?:in |\()`([\w/]+\.py)`", step)
        for name in re.findall(r"`([\w.]+)`", listed)
    ]


def is_defined(name: str, file: str) -> bool:
    """Whether a file has a function, class or method; that of an inherited method is the file of its class.

    Args:
        file: path from the root; without a folder any file of that name.
    """
    paths = [path.relative_to(ROOT) for path in ROOT.glob(file if "/" in file else f"hf_components/**/{file}")]
    modules = [importlib.import_module(".".join(path.with_suffix("").parts)) for path in paths]
    return any(_has(module, name) for module in modules)


def classes() -> list[tuple[str, str]]:
    """The classes of ours, each with its file."""
    return [
        (node.name, path.relative_to(ROOT).as_posix())
        for folder in ("recipes", "dataset_scripts", "hf_components")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]


def tables_without_a_source(page: str) -> list[str]:
    """First lines of the tables that do not say which command, date and commit their rows are of.

    A table says so in columns, or in a paragraph "Run:" of its section, above it.
    """
    found = []
    for section in re.split(r"^##+ ", page, flags=re.MULTILINE):
        says = False
        for block in re.split(r"\n\s*\n", section):
            first = block.partition("\n")[0]
            says |= block.startswith("Run: ") and bool(
                re.search(r"\d{4}-\d\d-\d\d.*\s[0-9a-f]{7}\b", block, re.DOTALL)
            )
            says |= block.startswith("| ") and {"command", "date", "commit"} <= {
                cell.strip() for cell in first.split("|")
            }
            if block.startswith("| ") and not says:
                found.append(first)
    return found


def _has(owner: object, name: str) -> bool:
    first, _, rest = name.partition(".")
    return hasattr(owner, first) and (not rest or _has(getattr(owner, first), rest))


def test_every_figure_of_the_readme_is_in_results():
    assert len(differences(tables_and_bullets(README))) >= 8
    assert unbacked(README, RESULTS) == []


def test_every_table_of_results_says_how_it_was_run():
    results, _, missing = RESULTS.partition("\n## Not recorded")
    assert missing
    assert tables_without_a_source(results) == []


def test_the_index_of_the_log_has_every_entry():
    index, _, entries = LOG.partition("\n## Index\n")[2].partition("\n## ")
    listed = re.findall(r"^- \[(.+)\]\(#", index, flags=re.MULTILINE)
    assert sorted(listed) == sorted(re.findall(r"^(?:## )?\d{4}-\d\d-\d\d: (.+)$", entries, flags=re.MULTILINE))


def test_the_sentences_of_the_readme_are_short():
    assert [sentence for sentence in sentences(README) if len(sentence.split()) >= WORDS] == []


def test_the_walks_name_functions_that_exist():
    named = names_in_walks(WALKS)
    assert len(named) > 50
    assert [(name, file) for name, file in named if not is_defined(name, file)] == []
    methods = set(re.findall(r"`([A-Z]\w+\.\w+)`", WALKS))  # a step may name the file of a class before
    ours = classes()
    files = {method: [file for name, file in ours if name == method.split(".")[0]] for method in methods}
    assert len(methods) > 20
    assert [name for name in sorted(methods) if not any(is_defined(name, file) for file in files[name])] == []


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ("| x | WER 15.9 | **15.0** | -0.8 (-1.6 to -0.2) |", []),
        ("- gain 0.8 (0.2 to 1.6), by wav2vec2", []),
        ("prose 99.9 (1.0 to 2.0)", []),
        ("| x | WER 16.0 | **15.0** | -0.8 (-1.6 to -0.2) |", ["16"]),
        ("- x:\n  1.6 (0.2 to 0.8)", ["1.6 (0.2 to 0.8)"]),
        ("| x | +0.8 (-1.6 to -0.2) |", ["0.8 (-1.6 to -0.2)"]),
    ],
)
def test_a_figure_without_a_source_is_found(page, wrong):
    assert unbacked(page, "| merged | 15.0 | minus single LoRA (15.9) -0.8, -1.6 to -0.2 |") == wrong


@pytest.mark.parametrize(
    ("before", "header", "found"),
    [
        ("Run: `x`, seed 1, 2026-11-30, commit 1234abc.\n\n", "| a | b |", []),
        ("Run: `x`, seed 1,\n2026-11-30, recorded at 1234abc.\n\n", "| a | b |", []),
        ("", "| a | command | date | commit |", []),
        ("", "| a | command | date |", ["| a | command | date |"]),
        ("Run: `x`, seed 1, 2026-11-30.\n\n", "| a | b |", ["| a | b |"]),
        ("Run: `x`, 2026-11-30, commit 1234abc.\n\n## Next\n\n", "| a | b |", ["| a | b |"]),
    ],
)
def test_a_table_without_a_source_is_found(before, header, found):
    assert tables_without_a_source(f"## Section\n\n{before}{header}\n|---|---|\n| 1 | 2 |\n") == found


def test_readers_of_sentences_and_walks():
    assert sentences("# A\n\nOne two. Three\nfour: five.\n\n- Six\n  seven.\n- Eight `a.b` c.\n\n```\nx\n```\n") == [
        "One two.",
        "Three four: five.",
        "- Six seven.",
        "- Eight `a.b` c.",
    ]
    assert names_in_walks("\n1. `main`,\n   `A.b` in `x/y.py`: reads `c`.\n2. `C` (`z.py`) alone.\n") == [
        ("main", "x/y.py"),
        ("A.b", "x/y.py"),
        ("C", "z.py"),
    ]


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("Transcriber.stream", "hf_components/asr/transcriber.py", True),
        ("Transcriber.streams", "hf_components/asr/transcriber.py", False),
        ("score", "error_rates.py", True),
        ("scores", "error_rates.py", False),
        ("score", "no/such/file.py", False),
    ],
)
def test_a_name_that_does_not_exist_is_found(name, file, expected):
    assert is_defined(name, file) == expected
