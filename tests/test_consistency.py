"""Recipes, their configurations, Makefile targets, pages and model cards agree with each other."""

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
import subprocess
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from paths import CONFIGS, ROOT

from hf_components.runtime.arguments import check_words, parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import BOUNDS
from hf_components.runtime.reflexes import ANSWERS, SYNONYMS

pytestmark = pytest.mark.unit

SIZES = ("default", "quick")
WITHOUT_CONFIGURATION = {
    "combine_transcripts",
    "cross_validate",
    "export_annotations",
    "import_annotations",
    "import_whisper",
    "publish",
    "speak_units",
    "verify",
}  # all that they take differs from run to run, or is the default
MAX_STATEMENTS = 90
README_LINES = 200
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "recipes/README.md", "docs/*.md")
    for path in ROOT.glob(pattern)
)

OF_EARLIER_FLAGS = ("CHANGELOG.md", "docs/from_the_originals.md", "docs/log.md")  # pages that name flags of the past
OF_OTHER_PROGRAMS = {"machine_rank", "main_process_ip", "num_processes", "logdir", "renormalize", "audio_ctx"}


def recipes() -> list[str]:
    return sorted(path.stem for path in (ROOT / "recipes").glob("*.py") if path.stem != "__init__")


def source(recipe: str) -> str:
    return (ROOT / "recipes" / f"{recipe}.py").read_text()


def statements(text: str) -> int:
    """Statements of a source file, those of imports and docstrings not counted."""
    return sum(
        isinstance(node, ast.stmt)
        and not isinstance(node, (ast.Import, ast.ImportFrom))
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in ast.walk(ast.parse(text))
    )


def docstring(recipe: str) -> str:
    return ast.get_docstring(ast.parse(source(recipe))) or ""


def arguments(recipe: str) -> list[type]:
    """A recipe's dataclasses: its `ARGUMENTS` if it has several, else its `Arguments`."""
    module = importlib.import_module(f"recipes.{recipe}")
    return list(module.ARGUMENTS) if "ARGUMENTS" in vars(module) else [module.Arguments]


def placeholders(types: list[type], given: str) -> list[str]:
    """Flags for required fields that a configuration leaves to the command line."""
    return [
        f"--{field.name}=1"
        for kind in types
        for field in dataclasses.fields(kind)
        if field.init
        and field.default is field.default_factory is dataclasses.MISSING
        and not re.search(rf"^ *{field.name}: *[^ \n]", given, re.MULTILINE)
    ]


def launch_line(text: str) -> list[str]:
    """The words of the `accelerate launch` command in a docstring, its continuation lines joined."""
    match = re.search(r"^ *accelerate launch .*$", re.sub(r"\\\n\s*", " ", text), re.MULTILINE)
    return shlex.split(match.group()) if match else []


def makefile_targets(text: str) -> set[str]:
    return set(re.findall(r"^(recipe-[\w-]+):", text, re.MULTILINE))


def readme_rows(text: str) -> list[tuple[str, str]]:
    """`(recipe, linked file)` of each row of the table of recipes."""
    section = text.partition("\n## All recipes\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| \[`(\w+)`\]\(([^)]+)\) \|", section, re.MULTILINE)


def tree_lines(text: str) -> list[str]:
    """The lines of the tree in a page."""
    return text.partition("\n## What is where\n")[2].split("```")[1].strip("\n").splitlines()


def tree(text: str) -> list[str]:
    """Paths of that tree; a folder's ends with a slash, and what it holds stands two spaces further in."""
    paths, folders = [], []
    for line in tree_lines(text):
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = [*folders[:depth], name]
        paths.append("".join(folders))
    return paths


