"""The lines of use of a card, run as its readers run them: without this project, unless the lines import it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import soundfile
from bare_python import bare_python
from paths import ROOT
from tiny_speech import tone

from hf_components.publishing.cards import HERE

RUNNER = """
import json, sys
for number, block in enumerate(json.load(open(sys.argv[1]))):
    print("block", number)
    exec(compile(block, f"block {number}", "exec"), {"__name__": "__main__"})
"""


def run_blocks(card: str, home: Path, *, folder: Path | None = None, environment: dict[str, str] | None = None) -> int:
    """Run every Python block of a card by itself, beside a recording `speech.wav`; the number of them.

    Args:
        card: text of it.
        home: folder of the reader.
        folder: of what the card describes; None for a card from the Hub, which names its repository.
        environment: of the processes.
    Raises:
        AssertionError: with what a block said when it failed, or the card has a block of another kind, or none.
    """
    text = card if folder is None else card.replace(HERE, str(folder))
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks = [block for block in blocks if block[0] != "bibtex"]
    assert blocks and {language for language, _ in blocks} == {"python"} and HERE not in text
    home.mkdir(exist_ok=True)
    soundfile.write(home / "speech.wav", tone(0, 0, 1.0), 16_000)
    ours = [code for _, code in blocks if "hf_components" in code]
    stock = [code for _, code in blocks if "hf_components" not in code]
    environment = {**(environment or os.environ), "CUDA_VISIBLE_DEVICES": ""}
    run(bare_python(home / "stranger"), stock, home, environment)
    run(sys.executable, ours, home, {**environment, "PYTHONPATH": str(ROOT)})
    return len(blocks)


def run(python: Path | str, codes: list[str], home: Path, environment: dict[str, str]) -> None:
    if not codes:
        return
    (home / "blocks.json").write_text(json.dumps(codes))
    ran = subprocess.run(
        [python, "-c", RUNNER, "blocks.json"], cwd=home, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, f"{ran.stdout[-500:]}\n{ran.stderr[-3000:]}"
