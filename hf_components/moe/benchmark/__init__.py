"""Benchmark recognisers on one fixed sample: a row per system, every row on the same utterances."""

from hf_components.moe.benchmark.report import (
    add_to_index,
    copy_result,
    plot_benchmark,
    summary_tables,
    write_benchmark,
    write_transcripts,
)
from hf_components.moe.benchmark.routing import TOP_1, corpus_gates, routing_summary, run_mixture
from hf_components.moe.benchmark.rows import Row, judge, run_row
from hf_components.moe.benchmark.sample import fixed_sample, sample_file
from hf_components.moe.benchmark.systems import FLAGS, choose_systems, load_system, mixture_config

__all__ = [
    "FLAGS",
    "Row",
    "TOP_1",
    "add_to_index",
    "choose_systems",
    "copy_result",
    "corpus_gates",
    "fixed_sample",
    "judge",
    "load_system",
    "mixture_config",
    "plot_benchmark",
    "routing_summary",
    "run_mixture",
    "run_row",
    "sample_file",
    "summary_tables",
    "write_benchmark",
    "write_transcripts",
]
