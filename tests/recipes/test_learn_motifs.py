"""The stage learn_motifs, in-process on made-up units."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import sentencepiece
from PIL import Image
from tiny_units import write_tiny_segments, write_tiny_units
from transformers import AutoTokenizer

from hf_components.runtime.errors import UserError
from hf_components.units.motifs.bpe import to_symbols
from hf_components.units.table import read_units
from recipes.learn_motifs import main

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def units_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    return write_tiny_units(folder / "units", write_tiny_segments(folder / "segments"))


@pytest.fixture(autouse=True)
def from_repository_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def command(units_dir, output_dir, *more: str) -> list[str]:
    return [
        "--config",
        "recipes/configs/learn_motifs/quick.yaml",
        "--units_dir",
        str(units_dir),
        "--output_dir",
        str(output_dir),
        *more,
    ]


def change_rows(units_dir, change) -> None:
    file = units_dir / "units.parquet"
    table = pyarrow.parquet.read_table(file)
    rows = [row for row in map(change, table.to_pylist()) if row]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), file)


def test_writes_model_tokenizer_analysis_and_plot(units_dir, tmp_path, capsys):
    output_dir = tmp_path / "motifs"
    metrics = main(command(units_dir, output_dir, "--vocab_size", "40"))
    assert {path.name for path in output_dir.iterdir()} == {
        "motifs.model",
        "motifs.vocab",
        "tokenizer.json",
        "tokenizer_config.json",
        "motif_analysis.json",
        "motifs.png",
        "stage.json",
    }
    table = read_units(units_dir)
    assert json.loads((output_dir / "tokenizer_config.json").read_text())["units"] == table.identity
    analysis = json.loads((output_dir / "motif_analysis.json").read_text())
    assert (analysis["vocab_size"], analysis["num_motifs"], len(analysis["motifs"])) == (40, 40 - 8 - 4, 40 - 8 - 4)
    assert Image.open(output_dir / "motifs.png").size == (1320, 504)

    tokenizer = AutoTokenizer.from_pretrained(output_dir)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(output_dir / "motifs.model"))
    for split in ("train", "dev"):
        texts = [to_symbols(row) for row in table.of_split(split)["deduplicated"].to_pylist()]
        ids = tokenizer(texts)["input_ids"]
        assert ids == reference.encode(texts) and tokenizer.batch_decode(ids) == texts
        compression = analysis["compression"][split]
        assert (compression["units"], compression["motifs"]) == (sum(map(len, texts)), sum(map(len, ids)))
        assert compression["units_per_motif"] == round(sum(map(len, texts)) / sum(map(len, ids)), 4) > 1
        if split == "train":
            counts = {row["id"]: row["count"] for row in analysis["motifs"]}
            assert counts == {i: sum(row.count(i) for row in ids) for i in counts}
            assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert metrics["top_motifs"] == analysis["motifs"][:10]
    shown = capsys.readouterr().out
    assert "The most frequent of 28 motifs" in shown and "random order" in shown


def test_dev_plays_no_part_in_learning(tmp_path):
    segments = write_tiny_segments(tmp_path / "segments")
    units = write_tiny_units(tmp_path / "units", segments)
    main(command(units, tmp_path / "before", "--vocab_size", "40"))
    change_rows(
        units, lambda row: {**row, "deduplicated": row["deduplicated"][::-1]} if row["split"] == "dev" else row
    )
    main(command(units, tmp_path / "after", "--vocab_size", "40"))
    assert (tmp_path / "before/motifs.model").read_bytes() == (tmp_path / "after/motifs.model").read_bytes()
    before, after = (json.loads((tmp_path / name / "motif_analysis.json").read_text()) for name in ("before", "after"))
    assert before["motifs"] == after["motifs"] and before["compression"]["dev"] != after["compression"]["dev"]


def test_too_large_a_vocabulary_is_made_smaller(units_dir, tmp_path, capsys):
    metrics = main(command(units_dir, tmp_path / "motifs", "--vocab_size", "5000"))
    assert metrics["vocab_size_asked_for"] == 5000 > metrics["vocab_size"] > 12
    shown = capsys.readouterr().err
    assert f"{metrics['vocab_size']} are learnt" in shown and "many are memorised" in shown


def test_a_finished_stage_is_kept(units_dir, tmp_path, capsys):
    first = main(command(units_dir, tmp_path / "motifs"))
    assert main(command(units_dir, tmp_path / "motifs", "--resume")) == first
    assert "is complete, skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {**row, "deduplicated": [3]}, "a motif needs two units in a row"),
        (lambda row: {**row, "split": "dev"}, "the units have no split 'train'; they have dev"),
        (lambda row: None, "the units have no split 'train'"),
    ],
)
def test_units_without_motifs_are_refused(tmp_path, change, message):
    units = write_tiny_units(tmp_path / "units", write_tiny_segments(tmp_path / "segments", 2, 1))
    change_rows(units, change)
    with pytest.raises(UserError, match=message):
        main(command(units, tmp_path / "motifs"))
    assert not (tmp_path / "motifs").exists()


def test_too_small_a_vocabulary_is_refused(units_dir, tmp_path):
    with pytest.raises(UserError, match="--vocab_size must exceed 12, the 8 units and 4 special symbols.*got 12"):
        main(command(units_dir, tmp_path / "motifs", "--vocab_size", "12"))
