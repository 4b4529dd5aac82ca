"""How any recipe runs: arguments, errors, logs, stages, pipelines, files that are complete or absent.

Imports nothing else of ours.
"""

from hf_components.runtime.arguments import parse_arguments, parse_pairs
from hf_components.runtime.disk import full_disk_explained, sync_folder
from hf_components.runtime.errors import NothingToTrainOnError, UserError
from hf_components.runtime.estimates import check_room, estimate_rest
from hf_components.runtime.json_lines import (
    GROUP,
    ID,
    SPEAKER,
    TEXT,
    as_id,
    id_field,
    read_by_id,
    read_json_lines,
    text_field,
)
from hf_components.runtime.locks import alone_in
from hf_components.runtime.logs import run_recipe
from hf_components.runtime.parquet_parts import join_parts, write_part
from hf_components.runtime.pipelines import (
    PipelineArguments,
    all_flags,
    finish_pipeline,
    passed_on_arguments,
    same_names,
    stage_options,
    stage_runner,
)
from hf_components.runtime.stages import environment, fingerprint, join_processes, read_proof, run_stage, write_json

__all__ = [
    "GROUP",
    "ID",
    "NothingToTrainOnError",
    "PipelineArguments",
    "SPEAKER",
    "TEXT",
    "UserError",
    "all_flags",
    "alone_in",
    "as_id",
    "check_room",
    "environment",
    "estimate_rest",
    "fingerprint",
    "finish_pipeline",
    "full_disk_explained",
    "id_field",
    "join_parts",
    "join_processes",
    "parse_arguments",
    "parse_pairs",
    "passed_on_arguments",
    "read_by_id",
    "read_json_lines",
    "read_proof",
    "run_recipe",
    "run_stage",
    "same_names",
    "stage_options",
    "stage_runner",
    "sync_folder",
    "text_field",
    "write_json",
    "write_part",
]
