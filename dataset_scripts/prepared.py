"""Write the listing of a builder as a prepared corpus: Parquet with audio inside, rejections, records, data card."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset
from huggingface_hub import DatasetCardData

from dataset_scripts.corpus_builder import CorpusBuilder, write_rejected
from dataset_scripts.parquet_files import place_files
from hf_components.publishing import render_card
from hf_components.runtime import SCRATCH, write_json, write_to_file
from hf_components.speech import LONG, content_digest, count_speakers

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MOST_LOGGED = 1000  # rejected rows in the log file
# Options that the card does not print.
PLACES = ("data_dir", "manifest", "samples", "audio_dirs", "val_manifest", "split_file")


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
    """Run a builder and write `data/<split>-00000-of-0000N.parquet`, `rejected.jsonl`, its records and the card.

    Rows are streamed to disk in shards. After a kill, a run in the same folder with the same options and inputs
    continues from the finished shards, and leaves the same bytes as a run that was never killed.

    Args:
        options: options of the builder.
        num_proc: worker processes; the result does not depend on it.
        shard_megabytes: size at which a Parquet file is closed; smaller ones are joined up to it.
        name, source, license, language: texts for the card.
    Returns:
        rows per split (without splits whose rows were all rejected), rejected and remarked rows per reason, groups
        (see `summarise`), and the records.
    Raises:
        UserError: no row is left; and the errors of the builder.
    """
    data = folder / "data"
    building = folder / SCRATCH
    data.mkdir(exist_ok=True)
    # The stage compares the inputs: a fixed id saves reading all files again for a key of this cache.
    builder = builder_class(cache_dir=str(building), config_id="default", **options)
    listing = builder.read_manifests()
    prepared = builder.write_shards(listing, building / "shards", num_proc, shard_megabytes)
    place_files(prepared, data, building, shard_megabytes * 10**6)
    write_rejected(folder, prepared.rejected)
    log_rejected(prepared.rejected)
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
    return metrics


def log_rejected(rejected: Sequence[dict[str, Any]]) -> None:
    for row in rejected[:MOST_LOGGED]:
        write_to_file(f"rejected: {row['id']}, {row['file']}: {row['reason']}")
    if len(rejected) > MOST_LOGGED:
        write_to_file(f"rejected: {len(rejected) - MOST_LOGGED} more, see rejected.jsonl")


def summarise(folder: Path, splits: list[str]) -> list[dict[str, Any]]:
    """Count utterances, speakers and hours of each split and group, from the columns of the Parquet files.

    `speakers` is None if nobody is known.
    """
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
                    "speakers": count_speakers(rows.speaker_id),
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
    """Write `README.md`: the metadata with which `load_dataset(folder)` finds the splits, and their content."""
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
                "description": f"content {content_digest(folder / 'data')}",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )
    shown = {**metrics, "name": name, "source": source, "options": options, "max_duration": max_duration}
    (folder / "README.md").write_text(render_card("dataset.md", shown, metadata), encoding="utf-8")
