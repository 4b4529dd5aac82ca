"""Write what a builder lists as a prepared corpus: Parquet with the audio inside, rejections, records, data card."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset
from huggingface_hub import DatasetCardData

from dataset_scripts.corpus_builder import CorpusBuilder, write_rejected
from hf_components.publishing import render_card
from hf_components.runtime import write_json
from hf_components.speech import LONG

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
BUILDING = "building"
PLACES = (
    "data_dir",
    "manifest",
    "samples",
    "audio_dirs",
    "val_manifest",
    "split_file",
)  # options the card does not print


def write_corpus(
    builder_class: type[CorpusBuilder],
    folder: Path,
    options: dict[str, Any],
    *,
    num_proc: int = 1,
    shard_megabytes: int = 500,
    name: str,
    source: str,
    license: str | None = None,
    language: str | None = None,
) -> dict[str, Any]:
    """Run a builder and write `data/<split>-00000-of-0000N.parquet`, `rejected.jsonl`, the builder's records and the
    card.

    Rows are streamed to disk in shards. Run again in a folder where it was killed, with the same options and inputs,
    it goes on from the finished shards and leaves the same bytes as a run that was never killed.

    Args:
        options: of the builder.
        num_proc: worker processes; the result does not depend on it.
        shard_megabytes: a Parquet file is closed once it has this size.
        name, source, license, language: for the card.
    Returns:
        rows per split (a split whose rows were all rejected is not there), rejected and remarked rows per reason,
        groups (see `summarise`), and its records.
    Raises:
        UserError: no row is left; and what the builder raises.
    """
    data = folder / "data"
    building = folder / BUILDING
    data.mkdir(exist_ok=True)
    # The inputs are the stage's to compare, so that not all files are read once more for a key of this cache.
    builder = builder_class(cache_dir=str(building), config_id="default", **options)
    listing = builder.read_manifests()
    prepared = builder.write_shards(listing, building / "shards", num_proc, shard_megabytes)
    for split, files in prepared.files.items():
        for number, file in enumerate(files):
            if file.exists():  # else it has been moved before a kill
                file.replace(data / f"{split}-{number:05d}-of-{len(files):05d}.parquet")
    write_rejected(folder, prepared.rejected)
    for record, content in prepared.records.items():
        write_json(folder / f"{record}.json", content)
    splits = [split for name in listing.splits for split in (name, name + LONG) if split in prepared.rows]
    metrics = {
        "rows": {split: prepared.rows[split] for split in splits},
        "rejected": dict(Counter(row["reason"] for row in prepared.rejected).most_common()),
        "remarks": {remark: len(ids) for remark, ids in prepared.remarks.items()},
        "groups": summarise(folder, splits),
        **prepared.records,
    }
    write_card(
        folder,
        metrics,
        name=name,
        source=source,
        license=license,
        language=language,
        options={option: value for option, value in options.items() if option not in PLACES},
        max_duration=builder.config.max_duration,
        tasks=builder_class.TASKS,
    )
    shutil.rmtree(building)  # last, since a run killed before it goes on from what is there
    return metrics


def summarise(folder: Path, splits: list[str]) -> list[dict[str, Any]]:
    """Utterances, speakers and hours of each split and group, read from the columns of the Parquet files."""
    table = []
    for split in splits:
        columns = (
            pyarrow.dataset.dataset(sorted((folder / "data").glob(f"{split}-*.parquet")), format="parquet")
            .to_table(columns=["group", "speaker_id", "duration"])
            .to_pandas()
        )
        for group, rows in columns.groupby("group"):
            table.append(
                {
                    "split": split,
                    "group": group,
                    "utterances": len(rows),
                    "speakers": rows.speaker_id.nunique(),
                    "hours": rows.duration.sum() / 3600,
                }
            )
    return table


def write_card(
    folder: Path,
    metrics: dict[str, Any],
    *,
    name: str,
    source: str,
    options: dict[str, Any],
    max_duration: float,
    tasks: Sequence[str],
    license: str | None = None,
    language: str | None = None,
) -> None:
    """Write `README.md`: metadata by which `load_dataset(folder)` finds the splits, and what is in them."""
    total = sum(metrics["rows"].values())
    splits = list(metrics["rows"])
    metadata = DatasetCardData(
        pretty_name=name,
        license=license,
        language=language,
        task_categories=list(tasks) or None,
        size_categories=next((size for limit, size in SIZES if total < limit), "n>1M"),
        configs=[
            {
                "config_name": "default",
                "description": f"content {_digest(folder / 'data')}",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )
    shown = {**metrics, "name": name, "source": source, "options": options, "max_duration": max_duration}
    (folder / "README.md").write_text(render_card("dataset.md", shown, metadata))


def _digest(folder: Path) -> str:
    """SHA-256 of the files of a folder.

    `load_dataset` keys its cache of a folder by the metadata of its card alone, not by the files: without the digest
    there, a corpus prepared anew in the same place would be served stale.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
