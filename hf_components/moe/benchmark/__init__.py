"""Benchmark recognisers on one fixed sample: one row per system, all rows on the same utterances."""

from hf_components.moe.benchmark.combining import ALL, COMBINATIONS, choose_combinations
from hf_components.moe.benchmark.cross_validation import cross_validated
from hf_components.moe.benchmark.report import (
    add_to_index,
    copy_result,
    plot_benchmark,
    summary_tables,
    write_benchmark,
    write_transcripts,
)
from hf_components.moe.benchmark.routing import TOP_1, corpus_gates, routing_summary, run_mixture
from hf_components.moe.benchmark.rows import Row, run_row, score_rows
from hf_components.moe.benchmark.sample import fixed_sample, sample_file
from hf_components.moe.benchmark.systems import FLAGS, choose_systems, load_system, mixture_config, row_title
