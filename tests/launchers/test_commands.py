"""What the launchers share: a command that the other machine would refuse is refused here."""

import pytest
from paths import ROOT

from launchers import runpod
from launchers.commands import Parser, UserError, check_remote, values_of

pytestmark = pytest.mark.unit

CHILDREN = "recipes/configs/run_children_pipeline"


def check(recipe: str, *words: str) -> None:
    check_remote(recipe, list(words), folders=("/data", "runs"), advice="copy it to /data")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", f"{CHILDREN}/quick.yaml", "--data", "user/children"], "models/whisper-tiny.en is made on this"),
        (["--model=models/whisper-tiny.en"], "give a Hub id, such as openai/whisper-tiny.en"),
        (["--data", "/home/me/children"], "--data /home/me/children will not be there: copy it to /data"),
        (["--data", "./children"], "--data ./children will not be there"),
        (["--data", "recipes"], "--data recipes will not be there"),
        (["--config", "my.yaml"], "only files in recipes/ are sent"),
        (["--config", f"{ROOT}/{CHILDREN}/default.yaml"], "only files in recipes/ are sent"),
        (["--lora-rnak", "4"], "did you mean --lora_rank"),
        (["--num_train_epochs", "0"], "--num_train_epochs must be above 0, got 0"),
    ],
)
def test_what_the_other_machine_would_refuse_is_refused_here(words, message):
    with pytest.raises(UserError, match=message):
        check("run_children_pipeline", *words)


@pytest.mark.parametrize(
    "words",
    [
        ["--config", f"{CHILDREN}/default.yaml", "--data", "user/children", "--output_dir", "runs/children"],
        ["--data", "/data/children", "--model", "openai/whisper-small"],
        ["--data", "runs/children/corpus", "--model=/data/model"],
        ["--config", f"{CHILDREN}/quick.yaml", "--model", "openai/whisper-tiny.en"],
    ],
)
def test_what_it_would_take_is_not(words):
    check("run_children_pipeline", *words)


@pytest.mark.parametrize("flag", ["--gpu", "--dry-run", "--gpu=L4"])
def test_a_flag_of_the_launcher_behind_the_recipe_is_named(flag):
    parser = Parser("")
    parser.flag("--gpu")
    with pytest.raises(UserError, match="is a flag of the launcher: write it in front of publish"):
        parser.parse(["publish", flag])


def test_a_smoke_test_takes_models_of_the_hub():
    for recipe in ("run_children_pipeline", "run_moe_pipeline", "run_wav2vec2_pipeline", "run_units_pipeline"):
        args = runpod.arguments(["--debug", recipe, "--data", "user/corpus"])
        values = values_of(args.words)
        assert values["--config"] == f"recipes/configs/{recipe}/quick.yaml"
        assert not any(value.startswith("models/") for value in values.values())
    assert (
        "facebook/wav2vec2-base-960h" in runpod.arguments(["--debug", "run_wav2vec2_pipeline", "--data", "a/b"]).words
    )


def test_a_smoke_test_keeps_the_model_that_was_given():
    words = runpod.arguments(["--debug", "run_moe_pipeline", "--data", "a/b", "--model", "a/whisper"]).words
    assert values_of(words)["--model"] == "a/whisper"


def test_a_smoke_test_needs_a_quick_configuration():
    with pytest.raises(UserError, match="leave --debug out"):
        runpod.arguments(["--debug", "publish", "x"])
