"""What every recipe needs to run: arguments, errors, logs, stages, pipelines, atomic files.

This package imports no other package of the project.
"""

from hf_components.runtime.arguments import parse_arguments, parse_own_arguments, parse_pairs
from hf_components.runtime.completion import environment, read_completion, write_json, write_record
from hf_components.runtime.disk import (
    NO_SPACE,
    atomic_write,
    full_disk_explained,
    make_folder,
    note_written,
    sync,
    sync_folder,
    want_of_space,
)
from hf_components.runtime.errors import NothingToTrainOnError, UserError, causes, first_few
from hf_components.runtime.estimates import estimate_rest, peak_memory_gib, warn_of_full_disk
from hf_components.runtime.files import (
    broken_link,
    files_below,
    is_foreign_link,
    is_invisible,
    is_stream,
    is_utf8,
    leads_out,
    looks_like,
    natural_order,
    place_for,
    printable,
    require_there,
    same_path,
    spelled_otherwise,
    visible,
    why_unreadable,
)
from hf_components.runtime.fingerprints import check_stage, fingerprint, fingerprint_of_earlier_versions
from hf_components.runtime.flags import SEEDS, add_bounds, flag
from hf_components.runtime.json_lines import (
    GROUP,
    ID,
    PHONETIC,
    SEEN,
    SPEAKER,
    TEXT,
    TwinKeysError,
    as_id,
    as_label,
    id_field,
    label_field,
    parse_json,
    read_by_id,
    read_json_lines,
    text_field,
    what_instead,
    write_json_lines,
)
from hf_components.runtime.locks import alone_in
from hf_components.runtime.logs import run_recipe, write_to_file
from hf_components.runtime.memory import free_memory, full_memory_explained
from hf_components.runtime.packaged import packaged_weights
from hf_components.runtime.parquet_parts import join_parts, read_part, write_part
from hf_components.runtime.pipeline import Pipeline, PipelineArguments, Step
from hf_components.runtime.processes import gathered, join_processes, of_main, share_of
from hf_components.runtime.progress import Progress
from hf_components.runtime.recipe_arguments import (
    LogArguments,
    PlotArguments,
    RecipeArguments,
    ResumeArguments,
    SeedArguments,
    tracker_flag,
)
from hf_components.runtime.records import (
    FILES,
    NUMBER,
    check_files,
    damage_named,
    describe_files,
    file_digest,
    parse_record,
    read_record,
    sealed,
)
from hf_components.runtime.stage_folder import SCRATCH, require_apart
from hf_components.runtime.stages import run_as_stage, run_stage
from hf_components.runtime.step_flags import all_flags, passed_on_arguments, same_names
from hf_components.runtime.verification import verify_folder
