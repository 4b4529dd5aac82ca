"""Pipelines: what each step gets, the plan, and mistakes found before any step."""

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import pytest

from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import flag
from hf_components.runtime.pipeline import Later, Pipeline, PipelineArguments
from hf_components.runtime.step_flags import all_flags, passed_on_arguments, same_names

pytestmark = pytest.mark.unit


@dataclass
class StepArguments:
    output_dir: str = flag("folder")
    corpus: str | None = flag("corpus", default=None)
    rank: int = flag("rank of each expert", default=8, min=1, max=64)
    targets: list[str] = flag("linears", default=[])
    method: Literal["a", "b"] = flag("how", default="a")
    noisy: bool = flag("noise", default=False)
    layer: int | None = flag("layer", default=None, aliases=["--depth"])
    seed: int = flag("seed", default=0)


@dataclass
class Publishing:
    pass


STEP = ModuleType("recipes.step")
STEP.Arguments = StepArguments
LAUNCH = "accelerate launch --quiet --config_file accelerate_configs/cpu.yaml"
PASSED_ON = {STEP: {"expert_rank": "rank", **same_names("method", "noisy", "layer")}}
ARGUMENTS = (PipelineArguments, Publishing, passed_on_arguments(PASSED_ON))


def parse(*argv: str):
    return parse_arguments([passed_on_arguments(PASSED_ON)], list(argv))[0]


@pytest.fixture
def taken(monkeypatch):
    """Command lines with which the step was run; it finds that there are three experts."""
    words = []
    monkeypatch.setattr(STEP, "main", lambda given: words.append(given) or {"num_experts": 3}, raising=False)
    return words


@pytest.fixture
def pipeline(tmp_path):
    (tmp_path / "configs" / "step").mkdir(parents=True)
    (tmp_path / "configs" / "elsewhere").mkdir()
    for size in ("quick", "default"):
        (tmp_path / "configs" / "step" / f"{size}.yaml").write_text("rank: 16\n")

    def make(*argv: str) -> Pipeline:
        words = [f"--output_dir={tmp_path / 'run'}", *argv]
        return Pipeline(str(tmp_path / "recipe.py"), ARGUMENTS, PASSED_ON, words, "")

    return make


def two_steps(pipeline: Pipeline) -> None:
    first = pipeline.run(STEP, "first", targets=["q", "v"], corpus=None)
    pipeline.everywhere(corpus=first, unknown=1)
    pipeline.check(lambda found: found["num_experts"] == 3 or pytest.fail("looked at before it was made"), first)
    pipeline.run(STEP, "second", size="quick", rank=first["num_experts"] * 2)


def test_what_is_not_given_is_left_to_the_step(pipeline, taken, tmp_path):
    steps = pipeline().follow(two_steps)
    first, second = taken
    assert first[:2] == ["--config", str(tmp_path / "configs" / "step" / "default.yaml")]
    assert first[2:] == ["--seed=42", f"--output_dir={tmp_path}/run/first", "--targets", "q", "v"]
    assert second[1] == str(tmp_path / "configs" / "step" / "quick.yaml")
    assert second[2:] == [
        "--seed=42",
        f"--corpus={tmp_path}/run/first",
        f"--output_dir={tmp_path}/run/second",
        "--rank=6",
    ]
    assert {name: step["num_experts"] for name, step in steps.items()} == {"first": 3, "second": 3}
    assert steps["first"] / "model" == tmp_path / "run" / "first" / "model"


def test_what_is_given_arrives_under_the_name_of_the_step_and_wins(pipeline, taken):
    options = ["--stage_options", "step.method=b", "second.rank=2", "second.depth=5"]
    pipeline("--expert-rank=4", "--noisy", "--mode=quick", *options).follow(two_steps)
    first, second = (parse_arguments([StepArguments], words)[0] for words in taken)
    assert (first.rank, first.noisy, first.method, second.rank) == (4, True, "b", 2)
    assert (first.layer, second.layer) == (None, 5)  # by an earlier name of the flag
    assert "quick.yaml" in taken[0][1]


def test_a_plan_shows_the_steps_and_runs_none(pipeline, taken, capsys, tmp_path):
    steps = pipeline("--dry_run").follow(two_steps)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"1. first: {LAUNCH} {tmp_path}/step.py --config {tmp_path}/configs/step/default.yaml ")
    assert second.startswith("2. second: ") and second.count("--rank") == 1
    assert second.endswith("/second  # --rank is the num_experts of first x 2, known when that has run")
    assert list(steps) == ["first", "second"] and taken == []


