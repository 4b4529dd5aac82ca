"""The page that `--help` prints."""

from dataclasses import dataclass
from typing import Literal

import pytest
from transformers import TrainingArguments

from hf_components.runtime import SEEDS, ResumeArguments, flag, parse_arguments

pytestmark = pytest.mark.unit


@dataclass(kw_only=True)
class StepArguments(ResumeArguments):
    corpus: str = flag("prepared corpus", aliases=["--corpus_dir"])
    plot: bool = flag("draw plots", default=True)
    noisy: bool = flag("add noise.", default=False)
    merge: bool | None = flag("half precision", default=None, nargs="?", const=True)
    method: Literal["a", "b"] = flag("way", default="a")
    sizes: list[int] = flag("sizes", default=[2, 3], min=1)
    draw: int = flag("draw", default=1, **SEEDS)
    share: float = flag("share", default=0.5, above=0, max=1e-3)


@dataclass
class LoraArguments:
    lora_rank: int = flag("rank", default=8, min=1)


@dataclass
class SpeechTrainingArguments(TrainingArguments):
    learning_rate: float = flag("peak", default=1e-4, above=0)


@pytest.fixture
def shown(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse_arguments((StepArguments, LoraArguments, SpeechTrainingArguments), ["--help"], "A recipe.")
    return capsys.readouterr().out.splitlines()


def test_usage_is_a_line_of_what_is_required(shown):
    assert shown[0].startswith("usage: ") and shown[1:3] == ["", "A recipe."]
    assert shown[0].endswith(" [--config FILE] --corpus CORPUS [flags]")


def test_own_flags_come_first_and_those_of_transformers_last(shown):
    titles = [line for line in shown if line.endswith(":") and not line.startswith((" ", "usage"))]
    assert titles == [
        "configuration and help:",
        "this recipe:",
        "lora:",
        "speech training:",
        "every recipe:",
        "transformers.TrainingArguments:",
    ]
    line = {text.split()[0]: number for number, text in enumerate(shown) if text.startswith("  --")}
    assert line["--config"] < line["--corpus"] < shown.index("lora:") < line["--lora_rank"]
    assert line["--learning_rate"] < shown.index("every recipe:") < line["--resume,"] < line["--weight_decay"]


def test_every_flag_is_named_once(shown):
    names = [text.split()[0].rstrip(",") for text in shown if text.startswith("  --")]
    assert len(names) == len(set(names)) and "--corpus_dir" not in names
    assert {"--output_dir", "--lora_rank", "--seed", "--weight_decay", "--log_file"} <= set(names)


def test_a_negation_stands_beside_its_flag(shown):
    text = [" ".join(line.split()) for line in shown]
    assert "--plot, --no_plot draw plots (default: True)" in text
    assert "--noisy add noise (default: False)" in text and "--merge half precision" in text
    assert not any("--no_plot" in line and "False" in line for line in text)


def test_bounds_and_choices_are_readable(shown):
    text = "\n".join(" ".join(line.split()) for line in shown)
    assert "at least 1 (default: [2, 3])" in text and "share; in (0, 0.001] (default: 0.5)" in text
    assert "in [0, 4294967295]" in text and "--method {a,b} way" in text
    assert "--optim OPTIM" in text  # of which there are dozens
