"""SkyPilot's file asks for what the parcel holds; SkyPilot itself needs an environment of its own and is not
imported."""

import re
import shlex

import pytest
import yaml
from paths import ROOT

from launchers import parcel

pytestmark = pytest.mark.unit

TEXT = (ROOT / "launchers" / "sky.yaml").read_text()


def test_it_runs_what_the_parcel_holds():
    task = yaml.safe_load(TEXT)
    assert task["resources"]["cloud"] == "runpod"
    script = task["run"].split()[1]
    assert script.split("/")[0] in parcel.BESIDE_IT and (ROOT / script).is_file()
    assert (ROOT / "recipes" / f"{task['envs']['RECIPE']}.py").is_file()
    assert set(re.findall(r"\$(\w+)", task["run"])) == set(task["envs"])
    assert task["secrets"] == {"HF_TOKEN": ""}


def test_the_line_above_it_is_complete():
    line = re.search(r"uvx --from .*?(?=\n#\n)", TEXT, re.DOTALL).group().replace("\\\n#", " ")
    words = shlex.split(line)
    assert words[:5] == ["uvx", "--from", "skypilot[runpod]", "sky", "launch"]
    given = {word.partition("=")[0] for word, flag in zip(words[1:], words, strict=False) if flag == "--env"}
    assert given == set(yaml.safe_load(TEXT)["envs"])
    assert words[words.index("--secret") + 1] == "HF_TOKEN" and "launchers/sky.yaml" in words


def test_the_machine_ends_with_the_recipe_as_it_says():
    assert "--down" in re.search(r"sky launch (.*)", TEXT).group(1) and "ended when the recipe is" in TEXT
