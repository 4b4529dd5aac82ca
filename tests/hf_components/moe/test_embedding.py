"""Embeddings of a corpus: what they are, in what order, and that a stop loses nothing."""

import numpy as np
import pyarrow.parquet
import pytest
import torch
from tiny_speech import rows, tiny_moe, tiny_processor, tiny_whisper

from hf_components.moe import embedding
from hf_components.moe.embedding import TIME_BINS, embed_batch, join_shards, plan_shards, write_shards
from hf_components.speech.audio import log_mel
from hf_components.speech.batching import duration_batches
from hf_components.speech.corpus import waveforms

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(embedding, "BATCHES_PER_SHARD", 2)


def features(count: int = 3) -> torch.Tensor:
    return log_mel(tiny_processor().feature_extractor, waveforms(rows(count)))


@pytest.mark.parametrize("context", ["dynamic", "full"])
def test_embeddings_are_what_the_router_sees(tmp_path, context):
    corpus, base, moe = rows(9), tiny_whisper(), tiny_moe(min_audio_context=2, router_layer=1)
    shards = plan_shards(context, {"train": corpus}, batch_size=2)
    assert [len(shard.rows) for shard in shards] == [4, 4, 1]
    write_shards(base, tiny_processor(), shards, tmp_path / "shards", layer=1, batch_size=2)
    join_shards(shards, tmp_path / "shards", tmp_path / "embeddings.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "embeddings.parquet")
    assert table["id"].to_pylist() == corpus["id"][:] and set(table["split"].to_pylist()) == {"train"}
    found = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    assert found.shape == (9, 16)
    if context == "full":
        moe.set_audio_context("full")
    with torch.no_grad():
        for shard in shards:
            for indices in duration_batches(shard.rows["duration"], 2):
                heard = log_mel(tiny_processor().feature_extractor, waveforms(shard.rows.select(indices)))
                where = [shard.start + index for index in indices]
                np.testing.assert_allclose(found[where], moe.embed(heard).numpy(), atol=1e-4)


def test_poolings_agree_with_each_other():
    encoder, heard = tiny_whisper().model.encoder, features()
    with torch.inference_mode():
        mean, flatten, none = (embed_batch(encoder, heard, 2, pooling) for pooling in ("mean", "flatten", "none"))
    assert {clip.dtype for clips in (mean, flatten, none) for clip in clips} == {np.dtype(np.float32)}
    lengths = [len(clip) for clip in none]
    assert len(set(lengths)) == 3 and max(lengths) == heard.shape[-1] // 2  # padding is left out
    for one, binned, frames in zip(mean, flatten, none, strict=True):
        np.testing.assert_allclose(frames.mean(axis=0), one, atol=1e-5)
        assert binned.shape == (TIME_BINS * 16,)
        edges = [(len(frames) * i // TIME_BINS, -(-len(frames) * (i + 1) // TIME_BINS)) for i in range(TIME_BINS)]
        expected = np.concatenate([frames[start:end].mean(axis=0) for start, end in edges])
        np.testing.assert_allclose(binned, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "kind"),
    [
        ("mean", "fixed_size_list<element: float>[16]"),
        ("flatten", f"fixed_size_list<element: float>[{16 * TIME_BINS}]"),
        ("none", "list<element: fixed_size_list<element: float>[16]>"),
    ],
)
def test_every_pooling_is_stored_in_the_order_of_the_corpus(tmp_path, pooling, kind):
    corpus, model = rows(7), tiny_whisper()
    shards = plan_shards("dynamic", {"train": corpus.select(range(5)), "dev": corpus.select([5, 6])}, batch_size=2)
    write_shards(model, tiny_processor(), shards, tmp_path, layer=2, pooling=pooling, batch_size=2)
    join_shards(shards, tmp_path, tmp_path / "all.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "all.parquet")
    assert str(table.schema.field("embedding").type).replace(" not null", "").replace("item", "element") == kind
    assert table["id"].to_pylist() == corpus["id"][:] and table["split"].to_pylist() == ["train"] * 5 + ["dev"] * 2
    with torch.inference_mode():  # the longest clip of its batch, so that padding is the same alone
        heard = log_mel(tiny_processor().feature_extractor, waveforms(corpus.select([5])))
        (alone,) = embed_batch(model.model.encoder, heard, 2, pooling)
    np.testing.assert_allclose(np.array(table["embedding"][5].as_py()), alone, atol=1e-4)


def test_a_clip_shorter_than_the_bins_is_stretched():
    encoder = tiny_whisper().model.encoder
    heard = log_mel(tiny_processor().feature_extractor, [np.full(300, 0.1, np.float32)])
    with torch.inference_mode():
        (binned,), (frames,) = embed_batch(encoder, heard, 1, "flatten"), embed_batch(encoder, heard, 1, "none")
    assert len(frames) < TIME_BINS and binned.shape == (TIME_BINS * 16,) and np.isfinite(binned).all()


def test_what_is_there_is_not_done_again_and_the_bytes_are_the_same(tmp_path, monkeypatch):
    corpus, model = rows(11), tiny_whisper()
    shards = plan_shards("dynamic", {"train": corpus}, batch_size=2)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    write_shards(model, tiny_processor(), shards, whole, layer=1, batch_size=2)
    calls = []
    embed = embedding.embed_batch

    def embed_until_stopped(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return embed(*args)

    monkeypatch.setattr(embedding, "embed_batch", embed_until_stopped)
    with pytest.raises(KeyboardInterrupt):
        write_shards(model, tiny_processor(), shards, stopped, layer=1, batch_size=2)
    assert [file.name for file in stopped.iterdir()] == [shards[0].file_name]
    write_shards(model, tiny_processor(), shards, stopped, layer=1, batch_size=2)
    assert len(calls) == 4 + 4  # 6 batches in all, 2 of them were in the first shard
    for shard in shards:
        assert (stopped / shard.file_name).read_bytes() == (whole / shard.file_name).read_bytes()


def test_workers_decode_the_same(tmp_path):
    corpus, model = rows(6), tiny_whisper()
    shards = plan_shards("dynamic", {"train": corpus}, batch_size=2)
    for workers in (0, 2):
        write_shards(
            model, tiny_processor(), shards, tmp_path / str(workers), layer=1, batch_size=2, num_workers=workers
        )
    for shard in shards:
        assert (tmp_path / "0" / shard.file_name).read_bytes() == (tmp_path / "2" / shard.file_name).read_bytes()
