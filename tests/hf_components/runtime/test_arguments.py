"""Configuration files and command lines: one parser, one set of checks, errors that name the right spelling."""

import json
import os
from dataclasses import dataclass, field

import pytest
from transformers import TrainingArguments

from hf_components.runtime.arguments import check_words, given_flags, parse_arguments, parse_pairs
from hf_components.runtime.errors import UserError
from hf_components.runtime.flags import flag

pytestmark = pytest.mark.unit


@dataclass
class Arguments:
    num_experts: int = field(default=4, metadata={"help": "experts"})
    learning_rate: float = field(default=1e-3, metadata={"help": "step size"})
    routing: str = field(default="hard", metadata={"help": "routing", "choices": ["hard", "soft"]})
    shared_expert: bool = field(default=True, metadata={"help": "one more LoRA for every row"})
    note: str | None = field(default=None, metadata={"help": "anything"})
    target_modules: list[str] = field(default_factory=lambda: ["fc1"], metadata={"help": "linears"})
    extra: dict | str | None = field(default=None, metadata={"help": "JSON"})


@dataclass
class Other:
    corpus: str = field(default="data", metadata={"help": "folder"})


@dataclass
class Required:
    corpus: str = field(metadata={"help": "folder"})


@pytest.fixture
def write(tmp_path):
    def _write(text: str, name: str = "c.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return _write


def parse(*argv: str) -> Arguments:
    return parse_arguments(Arguments, list(argv))[0]


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as error:
        parse(*argv)
    return str(error.value)


def test_defaults_without_arguments():
    assert parse() == Arguments()


def test_file_replaces_defaults_and_command_line_replaces_file(write):
    config = write("num_experts: 8\nrouting: soft\n")
    args = parse("--config", config, "--num_experts", "2")
    assert (args.num_experts, args.routing, args.learning_rate) == (2, "soft", 1e-3)


def test_command_line_wins_wherever_config_stands(write):
    config = write("num_experts: 8\n")
    assert parse("--num_experts", "2", f"--config={config}").num_experts == 2


def test_json_file(write):
    assert parse("--config", write(json.dumps({"num_experts": 3}), "c.json")).num_experts == 3


@pytest.mark.parametrize("flag", ["--num-experts", "--num_experts"])
def test_hyphen_and_underscore_on_the_command_line(flag):
    assert parse(flag, "7").num_experts == 7


@pytest.mark.parametrize("key", ["num-experts", "num_experts"])
def test_hyphen_and_underscore_in_a_file(write, key):
    assert parse("--config", write(f"{key}: 7")).num_experts == 7


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("learning_rate: 5e-4", "learning_rate", 5e-4),  # a string to YAML 1.1, a float to us
        ("learning_rate: 5.0e-4", "learning_rate", 5e-4),
        ("learning_rate: -1", "learning_rate", -1.0),
        ("shared_expert: false", "shared_expert", False),
        ("shared_expert: no", "shared_expert", False),
        ("shared_expert: true", "shared_expert", True),
        ("num_experts:", "num_experts", 4),
        ("num_experts: null", "num_experts", 4),
        ("note: --looks-like-a-flag", "note", "--looks-like-a-flag"),
        ("note: a = b, c", "note", "a = b, c"),
        ("note: ''", "note", ""),
        ("target_modules: [q_proj, v_proj]", "target_modules", ["q_proj", "v_proj"]),
        ("target_modules:\n- q_proj", "target_modules", ["q_proj"]),
        ("target_modules: q_proj", "target_modules", ["q_proj"]),
        ("target_modules: []", "target_modules", []),
        ("target_modules: ['1', 2]", "target_modules", ["1", "2"]),
        ('extra: {"warmup": 0.1}', "extra", '{"warmup": 0.1}'),
        ("extra:\n  warmup: 0.1", "extra", '{"warmup": 0.1}'),
    ],
)
def test_values_from_yaml(write, text, name, value):
    assert getattr(parse("--config", write(text)), name) == value


def test_nested_value_reaches_training_arguments_as_a_dictionary(write, tmp_path):
    config = write(
        f"output_dir: {tmp_path}\nlr_scheduler_kwargs:\n  min_lr: 0.1\nlearning_rate: 5e-4\nuse_cpu: true\n"
    )
    (args,) = parse_arguments(TrainingArguments, ["--config", config])
    assert (args.lr_scheduler_kwargs, args.learning_rate) == ({"min_lr": 0.1}, 5e-4)


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_empty_file_keeps_defaults(write, text):
    assert parse("--config", write(text)) == Arguments()


