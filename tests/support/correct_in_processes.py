"""Run by a test through `accelerate launch` with two processes: `correct_in_processes.py LLM FOLDER`."""

import json
import sys
from pathlib import Path

from paths import ROOT

sys.path.insert(0, str(ROOT))

from tiny_llm import script

from hf_components.correction.arguments import CorrectionArguments, load_corrector
from hf_components.correction.record import correct_to_file
from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.processes import join_processes

if __name__ == "__main__":
    llm, folder = sys.argv[1:]
    # as every recipe begins
    (args,) = parse_arguments(CorrectionArguments, ["--llm_model", llm, "--llm_batch_size", "2"])
    state = join_processes()
    corrector = load_corrector(args)
    asked = script(corrector, lambda shown: shown)
    texts = ["word " * (i + 1) + "end" for i in range(9)]
    found = correct_to_file(corrector, [f"u{i}" for i in range(9)], texts, Path(folder) / "corrections.jsonl")
    assert [correction.heard for correction in found] == texts
    Path(folder, f"asked_{state.process_index}.json").write_text(
        json.dumps([text for batch in asked[1:] for text in batch])
    )
    assert state.num_processes == 2
    state.wait_for_everyone()
    state.destroy_process_group()
