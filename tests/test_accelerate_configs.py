"""Every launch configuration loads in the installed accelerate and is what its name says."""

import pytest
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from paths import ROOT

pytestmark = pytest.mark.unit

FOLDER = ROOT / "accelerate_configs"
# name: (distributed_type, use_cpu, machines, more than one process)
EXPECTED = {
    "cpu": (DistributedType.NO, True, 1, False),
    "multi_cpu": (
        DistributedType.MULTI_GPU,
        True,
        1,
        True,
    ),  # the launcher's only way to several processes without MPI
    "single_gpu": (DistributedType.NO, False, 1, False),
    "multi_gpu": (DistributedType.MULTI_GPU, False, 1, True),
    "fsdp": (DistributedType.FSDP, False, 1, True),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, False, 1, True),
    "multi_node": (DistributedType.MULTI_GPU, False, 2, True),
}


def test_no_configuration_is_missing_or_unknown():
    assert {path.stem for path in FOLDER.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_configuration_loads_and_is_what_its_name_says(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    kind, use_cpu, machines, several = EXPECTED[name]
    assert (config.distributed_type, config.use_cpu, config.num_machines) == (kind, use_cpu, machines)
    assert (config.num_processes > 1) == several
    assert config.num_processes % config.num_machines == 0
    assert config.mixed_precision == ("bf16" if name == "fsdp" else "no")  # elsewhere the recipe chooses


@pytest.mark.parametrize("name", EXPECTED)
def test_launcher_accepts_the_configuration(name):
    parser = launch_command_parser()
    given = parser.parse_args(
        ["--config_file", str(FOLDER / f"{name}.yaml"), "--main_process_ip", "10.0.0.1", "recipe.py"]
    )
    args, defaults, _ = _validate_launch_command(given)
    assert args.num_processes == defaults.num_processes
    assert args.use_fsdp == (name == "fsdp")
    assert args.use_deepspeed == (name == "deepspeed_zero2")
    assert args.multi_gpu == (name in ("multi_cpu", "multi_gpu", "multi_node"))
