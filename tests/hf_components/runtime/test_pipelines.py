"""Flags that a pipeline passes on to its stages."""

from dataclasses import dataclass, field
from types import ModuleType
from typing import Literal

import pytest

from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.runtime.pipelines import (
    all_flags,
    passed_on_arguments,
    same_names,
    stage_options,
    stage_runner,
    stage_words,
)

pytestmark = pytest.mark.unit


@dataclass
class StageArguments:
    output_dir: str = field(metadata={"help": "folder"})
    rank: int = field(default=8, metadata={"help": "rank of each expert"})
    method: Literal["a", "b"] = field(default="a", metadata={"help": "how"})
    noisy: bool = field(default=False, metadata={"help": "noise"})
    layer: int | None = field(default=None, metadata={"help": "layer"})


STAGE = ModuleType("recipes.stage")
STAGE.Arguments = StageArguments
PASSED_ON = {STAGE: {"expert_rank": "rank", **same_names("method", "noisy", "layer")}}


def parse(*argv: str):
    return parse_arguments([passed_on_arguments(PASSED_ON)], list(argv))[0]


def test_what_is_not_given_is_left_to_the_stage():
    assert stage_words({"output_dir": "x", "seed": None}, PASSED_ON[STAGE], parse()) == ["--output_dir=x"]


def test_what_is_given_arrives_under_the_name_of_the_stage_and_wins():
    values = parse("--expert-rank=4", "--method=b", "--noisy")
    words = stage_words({"rank": 2, "targets": ["q", "v"]}, PASSED_ON[STAGE], values)
    assert words == ["--rank=4", "--targets", "q", "v", "--method=b", "--noisy=True"]
    (stage,) = parse_arguments([StageArguments], ["--output_dir=x", *words[:1], *words[4:]])
    assert (stage.rank, stage.method, stage.noisy, stage.layer) == (4, "b", True, None)


def test_help_and_checks_are_those_of_the_stage(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    assert "rank of each expert" in capsys.readouterr().out
    with pytest.raises(UserError, match="method"):
        parse("--method=c")


def test_all_flags_but_some():
    assert list(all_flags(StageArguments, without=("output_dir", "noisy"))) == ["rank", "method", "layer"]


def test_stage_options():
    stages = {"a": STAGE, "b": STAGE}
    assert stage_options(["a.rank=1", "b.method=c=d"], stages) == {"a": ["--rank=1"], "b": ["--method=c=d"]}
    for wrong in ("c.rank=1", "a.rank", "rank=1"):
        with pytest.raises(UserError, match="STAGE.FLAG=VALUE with a stage of a, b"):
            stage_options([wrong], stages)
    with pytest.raises(UserError, match="a has no flag ranks; did you mean rank"):
        stage_options(["a.ranks=1"], stages)


def test_a_stage_gets_its_configuration_and_the_flags_it_has(tmp_path):
    seen = []
    stage = ModuleType("recipes.stage")
    stage.Arguments, stage.main = StageArguments, lambda words: seen.append(words) or {"rank": 1}
    for quick in ((), (stage,)):
        run = stage_runner(
            tmp_path,
            quick,
            tmp_path / "run",
            parse("--expert_rank=4"),
            {stage: PASSED_ON[STAGE]},
            {"stage": ["--noisy=True"], "single": ["--layer=2"]},
            noisy=False,
            resume=True,
        )
        assert run(stage, "single", rank=2) == {"rank": 1}
    default, quick = seen
    assert default == [
        "--config",
        str(tmp_path / "stage" / "default.yaml"),
        "--noisy=True",
        "--rank=4",
        f"--output_dir={tmp_path}/run/single",
        "--noisy=False",
        "--layer=2",
    ]
    assert quick[1] == str(tmp_path / "stage" / "quick.yaml")
