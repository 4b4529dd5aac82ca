"""The fixed sample: later runs are scored on the same utterances."""

import dataclasses
import hashlib
from pathlib import Path

import datasets
from accelerate import PartialState

from hf_components.runtime import UserError, read_record, write_record
from hf_components.speech import Sampling


def sample_file(folder: Path, corpus: datasets.Dataset, split: str, sampling: Sampling) -> Path:
    """Path of the fixed sample; each split, corpus, size and seed has its own file."""
    digest = hashlib.sha256("\n".join(sorted(corpus["id"])).encode()).hexdigest()[:8]
    size = f"{sampling.percent:g}pct_{sampling.max_samples}"
    return folder / f"benchmark_samples_{split}_{digest}_{size}_{sampling.seed}.json"


def fixed_sample(corpus: datasets.Dataset, file: Path, sampling: Sampling) -> datasets.Dataset:
    """The utterances that `file` names; if it does not exist, a sample is drawn and written to it.

    Raises:
        UserError: the file cannot be written, is not such a sample, or names utterances that the corpus does not have.
    """
    state = PartialState()
    if state.is_main_process and not file.exists():
        ids = sampling.of(corpus)["id"][:]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_record(file, {**dataclasses.asdict(sampling), "size": len(ids), "ids": ids})
        except OSError as error:
            raise UserError(
                f"cannot write the sample {file}: {error.strerror}; choose another --output_dir or --sample_file"
            ) from error
    state.wait_for_everyone()
    ids = read_record(file, {"ids": [str]}, "it is not a sample that benchmark_asr drew; delete it to draw one")["ids"]
    rows = {name: row for row, name in enumerate(corpus["id"])}
    missing = [name for name in ids if name not in rows]
    if missing:
        raise UserError(
            f"{file} names {len(missing)} utterances that the corpus lacks, such as {missing[0]}; delete the file to "
            "draw another sample"
        )
    return corpus.select([rows[name] for name in ids])