def test_several_dataclasses_come_back_in_order(write):
    first, second = parse_arguments((Arguments, Other), ["--config", write("num_experts: 2\ncorpus: x")])
    assert (first.num_experts, second.corpus) == (2, "x")


def test_required_argument_may_come_from_the_file(write):
    assert parse_arguments(Required, ["--config", write("corpus: x")])[0].corpus == "x"
    with pytest.raises(UserError, match="required.*corpus"):
        parse_arguments(Required, [])


@pytest.mark.parametrize(
    ("flag", "right"),
    [("--num_expert", "--num_experts"), ("--num-expert", "--num_experts"), ("--learning-rat=3", "--learning_rate")],
)
def test_unknown_flag_names_the_nearest(flag, right):
    message = refusal(flag, "3") if "=" not in flag else refusal(flag)
    assert flag.split("=")[0] in message
    assert f"did you mean {right}?" in message


def test_unknown_flag_far_from_all():
    assert "--help lists" in refusal("--zzzzzzzz", "3")


def test_stray_word_is_refused():
    assert "'stray'" in refusal("--num_experts", "3", "stray")


def test_abbreviation_is_refused():
    assert "did you mean --num_experts?" in refusal("--num_exp", "3")


def test_unknown_key_names_file_and_nearest(write):
    config = write("num_expert: 3")
    message = refusal("--config", config)
    assert config in message
    assert "'num_expert'" in message
    assert "did you mean --num_experts?" in message


def test_sections_group_keys(write):
    config = write("model:\n  num_experts: 3\nrouting: soft\ntraining:\n  note: short\n")
    assert parse("--config", config) == Arguments(num_experts=3, routing="soft", note="short")


def test_a_section_may_have_the_name_of_a_flag(write):
    assert parse("--config", write("note:\n  num_experts: 3\n  note: short\n")) == Arguments(
        num_experts=3, note="short"
    )


def test_a_key_in_two_sections_is_refused(write):
    message = refusal("--config", write("model:\n  num_experts: 3\ntraining:\n  num_experts: 4\n"))
    assert "'num_experts' is given twice, under 'model' and 'training'" in message


def test_unknown_key_in_a_section_names_the_nearest(write):
    assert "did you mean --num_experts?" in refusal("--config", write("model:\n  num_expert: 3\n"))


@pytest.mark.parametrize("key", ["config", "help"])
def test_reserved_keys_are_refused(write, key):
    assert f"unknown key '{key}'" in refusal("--config", write(f"{key}: x"))


def test_non_text_key_is_refused(write):
    assert "unknown key '3'" in refusal("--config", write("3: x"))


@pytest.mark.parametrize(
    ("text", "name"), [("a: [1", "c.yaml"), ("\tb: 2", "c.yaml"), ("{", "c.json"), ("a: 1", "c.json")]
)
def test_malformed_file_is_named(write, text, name):
    config = write(text, name)
    assert f"{config} is not valid YAML or JSON" in refusal("--config", config)


def test_binary_file_is_named(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not valid YAML or JSON" in refusal("--config", str(tmp_path / "c.yaml"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "3\n", "[]\n", "false\n"])
def test_file_that_is_no_mapping(write, text):
    assert "must map keys to values" in refusal("--config", write(text))


def test_missing_file(tmp_path):
    assert "cannot read --config" in refusal("--config", str(tmp_path / "absent.yaml"))


def test_folder_as_file(tmp_path):
    assert "cannot read --config" in refusal("--config", str(tmp_path))


def test_config_flag_without_a_value():
    assert "--config" in refusal("--config")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("num_experts: many", "num_experts"),
        ("num_experts: 2.5", "num_experts"),
        ("num_experts: true", "num_experts"),
        ("learning_rate: fast", "learning_rate"),
        ("shared_expert: perhaps", "shared_expert"),
        ("num_experts: []", "num_experts"),
        ("num_experts: [1, 2]", "2"),
        ("routing: round", "routing"),
    ],
)
def test_wrong_value_names_the_argument(write, text, name):
    assert name in refusal("--config", write(text))


def test_wrong_value_on_the_command_line():
    message = refusal("--num_experts", "many")
    assert "num_experts" in message
    assert "many" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--eval_strategy", "sometimes"], "eval_strategy"),
        (["--load_best_model_at_end", "true", "--eval_strategy", "no"], "load_best_model_at_end"),
        (["--accelerator_config", "nowhere.json"], "nowhere.json"),  # it opens the file
        (["--accelerator_config", '{"a": 1}'], "settings that cannot be used: TypeError: .*unexpected keyword"),
    ],
)
def test_combination_a_dataclass_refuses(tmp_path, flags, words):
    with pytest.raises(UserError, match=words):
        parse_arguments(TrainingArguments, ["--output_dir", str(tmp_path), *flags])


