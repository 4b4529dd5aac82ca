"""Write what a builder yields as a prepared corpus: Parquet with the audio inside, rejections, data card."""

import hashlib
import json
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset
from huggingface_hub import DatasetCard, DatasetCardData

from dataset_scripts.corpus_builder import CorpusBuilder
from hf_components.errors import UserError

logger = logging.getLogger(__name__)

CARD = Path(__file__).parents[1] / "model_cards" / "dataset.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_parquet(builder_class: type[CorpusBuilder], folder: Path, *, num_proc: int = 1, shard_megabytes: int = 500,
                  **options: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Run a builder and write `data/<split>-00000-of-0000N.parquet` and `rejected.jsonl` below `folder`.

    Rows are streamed to disk.

    Args:
        num_proc: worker processes; each writes its own shards.
        shard_megabytes: a shard is closed once it has this size.
        options: of the builder.
    Returns:
        rows per split (a split whose rows were all rejected is not written), and rejected rows per reason.
    Raises:
        UserError: no row is left; and what the builder raises.
    """
    data, building = folder / "data", folder / "building"
    for leftover in (data, building):  # of an interrupted run
        shutil.rmtree(leftover, ignore_errors=True)
    data.mkdir()
    builder = builder_class(cache_dir=str(building), **options)
    output = building / "parquet"
    builder.download_and_prepare(output, file_format="parquet", max_shard_size=shard_megabytes * 10**6,
                                 num_proc=num_proc if num_proc > 1 else None)
    rejected = builder.rejections()
    rows = {name: info.num_examples for name, info in builder.info.splits.items()}
    reasons = dict(Counter(row["reason"] for row in rejected).most_common())
    if not any(rows.values()):
        found = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise UserError(f"{options['data_dir']} has no usable utterance: {found}; for example {rejected[0]['file']}: "
                        f"{rejected[0]['detail']}")
    for split, count in rows.items():
        shards = sorted(output.glob(f"{builder.dataset_name}-{split}.parquet")) or \
            sorted(output.glob(f"{builder.dataset_name}-{split}-*.parquet"))
        for number, shard in enumerate(shards if count else []):
            shard.replace(data / f"{split}-{number:05d}-of-{len(shards):05d}.parquet")
    shutil.rmtree(building)
    with (folder / "rejected.jsonl").open("w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rejected)
    for split in (split for split, count in rows.items() if not count):
        logger.warning("every row of the split %s was rejected; it is left out", split)
    return {split: count for split, count in rows.items() if count}, reasons


def summarise(folder: Path, splits: list[str]) -> list[dict[str, Any]]:
    """Utterances, speakers and hours of each split and group, read from the columns of the Parquet files."""
    table = []
    for split in splits:
        columns = pyarrow.dataset.dataset(sorted((folder / "data").glob(f"{split}-*.parquet")), format="parquet") \
            .to_table(columns=["group", "speaker_id", "duration"]).to_pandas()
        for group, rows in columns.groupby("group"):
            table.append({"split": split, "group": group, "utterances": len(rows),
                          "speakers": rows.speaker_id.nunique(), "hours": rows.duration.sum() / 3600})
    return table


def write_card(folder: Path, table: list[dict], rejected: dict[str, int], *, name: str, source: str,
               options: dict[str, Any], license: str | None = None, language: str | None = None) -> None:
    """Write `README.md`: metadata by which `load_dataset(folder)` finds the splits, and what is in them."""
    total = sum(row["utterances"] for row in table)
    splits = dict.fromkeys(row["split"] for row in table)
    metadata = DatasetCardData(
        pretty_name=name, license=license, language=language, task_categories=["automatic-speech-recognition"],
        size_categories=next((size for limit, size in SIZES if total < limit), "n>1M"),
        configs=[{"config_name": "default", "description": f"content {_digest(folder / 'data')}",
                  "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]}])
    DatasetCard.from_template(metadata, template_path=str(CARD), name=name, source=source, options=options, table=table,
                              rejected=rejected).save(folder / "README.md")


def _digest(folder: Path) -> str:
    """SHA-256 of the files of a folder.

    `load_dataset` keys its cache of a folder by the metadata of its card alone, not by the files: without the digest there,
    a corpus prepared anew in the same place would be served stale.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
