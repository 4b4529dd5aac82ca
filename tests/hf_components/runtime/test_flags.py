"""Flags: bounds in words and as checks, copies of lists, bounds of fields that are inherited."""

import math
from dataclasses import dataclass

import pytest
from transformers import TrainingArguments

from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import add_bounds, flag, in_words, keeps, unmet

pytestmark = pytest.mark.unit


@dataclass
class Arguments:
    share: float = flag("a share", default=0.5, above=0, max=1)
    count: int | None = flag("how many", default=None, min=1, aliases=["--number"])
    levels: list[float] = flag("levels in dB", default=[5.0, 20.0], min=-50)
    kind: str = flag("kind", default="a", choices=("a", "b"))
    free: float = flag("any finite number", default=0.0)


def parse(*argv: str) -> Arguments:
    return parse_arguments(Arguments, list(argv))[0]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"min": 1}, "at least 1"),
        ({"max": 2.5}, "at most 2.5"),
        ({"above": 0}, "above 0"),
        ({"below": 3}, "below 3"),
        ({"min": 0, "below": 1}, "in [0, 1)"),
        ({"above": 0, "max": 100}, "in (0, 100]"),
    ],
)
def test_bounds_in_words(bounds, words):
    assert in_words(bounds) == words


def test_bounds_hold_at_their_ends_as_they_say():
    assert keeps(1, {"min": 1}) and not keeps(1, {"above": 1}) and keeps(1, {"max": 1}) and not keeps(1, {"below": 1})
    assert not any(keeps(value, {}) for value in (math.nan, math.inf, -math.inf))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--share=0"], r"--share must lie in \(0, 1\], got 0"),
        (["--share=1.5"], r"--share must lie in \(0, 1\], got 1.5"),
        (["--share=inf"], "--share must be finite, got inf"),
        (["--share=nan"], r"--share must lie in \(0, 1\], got nan"),
        (["--count=0"], "--count must be at least 1, got 0"),
        (["--number=0"], "--count must be at least 1, got 0"),
        (["--levels", "5", "-60"], "--levels must be at least -50, got -60"),
        (["--kind=c"], "--kind: invalid choice: 'c'"),
        (["--free=inf"], "--free must be finite, got inf"),
        (["--count=1.5"], "--count.*invalid int value: '1.5'"),
    ],
)
def test_what_is_out_of_bounds_is_refused(argv, message):
    with pytest.raises(UserError, match=message):
        parse(*argv)


def test_bounds_hold_in_a_file_too(tmp_path):
    (tmp_path / "c.yaml").write_text("share: 2\n")
    with pytest.raises(UserError, match="--share must lie in"):
        parse("--config", str(tmp_path / "c.yaml"))


def test_each_instance_has_its_own_list():
    first, second = Arguments(), Arguments()
    first.levels.append(1.0)
    assert second.levels == [5.0, 20.0]


def test_help_shows_bounds_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "a share; in (0, 1] (default: 0.5)" in shown and "how many; at least 1" in shown
    assert "how many; at least 1 (default" not in shown  # None says nothing


def test_inherited_fields_get_bounds_and_their_owner_keeps_its_own():
    @dataclass
    class Ours(TrainingArguments):
        pass

    add_bounds(Ours, {"weight_decay": {"min": 0}})
    with pytest.raises(UserError, match="--weight_decay must be at least 0, got -1"):
        parse_arguments(Ours, ["--output_dir=x", "--weight_decay=-1"])
    assert "min" not in TrainingArguments.__dataclass_fields__["weight_decay"].metadata
    assert parse_arguments(TrainingArguments, ["--output_dir=x", "--weight_decay=-1"])[0].weight_decay == -1


@pytest.mark.parametrize(
    ("needs", "values", "missing"),
    [
        ("noise", {"noise": []}, "without --noise"),
        ("noise", {"noise": ["gaussian"]}, None),
        ("recogniser_model", {"recogniser_model": "none"}, "without --recogniser_model"),
        ({"noise": "recordings"}, {"noise": ["gaussian"]}, "without --noise recordings"),
        ({"reduce": ("pca", "umap")}, {"reduce": "none"}, "without --reduce pca or umap"),
        ({"everything": False}, {"everything": True}, "with --everything"),
        (({"finetuning": "lora"}, "use_lora"), {"finetuning": "full"}, "without --finetuning lora"),
        (({"finetuning": "lora"}, "use_lora"), {"rank": 4}, None),  # a recipe that has neither
        ({"manifest": True, "split_file": False}, {"manifest": "a", "split_file": "b"}, "with --split_file"),
        (("a", "b"), {"a": 0, "b": None}, "without --a or without --b"),
    ],
)
def test_why_a_flag_has_no_effect(needs, values, missing):
    assert unmet(needs, values) == missing


@dataclass
class Conditional:
    noise: list[str] = flag("kinds", default=[])
    noise_snr: float = flag("dB", default=10.0, needs="noise")
    manifest: str | None = flag("manifest", default=None)
    ratio: float = flag("share", default=0.1, needs="manifest")


@pytest.mark.parametrize(
    ("config", "words", "warnings"),
    [
        ("", ["--noise_snr=10"], ["--noise_snr has no effect without --noise; leave it out, or change that"]),
        ("noise_snr: 5", [], ["--noise_snr has no effect without --noise; leave it out, or change that"]),
        ("noise_snr: 10", [], []),  # a file may spell out what is the default
        ("noise_snr: 5", ["--noise=gaussian"], []),
        ("noise: [gaussian]\nnoise_snr: 5", ["--noise"], None),  # an empty list needs a value on the command line
        ("ratio: 0.5", [], []),  # inputs are given on the command line
        ("ratio: 0.5", ["--ratio=0.2"], ["--ratio has no effect without --manifest; leave it out, or change that"]),
    ],
)
def test_a_flag_without_effect_is_warned_of_once(config, words, warnings, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(config)
    command = [f"--config={tmp_path / 'config.yaml'}", *words]
    if warnings is None:
        with pytest.raises(UserError):
            parse_arguments(Conditional, command)
        return
    parse_arguments(Conditional, command)
    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == warnings