def test_help_shows_description_and_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(Arguments, ["--help"], "A recipe.")
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "A recipe." in shown
    assert "--num_experts" in shown


def test_several_processes_without_accelerator_are_told_to_stay_on_the_cpu(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    parse()
    assert "ACCELERATE_USE_CPU" not in os.environ  # one process needs no telling
    monkeypatch.setenv("LOCAL_RANK", "0")
    parse()
    assert os.environ["ACCELERATE_USE_CPU"] == "true"
    monkeypatch.delenv("ACCELERATE_USE_CPU")


def test_pairs():
    assert parse_pairs("fields", ["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"} and parse_pairs("fields", None) is None
    with pytest.raises(UserError, match="fields takes OUR_NAME=NAME_IN_FILE.* got 'b'"):
        parse_pairs("fields", ["a=b", "b"])


@dataclass
class Habits:
    corpus: str = flag("folder", default="data", aliases=["--corpus_dir"])
    model: str = flag("checkpoint", default="tiny", aliases=["--base_model"])
    max_samples: int = flag("how many", default=1, min=1)
    output_dir: str = flag("folder", default="out")
    force_restart: bool = flag("start anew", default=False)


def habits(*argv: str) -> Habits:
    return parse_arguments(Habits, list(argv))[0]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("--dataset_name=x", "corpus"),
        ("--dataset-name=x", "corpus"),
        ("--corpus-dir=x", "corpus"),
        ("--model_name_or_path=x", "model"),
        ("--base-model=x", "model"),
        ("--max_train_samples=7", "max_samples"),
    ],
)
def test_habits_and_earlier_names_are_understood(write, typed, name):
    value = 7 if name == "max_samples" else "x"
    assert getattr(habits(typed), name) == value
    key, _, given = typed[2:].partition("=")
    assert getattr(habits("--config", write(f"{key}: {given}")), name) == value


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("--resume_from_checkpoint", "the same command continues the interrupted run in --output_dir; leave it out"),
        ("--do_train", "every recipe does all of its work; leave it out"),
        ("--hub_token=x", "tokens are never flags"),
        ("--overwrite_output_dir", "kept if nothing changed; --force_restart makes it anew"),
        ("--corpora=x", "did you mean --corpus?"),
        ("--base_modle=x", "did you mean --model?"),
        ("--dataset_nam=x", "did you mean --corpus?"),
        ("--do_eval", "--help lists the known ones"),  # its answer speaks of a flag that is not here
        ("--moddel=x", "did you mean --model?"),
        ("--max_steps=9", "--help lists the known ones"),  # alike, but another thing than max_samples
        ("--eval_steps=9", "--help lists the known ones"),  # alike to max_eval_samples
        ("--device=cuda", "accelerate_configs/cpu.yaml"),
    ],
)
def test_other_habits_are_answered(typed, answer):
    with pytest.raises(UserError) as error:
        habits(typed)
    assert answer in str(error.value)


def test_a_token_is_not_repeated():
    with pytest.raises(UserError) as error:
        habits("--hub_token=hf_secret")
    assert "hf_secret" not in str(error.value)


def test_words_are_checked_without_side_effects():
    check_words([Required], ["--corpus=x"])
    check_words([Required], [])  # what is required may still come
    for wrong in ("--corpu=x", "--max_samples=0"):
        with pytest.raises(UserError):
            check_words([Habits], [wrong])


@dataclass
class Together:
    low: int = flag("low", default=0)
    high: int | None = flag("high", default=None)

    def __post_init__(self):
        if self.high is not None and self.low > self.high:
            raise UserError(f"low must be at most high {self.high}, got {self.low}")


def test_values_that_do_not_fit_together_are_found_once_all_are_known():
    check_words(Together, ["--low=3", "--high=2"])
    with pytest.raises(UserError, match="low must be at most high 2, got 3"):
        check_words(Together, ["--low=3", "--high=2"], is_complete=True)


def test_flags_of_the_command_line_are_not_those_of_the_file(tmp_path):
    (tmp_path / "config.yaml").write_text("high: 2")
    assert given_flags(Together, [f"--config={tmp_path / 'config.yaml'}", "--low=1"]) == {"config", "low"}


