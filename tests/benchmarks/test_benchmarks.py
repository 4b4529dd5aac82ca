"""Each benchmark in its smallest form. Times are the machine's; what is held here are the products that each way
needs."""

import pytest

from benchmarks import (
    beam_search,
    corpus_scale,
    embedding_extraction,
    generation,
    lora_and_full,
    soft_routing,
    training_throughput,
)

pytestmark = pytest.mark.integration


def test_training_throughput(capsys):
    found = training_throughput.main(["--batch_size", "1", "--batches", "2", "--repeats", "1"])
    assert found["clips at 30 s"]["flops"] == pytest.approx(found["usual recipe"]["flops"], rel=0.01)
    assert found["speedup at 0"]["flops"] > 8 > found["speedup at 0.1"]["flops"] > 4
    assert "train_moe_whisper/quick.yaml" in capsys.readouterr().out


def test_soft_routing():
    found = soft_routing.main(["--batch_size", "1", "--num_experts", "4", "--seconds", "1", "--repeats", "1"])
    for ways in found.values():
        flops = {name: values["flops"] for name, values in ways.items()}
        assert flops["loop over adapters"] > 3 * flops["weights"]
        assert flops["loop over adapters"] > max(flops["logits"], flops["weights, alignment"])


def test_generation(capsys):
    found = generation.main(
        ["--batch_size", "2", "--seconds", "1", "--tokens", "2", "--num_experts", "4", "--repeats", "1", "--profile"]
    )
    plain = found["plain Whisper"]["flops"]
    assert plain < found["top-1"]["flops"] <= found["top-2, weights"]["flops"] < 1.2 * plain
    assert 1.2 * plain < found["top-2, logits"]["flops"] < 2.2 * plain
    printed = capsys.readouterr().out
    assert "matrix products" in printed and "aten::addmm" in printed


def test_beam_search():
    found = beam_search.main(["--batch_size", "1", "--seconds", "1", "--tokens", "2", "--repeats", "1"])
    flops = {name: values["flops"] for name, values in found.items()}
    assert flops["ours, own length, greedy"] < flops["ours, own length"] < flops["ours, 30 s"] < flops["stock, 30 s"]


def test_embedding_extraction():
    found = embedding_extraction.main(["--clips", "4", "--batch_size", "2", "--repeats", "1"])
    half, whole, loop = (values["flops"] for values in found.values())
    assert half < whole < loop / 6


def test_corpus_scale(tmp_path, capsys):
    found = corpus_scale.main(["--rows", "20", "--seconds", "0.3", "--num_proc", "1", "--folder", str(tmp_path)])
    assert found[1]["rows"] == 20 and found[1]["main_mib"] >= found[1]["modules_mib"] > 0
    assert "20        " in capsys.readouterr().out


@pytest.mark.slow
def test_lora_and_full(capsys):
    found = lora_and_full.main(["--size", "tiny", "--batch_size", "1", "--seconds", "1", "--repeats", "1"])
    full, lora, more = (found[name] for name in lora_and_full.METHODS)
    assert lora["flops"] < more["flops"] < full["flops"]
    assert lora["saved_bytes"] < more["saved_bytes"] < full["saved_bytes"] and lora["trained"] < more["trained"]
    assert all(row["peak_megabytes"] > 0 for row in found.values()) and "peak memory" in capsys.readouterr().out