def anchors(text: str) -> set[str]:
    """The parts of a page that links can name, as GitHub makes them of its headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: str) -> list[str]:
    """Links of a page to files that do not exist, or to parts that a page does not have; web addresses aside."""
    text, broken = (ROOT / page).read_text(), []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, part = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        if not target.exists() or (part and part not in anchors(target.read_text())):
            broken.append(link)
    return broken


def cards_named(text: str) -> set[str]:
    """Card templates that a source file names in a string, other than the README of what it writes."""
    return {
        Path(node.value).name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[\w./-]+\.md(\.j2|\.jinja2?)?", node.value)
    } - {"README.md"}


def test_every_recipe_has_its_configurations_and_every_configuration_its_recipe():
    folders = {path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*") if path.is_file()}
    assert folders == set(recipes()) - WITHOUT_CONFIGURATION
    assert [
        f"{name}/{size}" for name in folders for size in SIZES if not (CONFIGS / name / f"{size}.yaml").is_file()
    ] == []


def test_every_pipeline_has_a_target_and_every_target_a_pipeline():
    pipelines = {match.group(1) for recipe in recipes() if (match := re.fullmatch(r"run_(\w+)_pipeline", recipe))}
    assert makefile_targets((ROOT / "Makefile").read_text()) == {
        f"recipe-{name.replace('_', '-')}" for name in pipelines
    }


def test_every_target_is_in_the_help():
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()
    undocumented = [name for name in phony if not re.search(rf"^{re.escape(name)}:.*## \w", text, re.MULTILINE)]
    assert not undocumented


def test_files_named_in_the_makefile_exist():
    named = re.findall(r"(?:recipes|accelerate_configs)/[\w/.]+\.(?:py|yaml)", (ROOT / "Makefile").read_text())
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_recipes_page_has_one_row_per_recipe():
    rows = readme_rows((ROOT / "recipes" / "README.md").read_text())
    assert sorted(recipe for recipe, _ in rows) == recipes()
    assert [(recipe, file) for recipe, file in rows if file != f"{recipe}.py"] == []


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_there_are_pages():
    assert {"README.md", "CONTRIBUTING.md", "recipes/README.md", "docs/house.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_a_page_exist(page):
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?:recipes|accelerate_configs)/[\w/.]+\.yaml", text))
    named |= set(re.findall(r"(?<![\w/.-])(?:recipes|launchers)/\w+\.py", text))
    named = {name for name in named if not re.search("/[A-Z]+/", name)}  # which stands for any
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    assert broken_links(page) == []
    assert re.findall(r"accelerate launch (?!--quiet)-.*recipes/", text) == []


def flags_of_recipes() -> set[str]:
    """Names of all flags of all recipes, with their aliases and what turns them off."""
    fields = [field for recipe in recipes() for kind in arguments(recipe) for field in dataclasses.fields(kind)]
    aliases = {alias.lstrip("-") for field in fields for alias in field.metadata.get("aliases", ())}
    return aliases | {prefix + field.name for field in fields for prefix in ("", "no_")} | {"config", "help"}


def flags_named(text: str) -> set[str]:
    """Names of the flags in a text, with `_` for `-`."""
    return {name.replace("-", "_") for name in re.findall(r"(?<![\w-])--([a-zA-Z][\w-]*)", text)}


def test_flags_named_in_a_page_exist():
    sources = [path for folder in ("launchers", "benchmarks", "tests") for path in (ROOT / folder).glob("*.py")]
    known = flags_of_recipes() | {*SYNONYMS, *ANSWERS} | OF_OTHER_PROGRAMS
    known |= set().union(*(flags_named(path.read_text()) for path in sources))
    unknown = {page: flags_named((ROOT / page).read_text()) - known for page in PAGES if page not in OF_EARLIER_FLAGS}
    assert {page: names for page, names in unknown.items() if names} == {}


def test_tree_names_what_is_there():
    named = tree((ROOT / "docs" / "house.md").read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert [path for path in named if path.endswith("/") != (ROOT / path).is_dir()] == []
    assert len(named) == len(set(named))
    expected = {f"recipes/{recipe}.py" for recipe in recipes()}
    for folder in ("hf_components", "dataset_scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            is_package = path.name == "__init__.py"  # its line is that of the folder
            expected.add(f"{path.parent.relative_to(ROOT)}/" if is_package else path.relative_to(ROOT).as_posix())
    assert expected <= set(named), f"docs/house.md lacks {sorted(expected - set(named))}"


def test_every_line_of_the_tree_has_a_caption():
    lines = tree_lines((ROOT / "docs" / "house.md").read_text())
    assert [line for line in lines if len(line.split()) < 2] == []


def test_every_named_card_exists_and_every_card_is_named():
    sources = [
        path for folder in ("recipes", "dataset_scripts", "hf_components") for path in (ROOT / folder).rglob("*.py")
    ]
    named = {name for path in sources for name in cards_named(path.read_text())}
    assert {path.name for path in (ROOT / "model_cards").iterdir() if path.is_file()} == named


@pytest.mark.parametrize("recipe", recipes())
def test_docstring_holds_the_launch_command(recipe):
    words = launch_line(docstring(recipe))
    assert words, "the docstring holds no `accelerate launch` line"
    assert words[2] == "--quiet"  # else the launcher adds its own traceback to every error message
    assert f"recipes/{recipe}.py" in words
    assert words[words.index("--config_file") + 1].startswith("accelerate_configs/")
    if recipe not in WITHOUT_CONFIGURATION:
        assert words[words.index("--config") + 1].startswith(f"recipes/configs/{recipe}/")
    files = [word for word in words if re.search(r"\.(py|yaml)$", word)]
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_nobody_is_told_to_resume_which_is_the_default():
    folders = ("recipes", "dataset_scripts", "hf_components")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    told = [
        (path.name, node.value)
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and re.search(r"(--|{)resume\b", str(node.value))
    ]
    assert len(sources) > 100 and told == []  # --force_restart starts anew, the same command continues


def several_at_once(text: str) -> list[int]:
    """Lines of functions that assign several values to as many names, but for those that exchange values."""
    found = []
    for function in ast.walk(ast.parse(text)):
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else ():
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                targets = {ast.unparse(target) for target in node.targets[0].elts}
                read = {ast.unparse(part) for part in ast.walk(node.value) if isinstance(part, ast.expr)}
                if isinstance(node.value, ast.Tuple) and not targets & read:
                    found.append(node.lineno)
    return sorted(set(found))


def names_its_encoding(call: ast.Call) -> bool:
    """Whether a call that opens a text file says which text it is; others need not."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else None
    modes = [word.value for word in call.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
    opens_text = name in ("read_text", "write_text") or (name == "open" and modes and not any("b" in m for m in modes))
    return not opens_text or any(keyword.arg == "encoding" for keyword in call.keywords)


def test_text_files_are_utf_8_whatever_the_machine_prefers():
    calls = [
        (str(path.relative_to(ROOT)), node)
        for folder in ("hf_components", "dataset_scripts", "recipes")
        for path in ROOT.glob(f"{folder}/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert calls and not [f"{file}:{call.lineno}" for file, call in calls if not names_its_encoding(call)]


def test_a_statement_assigns_one_thing():
    assert several_at_once(
        "def f():\n    a, b = 1, []\n    a, b = b, a\n    a, b = f()\n    a, b = a[:1], a[1:]\n"
    ) == [2]
    sources = [
        path for name in ("recipes", "dataset_scripts", "hf_components") for path in (ROOT / name).rglob("*.py")
    ]
    assert not {str(path): lines for path in sources if (lines := several_at_once(path.read_text()))}


@pytest.mark.parametrize("recipe", recipes())
def test_recipe_is_short_and_runs_as_a_program(recipe):
    text = source(recipe)
    assert statements(text) <= MAX_STATEMENTS
    assert text.endswith('if __name__ == "__main__":\n    run_recipe(main)\n')


@pytest.mark.parametrize("recipe", recipes())
def test_main_takes_argv_and_returns_metrics(recipe):
    signature = inspect.signature(importlib.import_module(f"recipes.{recipe}").main)
    assert list(signature.parameters) == ["argv"]
    assert signature.parameters["argv"].default is None
    assert signature.return_annotation in (dict, "dict")


@pytest.mark.parametrize("recipe", recipes())
def test_every_own_field_documents_itself(recipe):
    ours = [kind for kind in arguments(recipe) if kind.__module__.split(".")[0] in ("recipes", "hf_components")]
    silent = [
        field.name
        for kind in ours
        for name, field in kind.__dataclass_fields__.items()
        if name in kind.__annotations__ and not field.metadata.get("help")
    ]
    assert not silent, f"fields without help: {silent}"


def numbers(recipe: str) -> dict[str, dict[str, float]]:
    """The bounds of every flag of a recipe that takes a number, or several."""
    found = {}
    for kind in arguments(recipe):
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            parts = [
                part for one in (get_args(hints[field.name]) or [hints[field.name]]) for part in (one, *get_args(one))
            ]
            if field.init and not {int, float}.isdisjoint(parts):
                found[field.name] = {name: field.metadata[name] for name in BOUNDS if name in field.metadata}
    return found


@pytest.mark.parametrize("recipe", recipes())
def test_every_number_is_bounded_and_what_is_out_of_bounds_is_refused(recipe):
    bounds = numbers(recipe)
    assert [name for name, limits in bounds.items() if not limits] == []
    for name, limits in bounds.items():
        outside = {"min": -1, "max": 1, "above": 0, "below": 0}
        wrong = [limit + outside[kind] for kind, limit in limits.items()] + [float("nan"), float("inf")]
        for value in wrong:
            value = int(value) if float(value).is_integer() else value
            with pytest.raises(UserError, match=rf"{name}.* must (be|lie) |{name}.*invalid int value"):
                check_words(arguments(recipe), [f"--{name}={value}"])


@pytest.mark.parametrize("recipe", recipes())
def test_help_is_shown(recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(arguments(recipe), ["--help"], docstring(recipe))
    assert stop.value.code == 0
    shown = capsys.readouterr().out.partition("\nconfiguration and help:\n")[2]
    assert shown.startswith("  --config FILE")
    named = re.findall(r"^  --(\w+)", shown, re.MULTILINE)
    fields = {field.name for kind in arguments(recipe) for field in dataclasses.fields(kind) if field.init}
    assert sorted(named) == sorted(fields | {"config"})  # each once, and no negation by itself
    assert not re.search(r"\de[+]\d", shown)


@pytest.mark.parametrize("config", sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")))
def test_configuration_parses(config):
    types, given = arguments(config.split("/")[0]), (CONFIGS / config).read_text()
    parse_arguments(types, ["--config", str(CONFIGS / config), *placeholders(types, given)])


@pytest.mark.parametrize("config", sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")))
def test_configuration_names_nothing_twice(config):
    keys = re.findall(r"^ *([\w-]+): *[^ \n]", (CONFIGS / config).read_text(), re.MULTILINE)
    assert len(keys) == len({key.replace("-", "_") for key in keys})  # YAML itself lets the last one win


@pytest.mark.parametrize(
    "config", sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("run_*/*.yaml"))
)
def test_a_pipelines_configuration_names_its_model(config):
    """The Makefile passes --model only where MODEL is given."""
    assert re.search(r"^ *model: \S+/\S+$|^ *model: mfcc$", (CONFIGS / config).read_text(), re.MULTILINE)


def make(*given: str) -> subprocess.CompletedProcess:
    """What make would do with an environment that is not there yet."""
    command = ["make", "-n", "VENV=.venv-of-nobody", *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("given", "words", "without"),
    [
        ("recipe-moe DATA=x CONFIG=c.yaml", '--config "c.yaml" --data "x"', "--model"),
        ("recipe-children MODEL=openai/whisper-small", '--model "openai/whisper-small"', "--num_processes"),
        ("recipe-wav2vec2 DATA=x", 'run_wav2vec2_pipeline/quick.yaml" --data "x"', "--model"),
        ("recipe-wav2vec2 DATA=x CONFIG=c.yaml", '--data "x"', "--gold"),
        (
            "recipe-units ACCELERATE_CONFIG=accelerate_configs/multi_gpu.yaml PROCESSES=3",
            "--num_processes 3",
            "--model",
        ),
    ],
)
def test_make_passes_on_what_is_given_and_no_more(given, words, without):
    command = make(*given.split()).stdout.replace("\\\n", "").split("accelerate launch")[-1]
    command = " ".join(command.split())
    assert words in command and without not in command


def test_the_demo_offers_the_mixture_before_the_plain_model_made_of_it(tmp_path):
    for folder in ("runs/moe/model", "runs/moe/joint/model"):
        (tmp_path / folder).mkdir(parents=True)
    words = ["make", "-n", "-f", str(ROOT / "Makefile"), "demo", "INSTALLED="]
    shown = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert 'RECOGNISERS="runs/moe/joint/model runs/moe/model models/whisper-tiny.en"' in shown


def test_whatever_make_installs_of_others_has_its_digest():
    """By uv or else by pip; this package alone has none."""
    installations = re.findall(r"pip install [^&|]*", make("setup").stdout.replace("\\\n", " "))
    assert sum("--require-hashes" in words and "-r constraints.txt" in words for words in installations) == 2
    (ours,) = (words for words in installations if "--require-hashes" not in words)
    assert "--no-deps --no-build-isolation -e ." in ours


def test_make_refuses_several_gpus_where_there_are_none():
    refused = make("recipe-units", "ACCELERATE_CONFIG=accelerate_configs/multi_gpu.yaml", "PROCESSES=1")
    assert refused.returncode and "is for several GPUs, and 1 found here; take single_gpu.yaml" in refused.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Train.\n\naccelerate launch --config_file a.yaml \\\n    recipes/x.py --config b.yaml\n",
            ["accelerate", "launch", "--config_file", "a.yaml", "recipes/x.py", "--config", "b.yaml"],
        ),
        ("Train with accelerate.\n", []),
    ],
)
def test_launch_line_is_found(text, words):
    assert launch_line(text) == words


def test_readers_of_makefile_pages_and_cards():
    assert makefile_targets("recipe-moe: x ## y\n\tmake recipe-no\nrecipe-units:\n") == {"recipe-moe", "recipe-units"}
    table = "# A\n\n## All recipes\n\n| recipe | x |\n|---|---|\n| [`a`](a.py) | b |\n\n## C\n| [`d`](e) | f |\n"
    assert readme_rows(table) == [("a", "a.py")]
    house = "\n## What is where\n\n```\nx/   x\n  y/    y\n    a.py  a\n  b.py  b\nc.md  c\n```\n"
    assert tree(house) == ["x/", "x/y/", "x/y/a.py", "x/b.py", "c.md"]
    assert anchors("# A b\n## Children's `X`-y\n```\n# no\n```\n") == {"a-b", "childrens-x-y"}
    assert flags_named("`--a-b c`, --d=1; a--e ---f") == {"a_b", "d"}
    assert cards_named("f('moe.md.jinja')\ng('README.md')\nh('a sentence about x.md files')") == {"moe.md.jinja"}


def test_a_required_field_is_filled_and_a_wrong_key_is_not_forgiven(tmp_path):
    @dataclasses.dataclass
    class Arguments:
        corpus: str = dataclasses.field(metadata={"help": "folder"})
        rank: int = dataclasses.field(default=8, metadata={"help": "rank"})

    assert placeholders([Arguments], "rank: 4\n") == ["--corpus=1"]
    assert placeholders([Arguments], "corpus: x\n") == []
    (tmp_path / "c.yaml").write_text("ranks: 4\n")
    with pytest.raises(UserError, match="did you mean --rank"):
        parse_arguments([Arguments], ["--config", str(tmp_path / "c.yaml"), *placeholders([Arguments], "ranks: 4\n")])