@dataclass
class Typed:
    language: str = field(default="en", metadata={"help": "text"})
    seed: int = field(default=0, metadata={"help": "whole number"})
    rate: float = field(default=0.1, metadata={"help": "number"})
    plot: bool = field(default=False, metadata={"help": "switch"})
    of_two: int = field(default=0, metadata={"help": "flag of two words"})
    names: list[str] = field(default_factory=list, metadata={"help": "texts"})
    more: dict | str | None = field(default=None, metadata={"help": "mapping"})


def typed(write, text: str) -> Typed:
    return parse_arguments(Typed, ["--config", write(text)])[0]


@pytest.mark.parametrize(
    "word",
    [
        "no",
        "NO",
        "No",
        "on",
        "off",
        "yes",
        "y",
        "n",
        "true",
        "null_",
        "0123456",
        "1_000",
        "12:30",
        "12:30:45",
        "1e3",
        "0x1F",
        "0o17",
        "0b1",
        "2026-11-29",
        "1.10",
        ".inf",
        ".nan",
        "+3",
    ],
)
def test_a_text_in_yaml_is_what_was_typed(write, word):
    assert typed(write, f"language: {word}").language == word
    assert typed(write, f"names: [{word}, 'no']").names == [word, "no"]
    assert typed(write, f"language: '{word}'").language == word


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"seed": 1, "seed": 2}', "'seed' is given twice"),
        ('{"data": {"seed": 1, "seed": 2}}', "'seed' is given twice"),
        ('{"names": ["a", null]}', "names must be a list of words or numbers, got None"),
        ('{"names": [["a"]]}', "names must be a list of words or numbers, got .'a'."),
        ('{"Seed": 1}', "unknown key 'Seed'; did you mean --seed"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(tmp_path, suffix, text, message):
    (tmp_path / f"c.{suffix}").write_text(text)
    with pytest.raises(UserError, match=message):
        parse_arguments(Typed, ["--config", str(tmp_path / f"c.{suffix}")])


def test_values_of_json_are_what_was_typed(tmp_path):
    (tmp_path / "c.json").write_text('{"language": 1.10, "names": [true, 0.50], "more": {"a": [1, 2.5, true]}}')
    found = parse_arguments(Typed, ["--config", str(tmp_path / "c.json")])[0]
    assert (found.language, found.names) == ("1.10", ["true", "0.50"])
    assert json.loads(found.more) == {"a": [1, 2.5, True]}


def test_a_file_in_another_encoding_says_which_to_save(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 1", encoding="utf-16")
    with pytest.raises(UserError, match="c.yaml is not valid.*save it as UTF-8"):
        parse_arguments(Typed, ["--config", str(tmp_path / "c.yaml")])


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("seed: 010", "seed", 10),
        ("seed: 7", "seed", 7),
        ("rate: 1e-4", "rate", 1e-4),
        ("rate: 5.0e-5", "rate", 5e-5),
        *((f"plot: {word}", "plot", True) for word in ("on", "On", "yes", "true", "True", "y", "1")),
        *((f"plot: {word}", "plot", False) for word in ("off", "OFF", "no", "false", "n", "0")),
        ("more: {a: 2, b: 0.5, c: true, d: no, e: '3', f: [1, x], g: null}", "more", None),
        ("language:", "language", "en"),
        ("language: null", "language", "en"),
        ("language: ~", "language", "en"),
    ],
)
def test_numbers_switches_and_nothing_in_yaml(write, text, name, value):
    found = getattr(typed(write, text), name)
    if name == "more":
        found = json.loads(found) if isinstance(found, str) else found
        value = {"a": 2, "b": 0.5, "c": True, "d": "no", "e": "3", "f": [1, "x"], "g": None}
    assert found == value


@pytest.mark.parametrize("name", ["c.yaml", "c.json"])
def test_a_file_that_is_nothing_but_brackets_is_named(write, name):
    with pytest.raises(UserError, match=rf"{name} is not valid YAML or JSON: "):
        parse_arguments(Typed, [f"--config={write('[' * 10_000, name)}"])


@pytest.mark.parametrize("text", ["seed: 12:30", "seed: 0x1F", "rate: much", "plot: maybe", "seed: 1.5", "of_two: x"])
def test_a_value_in_yaml_that_is_none_is_named(write, text):
    with pytest.raises(UserError, match=rf"\.yaml: .*{text.partition(':')[0]}"):
        typed(write, text)


def test_a_wrong_value_on_the_command_line_is_not_that_of_the_file(write):
    file = write("seed: 7")
    with pytest.raises(UserError, match="seed") as told:
        parse_arguments(Typed, [f"--config={file}", "--seed=much"])
    assert str(file) not in str(told.value)
