"""Benchmark recognisers on one fixed sample: a row per system, every row on the same utterances."""
