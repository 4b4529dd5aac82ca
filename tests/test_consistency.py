"""Recipes, their configurations, Makefile targets, README rows and model cards agree with each other."""

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from paths import CONFIGS, ROOT

from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

SIZES = ("default", "quick")
MAX_LINES = 160


def recipes() -> list[str]:
    return sorted(path.stem for path in (ROOT / "recipes").glob("*.py") if path.stem != "__init__")


def source(recipe: str) -> str:
    return (ROOT / "recipes" / f"{recipe}.py").read_text()


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
    section = text.partition("\n## Recipes\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| \[`(\w+)`\]\(([^)]+)\) \|", section, re.MULTILINE)


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
    assert {path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*") if path.is_file()} == set(
        recipes()
    )
    assert [
        f"{recipe}/{size}"
        for recipe in recipes()
        for size in SIZES
        if not (CONFIGS / recipe / f"{size}.yaml").is_file()
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


def test_readme_has_one_row_per_recipe():
    rows = readme_rows((ROOT / "README.md").read_text())
    assert sorted(recipe for recipe, _ in rows) == recipes()
    assert [(recipe, file) for recipe, file in rows if file != f"recipes/{recipe}.py"] == []


def test_files_named_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"\]\(([\w./-]+)\)", text)) | set(
        re.findall(r"(?:recipes|accelerate_configs)/[\w/.]+\.yaml", text)
    )
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_readme_tree_names_what_is_there():
    text = (ROOT / "README.md").read_text().partition("\n## What is where\n")[2].split("```")[1]
    folder, named = Path(), set()
    for line in text.strip().splitlines():
        name = line.split()[0].replace("<recipe>/", "")
        if not line.startswith(" "):
            folder = Path(name) if name.endswith("/") else Path()
        path = folder / name if line.startswith(" ") else Path(name)
        assert (ROOT / path).exists(), f"README names {path}"
        named.add(path.as_posix())
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in ("hf_components", "dataset_scripts")
        for path in (ROOT / folder).glob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= named, f"README lacks {sorted(modules - named)}"


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
    assert f"recipes/{recipe}.py" in words
    assert words[words.index("--config_file") + 1].startswith("accelerate_configs/")
    assert words[words.index("--config") + 1].startswith(f"recipes/configs/{recipe}/")
    files = [word for word in words if re.search(r"\.(py|yaml)$", word)]
    assert [name for name in files if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("recipe", recipes())
def test_recipe_is_short_and_runs_as_a_program(recipe):
    text = source(recipe)
    assert len(text.splitlines()) <= MAX_LINES
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


@pytest.mark.parametrize("recipe", recipes())
def test_help_is_shown(recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(arguments(recipe), ["--help"], docstring(recipe))
    assert stop.value.code == 0
    assert "--config FILE" in capsys.readouterr().out


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
        ("recipe-wav2vec2 DATA=x", "--gold llm", "--model"),
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


def test_readers_of_makefile_readme_and_cards():
    assert makefile_targets("recipe-moe: x ## y\n\tmake recipe-no\nrecipe-units:\n") == {"recipe-moe", "recipe-units"}
    table = "# A\n\n## Recipes\n\n| recipe | x |\n|---|---|\n| [`a`](recipes/a.py) | b |\n\n## C\n| [`d`](e) | f |\n"
    assert readme_rows(table) == [("a", "recipes/a.py")]
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