def test_every_step_says_its_place_and_its_command(pipeline, taken, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline().follow(two_steps)
    told = [line for line in capsys.readouterr().err.splitlines() if "step 2 of 2" in line]
    command = f"{LAUNCH} step.py --config configs/step/quick.yaml "
    assert f"step 2 of 2, second; to run it alone: {command}" in told[0]
    assert told[0].endswith("--rank=6")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("third.rank=1", "STEP.FLAG=VALUE with a step of step, first, second, got 'third.rank=1'"),
        ("first.rank", "STEP.FLAG=VALUE"),
        ("rank=1", "STEP.FLAG=VALUE"),
        ("first.ranks=1", "first has no flag ranks; did you mean rank"),
        ("first.rank=0", r"--rank must lie in \[1, 64\], got 0"),
        ("step.rank=many", "--rank.*invalid int value: 'many'"),
        ("second.method=c", "--method.*invalid choice"),
    ],
)
def test_wrong_options_are_refused_before_any_step(pipeline, taken, option, message):
    with pytest.raises(UserError, match=message):
        pipeline("--stage_options", option).follow(two_steps)
    assert taken == []


def test_an_option_of_a_recipe_that_does_not_run_is_warned_of(pipeline, taken, capsys):
    pipeline("--stage_options", "elsewhere.rank=1").follow(two_steps)
    assert "this run takes no step elsewhere" in capsys.readouterr().err and len(taken) == 2


def test_a_flag_out_of_bounds_is_refused_where_it_is_parsed(pipeline, taken):
    with pytest.raises(UserError, match=r"--expert_rank must lie in \[1, 64\], got 65"):
        pipeline("--expert_rank=65")
    with pytest.raises(UserError, match="--num_workers must be at least 0, got -1"):
        pipeline("--num_workers=-1")


def test_what_a_step_will_find_is_large():
    later = Later("clusters")["num_experts"]
    assert later > 10**6 and not later < 2 and min(2, later) == 2 and str(later) == "<num_experts of clusters>"


def test_help_and_checks_are_those_of_the_step(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "rank of each expert; in [1, 64]" in shown and "--layer LAYER" in shown
    with pytest.raises(UserError, match="method"):
        parse("--method=c")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("--rank=3", "unknown argument '--rank': use --expert_rank"),  # its name in this pipeline
        ("--targets=q", "it is a flag of steps: use --stage_options step.targets=VALUE"),
        ("--lora_modules=q", "--help lists the known ones"),
    ],
)
def test_a_flag_that_only_steps_have_is_found_there(pipeline, tmp_path, typed, answer):
    with pytest.raises(UserError) as error:
        pipeline(typed)
    assert answer in str(error.value)
    (tmp_path / "c.yaml").write_text(typed[2:].replace("=", ": "))
    with pytest.raises(UserError) as error:
        pipeline(f"--config={tmp_path / 'c.yaml'}")
    assert answer.rpartition(": ")[2] in str(error.value)


def test_all_flags_but_some():
    assert list(all_flags(StepArguments, without=("output_dir", "noisy", "seed", "corpus"))) == [
        "rank",
        "targets",
        "method",
        "layer",
    ]


def test_a_flag_whose_step_this_run_does_not_take_is_warned_of(tmp_path, taken, capsys):
    other = ModuleType("recipes.other")
    other.Arguments = StepArguments
    passed_on = {STEP: same_names("method"), other: same_names("method", "rank")}
    arguments = (PipelineArguments, Publishing, passed_on_arguments(passed_on))
    words = [f"--output_dir={tmp_path}", "--method=b", "--rank=3", "--dry_run"]
    Pipeline(str(tmp_path / "recipe.py"), arguments, passed_on, words, "").follow(
        lambda pipeline: pipeline.run(STEP, "first")
    )
    warnings = [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert warnings == ["--rank has no effect: this run takes no step other; leave it out"]


@dataclass
class OnData(PipelineArguments):
    data: str = flag("data")
    model: str = flag("model", default="models/none")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--data=/no/where"], "/no/where"),
        (["--data=some/corpus"], "models/none"),
        (["--data=some/corpus", "--model=runs/none/model", "--dry_run"], "runs/none/model"),
    ],
)
def test_paths_that_are_not_there_stop_a_pipeline_at_once(tmp_path, words, name):
    with pytest.raises(UserError, match=f"there is no folder {name}"):
        Pipeline(
            str(tmp_path / "recipe.py"), (OnData, Publishing, Publishing), {}, [f"--output_dir={tmp_path}", *words], ""
        ).follow(print)
