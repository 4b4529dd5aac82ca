"""How a step is started as its pipeline was; that both end together is tested in test_logs.py."""

import shlex
import subprocess
import sys

import pytest
from paths import ROOT

from hf_components.runtime.errors import UserError
from hf_components.runtime.launcher import NUMBERS_OF_PROCESSES, check_processes, launch_words

pytestmark = pytest.mark.unit
CPU = "accelerate launch --quiet --config_file accelerate_configs/cpu.yaml"


@pytest.mark.parametrize(
    ("of_launcher", "words"),
    [
        (f"python bin/{CPU} recipes/x.py --quiet launch", CPU),
        ("python bin/accelerate launch --config_file a.yaml --num_processes 2 recipes/x.py", None),
        ("python bin/accelerate launch -q recipes/x.py --config b.yaml", "accelerate launch --quiet"),
        ("python recipes/x.py", CPU),
        ("python bin/accelerate launch --module x", CPU),
        ("", CPU),
    ],
)
def test_a_step_is_launched_as_its_pipeline_was(of_launcher, words):
    words = words or "accelerate launch --quiet --config_file a.yaml --num_processes 2"
    assert shlex.join(launch_words("recipes/x.py", of_launcher.split())) == words


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the command line of the parent")
def test_the_words_of_the_launcher_are_read(tmp_path):
    code = "from hf_components.runtime.launcher import launch_words; print(*launch_words(), flush=True)"
    (tmp_path / "recipe.py").write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\n")
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", "accelerate_configs/cpu.yaml", "--main_process_port=0", str(tmp_path / "recipe.py")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == f"{CPU} --main_process_port=0\n"


@pytest.mark.parametrize("name", NUMBERS_OF_PROCESSES)
def test_a_variable_left_in_the_shell_is_named(name, monkeypatch):
    monkeypatch.setenv(name, "-1")  # torch's word for "none"
    check_processes()
    monkeypatch.setenv(name, "two")
    with pytest.raises(UserError, match=f"^{name} must be a whole number, got 'two'; .* unset it"):
        check_processes()
