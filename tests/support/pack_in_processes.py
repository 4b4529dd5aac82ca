"""Run by a test through `accelerate launch` with two processes: `pack_in_processes.py FOLDER FLAG ...`.

Each writes what `pack_submission` returned to it, and how often it wrote a package, to FOLDER.
"""

import json
import sys
from pathlib import Path

from paths import ROOT

sys.path.insert(0, str(ROOT))

from accelerate import PartialState

from recipes import pack_submission

if __name__ == "__main__":
    folder, *flags = sys.argv[1:]
    written, write = [], pack_submission.write_package
    pack_submission.write_package = lambda *arguments: (written.append(arguments), write(*arguments))
    result, state = pack_submission.main(flags), PartialState()
    assert state.num_processes == 2
    Path(folder, f"{state.process_index}.json").write_text(json.dumps({"result": result, "written": len(written)}))
    state.wait_for_everyone()
    state.destroy_process_group()
