"""Every record that is read back, damaged in every way: a `UserError` that names the file, and never a traceback."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file
from tiny_motifs import TABLE, pair_motif
from tiny_speech import rows

from dataset_scripts import shards
from hf_components.asr import transcripts
from hf_components.checkpoints import soups, training_checkpoints
from hf_components.correction import record as corrections
from hf_components.correction.corrector import Correction
from hf_components.moe import experts, labels, router
from hf_components.moe.benchmark import report, sample
from hf_components.moe.clustering.embeddings import load_embeddings
from hf_components.publishing import stage_card
from hf_components.runtime import parquet_parts, pipeline, records, stages
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import summarise_corpus
from hf_components.speech.sampling import Sampling
from hf_components.speech.splits import read_split
from hf_components.units.learning import features, kmeans, learner
from hf_components.units.motifs.bpe import Motifs
from hf_components.units.table import read_units, units_schema
from hf_components.whisper.router import UtteranceRouter
from recipes import learn_units, sweep_units

pytestmark = pytest.mark.unit
Record = tuple[Path, Callable[[], object]]  # the file, and what reads it


def put(file: Path, value: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


def finished(folder: Path) -> Record:
    stages.run_stage(folder / "stage", lambda place: {"wer": 0.5}, config={"n": 1})
    return folder / "stage" / "stage.json", lambda: stages.run_stage(
        folder / "stage", lambda place: {}, config={"n": 1}, resume=True
    )


def finished_input(folder: Path) -> Record:
    file, _ = finished(folder)
    return file, lambda: stages.fingerprint(file.parent)


def started(folder: Path) -> Record:
    def stop(place):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        stages.run_stage(folder / "stage", stop, config={"n": 1})
    return folder / ".stage.partial" / "started.json", lambda: stages.run_stage(
        folder / "stage", lambda place: {}, config={"n": 1}, resume=True
    )


def figures_of_a_step(folder: Path) -> Record:
    file = put(folder / "results.json", {"wer": 0.5})
    return file, lambda: pipeline.Step(folder, {}).read("results.json")


class NoRecordings:
    ids = ()


def transcripts_summary(folder: Path) -> Record:
    put(folder / "texts.jsonl", "")
    summary = {"identity": {}, "recordings": "0", "metrics": {"failed": 0}}
    file = put(folder / "texts.summary.json", summary)
    return file, lambda: transcripts.read_finished(folder / "texts.jsonl", {}, NoRecordings())


def transcripts_started(folder: Path) -> Record:
    file = put(folder / "started.json", {})
    return file, lambda: transcripts._open_partial(folder, {}, resume=True)


def transcripts_line(folder: Path) -> Record:
    written = transcripts.Written(transcripts.Transcript("a", "text", 1.0), None, 0.1)
    file = put(folder / "000000-0.jsonl", json.dumps(dataclasses.asdict(written)) + "\n")
    return file, lambda: transcripts._read_partial(folder)


def corrections_line(folder: Path) -> Record:
    line = {
        "id": "a",
        **dataclasses.asdict(Correction("a", [], ["a"], "b", "b", True, "corrected", 0.1)),
        "asked": "x",
    }
    file = put(folder / "corrections.jsonl", json.dumps(line) + "\n")
    return file, lambda: corrections._read(file, {"x"})


def base_of_a_checkpoint(folder: Path) -> Record:
    file = put(folder / "base.json", {"base_model": "", "fingerprint": ""})
    return file, lambda: records.read_record(file, training_checkpoints.BASE_FORM, "delete it")


def marker_of_a_checkpoint(folder: Path) -> Record:
    place = folder / "checkpoint-1"
    put(place / "base.json", {})
    training_checkpoints.mark_complete(place, {"step": 1})
    return place / "complete", lambda: training_checkpoints.last_complete_checkpoint(folder)


def index_of_weights(folder: Path) -> Record:
    file = put(folder / "model.safetensors.index.json", {"weight_map": {"a": "a.safetensors"}})
    return file, lambda: list(soups._tensor_files(folder))


def adapter(folder: Path) -> Record:
    file = put(folder / "adapter_config.json", {"base_model_name_or_path": "a"})
    return file, lambda: soups._base_of(folder)


def published_config(folder: Path) -> Record:
    file = put(folder / "config.json", {"model_type": "whisper"})
    return file, lambda: stage_card.read_fields(file)


def benchmark_sample(folder: Path) -> Record:
    corpus = rows(3)
    file = put(folder / "sample.json", {"ids": corpus["id"][:]})
    return file, lambda: sample.fixed_sample(corpus, file, Sampling())


def benchmark_index(folder: Path) -> Record:
    file = put(folder / "index.jsonl", '{"sha256": "0"}\n')
    return file, lambda: report.add_to_index(file, [])


def report_of_units(folder: Path) -> Record:
    file = put(folder / learn_units.REPORT, {"units": {}})
    return file, lambda: learn_units.finish(folder)


def figures_of_a_sweep(folder: Path) -> Record:
    file = put(folder / "sweep.json", [{"layer": None, "num_units": 4}])
    return file, lambda: sweep_units.read_figures(folder)


def shard(folder: Path) -> Record:
    file = put(folder / "shard.json", {"files": [["train", 1]], "rejected": [], "remarks": {}, "statistics": []})
    return file, lambda: shards.collect([(folder, "train")])


def corpus_provenance(folder: Path) -> Record:
    rows(2).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    file = put(folder / "provenance.json", {"external_data": []})
    return file, lambda: summarise_corpus(folder)


def corpus_rejected(folder: Path) -> Record:
    rows(2).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    file = put(folder / "rejected.jsonl", '{"id": "a", "reason": "missing file"}\n')
    return file, lambda: summarise_corpus(folder)


def split(folder: Path) -> Record:
    file = put(folder / "splits.json", {"speakers": {"train": ["a"], "dev": ["b"]}})
    return file, lambda: read_split(file)


def embeddings_source(folder: Path) -> Record:
    _, read = embeddings_table(folder)
    return folder / "embeddings.json", read


def motifs_settings(folder: Path) -> Record:
    pair_motif(folder)
    return folder / "tokenizer_config.json", lambda: Motifs.from_pretrained(folder)


def motifs_tokenizer(folder: Path) -> Record:
    pair_motif(folder)
    return folder / "tokenizer.json", lambda: Motifs.from_pretrained(folder)


def router_sizes(folder: Path) -> Record:
    UtteranceRouter(4, 4, 2).save(folder, router_layer=1)
    return folder / UtteranceRouter.CONFIG, lambda: experts.load_router(folder)


JSON = [
    finished,
    finished_input,
    started,
    figures_of_a_step,
    transcripts_summary,
    transcripts_started,
    transcripts_line,
    corrections_line,
    base_of_a_checkpoint,
    marker_of_a_checkpoint,
    index_of_weights,
    adapter,
    published_config,
    benchmark_sample,
    benchmark_index,
    report_of_units,
    figures_of_a_sweep,
    shard,
    corpus_provenance,
    corpus_rejected,
    split,
    embeddings_source,
    motifs_settings,
    motifs_tokenizer,
    router_sizes,
]


# Tables, weights and numbers.


def units_table(folder: Path) -> Record:
    table = TABLE.replace_schema_metadata(units_schema({"encoder": "mfcc"}).metadata)
    pyarrow.parquet.write_table(table, folder / "units.parquet")
    return folder / "units.parquet", lambda: read_units(folder)


def labels_table(folder: Path) -> Record:
    table = pyarrow.table({"id": ["a", "b"], "weights": [[0.5, 0.5], [1.0, 0.0]]})
    pyarrow.parquet.write_table(table, folder / "labels.parquet")
    return folder / "labels.parquet", lambda: labels.load_labels(folder)


def embeddings_table(folder: Path) -> Record:
    columns = {name: ["a", "b"] for name in ("id", "split", "speaker_id", "group")}
    table = pyarrow.table({**columns, "duration": [1.0, 1.0], "embedding": [[0.5, 0.5], [1.0, 0.0]]})
    pyarrow.parquet.write_table(table, folder / "embeddings.parquet")
    put(folder / "embeddings.json", {"pooling": "mean"})
    return folder / "embeddings.parquet", lambda: load_embeddings(folder)


def part(folder: Path) -> Record:
    parquet_parts.write_part(pyarrow.table({"a": [1]}), folder / "0.parquet")
    return folder / "0.parquet", lambda: parquet_parts.read_part(folder / "0.parquet")


def state_of_kmeans(folder: Path) -> Record:
    kmeans.MiniBatchKMeans(torch.zeros(2, 3)).save(folder / "kmeans.safetensors")
    return folder / "kmeans.safetensors", lambda: kmeans.MiniBatchKMeans.load(folder / "kmeans.safetensors")


def sample_of_features(folder: Path) -> Record:
    kmeans.save_tensors({"features": torch.zeros(2, 3)}, folder / "sample.safetensors")
    return folder / "sample.safetensors", lambda: learner._sample(None, [], [], folder / "sample.safetensors", 1)


def kept_features(folder: Path) -> Record:
    stream = features.FeatureStream(None, None, folder)
    batch = features.Batch(0, [0])
    np.save(stream.file(batch), np.zeros((2, 3), np.float32))
    return stream.file(batch), lambda: features._Inputs(stream, [batch])[0]


def checkpoint_of_a_router(folder: Path) -> Record:
    made = UtteranceRouter(4, 4, 2)
    optimizer = torch.optim.AdamW(made.parameters())
    router._save_checkpoint(folder, made, optimizer, router._state(made), [{"epoch": 1}])
    (file,) = folder.iterdir()
    return file, lambda: router._load_checkpoint(folder, made, optimizer)


def router_weights(folder: Path) -> Record:
    _, read = router_sizes(folder)
    return folder / UtteranceRouter.WEIGHTS, read


def averaged_weights(folder: Path) -> Record:
    save_file({"a": torch.zeros(3)}, folder / "model.safetensors")
    return folder / "model.safetensors", lambda: list(soups._tensor_files(folder))


BINARY = [
    units_table,
    labels_table,
    embeddings_table,
    part,
    state_of_kmeans,
    sample_of_features,
    kept_features,
    checkpoint_of_a_router,
    router_weights,
    averaged_weights,
]


def broken(content: bytes) -> dict[str, bytes]:
    """Ways to lose a file."""
    return {
        "empty": b"",
        "half": content[: len(content) // 2] + (b"\n" if content.endswith(b"\n") else b""),
        "zeros": bytes(len(content)) + b"\n",
        "web_page": b"<!DOCTYPE html><html>\n",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }


def misshapen(content: bytes) -> dict[str, bytes]:
    """Ways in which a file is JSON, or nearly, and no such record."""
    return {
        "no_utf8": b"\xff" + content,
        "utf16": content.decode().encode("utf-16"),
        "deep": b"[" * 100_000 + b"\n",
        "number": b"7\n",
        "text": b'"text"\n',
        "list_of_lists": b"[[]]\n",
        "number_of_5000_digits": b"7" * 5000 + b"\n",
    }


def other_values(content: bytes) -> list[bytes]:
    """The record with each of its fields, at any depth, left out or with a value of another type."""

    def variants(value):
        if isinstance(value, dict):
            for name, one in value.items():
                yield {other: kept for other, kept in value.items() if other != name}
                for replaced in (None, "x", 7, [], {}, float("nan"), [None], *variants(one)):
                    yield {**value, name: replaced}
        elif isinstance(value, list) and value:
            for replaced in (None, 7, *variants(value[0])):
                yield [replaced, *value[1:]]

    end = b"\n" if content.endswith(b"\n") else b""
    return [json.dumps(value).encode() + end for value in variants(json.loads(content))]


def is_named(file: Path, error: UserError) -> bool:
    return file.name in str(error) or str(file.parent) in str(error)


@pytest.mark.parametrize("make", [*JSON, *BINARY])
def test_a_good_record_is_read(tmp_path, make):
    _, read = make(tmp_path)
    read()


@pytest.mark.parametrize("make", [*JSON, *BINARY])
def test_a_record_that_was_lost_is_named(tmp_path, make):
    file, read = make(tmp_path)
    content = file.read_bytes()
    damages = broken(content) | (misshapen(content) if make in JSON else {})
    if file.suffix == ".jsonl":
        del damages["empty"]  # no lines
    for damage, broken_content in damages.items():
        file.write_bytes(broken_content)
        with pytest.raises(UserError) as told:
            read()
        assert is_named(file, told.value), (damage, str(told.value))


@pytest.mark.parametrize("make", JSON)
def test_a_record_of_other_values_is_read_or_named(tmp_path, make):
    file, read = make(tmp_path)
    variants = other_values(file.read_bytes())
    for content in variants[:: max(1, len(variants) // 60)]:
        put(file, content.decode())
        try:
            read()
        except UserError as error:
            assert is_named(file, error) or "changed" in str(error) or "names 1 utterances" in str(error), str(error)
