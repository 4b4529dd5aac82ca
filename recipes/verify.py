"""Verify a finished folder: what is damaged, stale (its inputs changed since), foreign or unfinished.

accelerate launch --quiet --config_file accelerate_configs/cpu.yaml \\
    recipes/verify.py runs/moe

Takes the folder of a stage, or of a whole run. Every file is read in full and compared with the completion record
(stage.json) of the stage that wrote it, and every input with what the stage has read. Cards, plots and logs may have
been edited. Exit code 0: all is well. 1: something is not, and the report says what to do.
"""

import dataclasses
from dataclasses import dataclass

from hf_components.reporting import show
from hf_components.runtime import LogArguments, flag, parse_arguments, run_recipe, verify_folder

# What is found -> what to do.
REMEDIES = {
    "damaged": "not as it was written: delete the stage's folder and run the same command again",
    "stale": "made from inputs that changed since: run the same command again to make it anew",
    "foreign": "no stage wrote it: move it elsewhere, or delete it",
    "unfinished": "left by an interruption: run the same command again to continue, or delete it",
    "unknown": "cannot be compared, which does no harm",
}


@dataclass
class Arguments(LogArguments):
    folder: str = flag("folder to verify, may stand without --folder")


def main(argv: list[str] | None = None) -> dict:
    (args,) = parse_arguments(Arguments, argv, __doc__, leading="folder")
    findings = verify_folder(args.folder)
    for kind, remedy in REMEDIES.items():
        if found := getattr(findings, kind):
            show(f"{kind} ({remedy}):\n" + "\n".join(f"  {line}" for line in found))
    show(f"{findings.stages} stages with {findings.files} files: {'all is well' if findings.are_well else 'not well'}")
    return {**dataclasses.asdict(findings), "exit_status": 0 if findings.are_well else 1}


if __name__ == "__main__":
    run_recipe(main)
