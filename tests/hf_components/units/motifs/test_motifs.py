"""Motifs: lossless for every sequence of known units, ids as SentencePiece's, in a process without our code."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from hf_components.runtime.errors import UserError
from hf_components.units.motifs import bpe as module
from hf_components.units.motifs.bpe import MODEL, SPECIAL, Motifs, save_motifs, to_symbols, to_units, train_motifs

pytestmark = pytest.mark.unit

NUM_UNITS = 20
IDENTITY = {"encoder": "mfcc", "layer": None, "num_units": NUM_UNITS, "centroids_sha256": "ab" * 32}
KNOWN = 14  # units that occur in training


def chains(count: int, length: int, units: int, seed: int) -> list[list[int]]:
    """Deduplicated sequences in which some units often follow each other."""
    rng = np.random.default_rng(seed)
    often = rng.integers(units, size=(units, 2))
    sequences = []
    for _ in range(count):
        row = [int(rng.integers(units))]
        while len(row) < length:
            unit = int(often[row[-1], rng.integers(2)] if rng.random() < 0.9 else rng.integers(units))
            row += [unit] if unit != row[-1] else [(unit + 1) % units]
        sequences.append(row)
    return sequences


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motifs")
    save_motifs(folder, train_motifs(chains(80, 100, KNOWN, 0), NUM_UNITS, 120), IDENTITY)
    return folder


@pytest.fixture(scope="module")
def learnt(folder) -> Motifs:
    return Motifs.from_pretrained(folder)


def any_sequences(seed: int, units: int = NUM_UNITS) -> list[list[int]]:
    """Like the training data, by chance, with repetitions, of all lengths, empty."""
    rng = np.random.default_rng(seed)
    by_chance = [rng.integers(units, size=rng.integers(0, 60)).tolist() for _ in range(300)]
    few = [rng.choice(rng.integers(units, size=3), size=40).tolist() for _ in range(300)]
    return [[], [units - 1], *by_chance, *few, *chains(100, 80, units, seed), *chains(1, 5000, units, seed)]


def test_every_unit_is_in_the_vocabulary_and_every_motif_is_a_run(learnt):
    assert len(learnt.units) == 120 and learnt.identity == IDENTITY
    assert sorted(units[0] for units in learnt.units if len(units) == 1) == list(range(NUM_UNITS))
    assert [learnt.units[i] for i in range(len(SPECIAL))] == [[]] * len(SPECIAL)
    assert sum(len(units) > 1 for units in learnt.units) == 120 - NUM_UNITS - len(SPECIAL)


@pytest.mark.parametrize("seed", range(3))
def test_decoding_gives_back_any_sequence_of_known_units(learnt, seed):
    sequences = any_sequences(seed)
    encoded = learnt.encode(sequences)
    assert [learnt.decode(ids) for ids in encoded] == sequences
    assert [to_units(learnt.tokenizer.decode(ids)) for ids in encoded] == sequences
    assert any(len(learnt.units[i]) > 2 for ids in encoded for i in ids)


@pytest.mark.parametrize(("units", "vocab_size"), [(2, 20), (3, 60), (5, 100), (20, 60), (60, 300)])
def test_ids_are_those_of_sentencepiece(units, vocab_size):
    model = train_motifs(chains(60, 100, units, units), units, vocab_size)
    reference, ours = sentencepiece.SentencePieceProcessor(model_proto=model), module.to_fast_tokenizer(model)
    texts = [to_symbols(sequence) for sequence in any_sequences(units, units)]
    assert ours(texts, add_special_tokens=False)["input_ids"] == reference.encode(texts)
    assert len(ours) == reference.get_piece_size()
    for name, token in SPECIAL.items():
        assert reference.id_to_piece(ours.convert_tokens_to_ids(token)) == token == getattr(ours, name)


def test_loads_in_a_process_that_has_none_of_our_code(learnt, folder):
    sequences = any_sequences(7)[:100]
    code = f"""
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
assert "hf_components" not in sys.modules
texts = json.loads(sys.stdin.read())
ids = tokenizer(texts)["input_ids"]
assert [tokenizer.decode(row) for row in ids] == texts
assert tokenizer(texts, padding=True)["input_ids"][0] == [tokenizer.pad_token_id] * max(map(len, ids))
print(json.dumps(ids))
"""
    process = subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=json.dumps([to_symbols(row) for row in sequences]),
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    assert json.loads(process.stdout) == [ids.tolist() for ids in learnt.encode(sequences)]


def test_sentencepiece_reads_model_and_vocabulary(learnt, folder):
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL))
    lines = (folder / "motifs.vocab").read_text().splitlines()
    pieces = [line.split("\t")[0] for line in lines]
    assert pieces == [reference.id_to_piece(i) for i in range(120)]
    assert [float(line.split("\t")[1]) for line in lines] == [reference.get_score(i) for i in range(120)]


def test_a_vocabulary_larger_than_the_data_allow_is_made_smaller(caplog):
    with caplog.at_level(logging.WARNING):
        model = train_motifs([[0, 1, 2], [0, 1, 3]], 4, 500)
    assert "--vocab_size 500 is more than these 6 units hold: 13 are learnt" in caplog.text
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert pieces.get_piece_size() == 13
    assert {(0, 1), (0, 1, 2), (0, 1, 3)} <= {tuple(to_units(pieces.id_to_piece(i))) for i in range(4, 13)}


def test_rare_units_of_a_large_corpus_stay_in_the_vocabulary(monkeypatch):
    # SentencePiece sees the many repetitions by their number: a corpus of 60 million units takes no time.
    train = sentencepiece.SentencePieceTrainer.train

    def repeated(sentence_iterator, **options):
        lines = (f"{text}\t{10**7 if len(text) == 6 else 1}" for text in sentence_iterator)
        train(sentence_iterator=lines, input_format="tsv", **options)

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", repeated)
    monkeypatch.setattr(module, "SHARE_TO_COUNT", 1)  # for the 8 units that there are
    pieces = sentencepiece.SentencePieceProcessor(model_proto=train_motifs([[0, 1, 0, 1, 0, 1], [2, 1]], 9, 16))
    assert {to_symbols([unit]) for unit in range(9)} <= {pieces.id_to_piece(i) for i in range(16)}


@pytest.mark.parametrize(
    ("sequences", "num_units", "vocab_size", "message"),
    [
        ([], 8, 500, "none of the 0 segments"),
        ([[], []], 8, 500, "none of the 2 segments"),
        ([[3], [3]], 8, 500, "a motif needs two units in a row"),
        ([[0, 1]], 8, 12, "--vocab_size must exceed 12, the 8 units and 4 special symbols.*got 12"),
        ([[0, 1]], 30_000, 50_000, "at most 20992 units, got 30000"),
    ],
)
def test_what_cannot_be_learnt_is_refused(sequences, num_units, vocab_size, message):
    with pytest.raises(UserError, match=message):
        train_motifs(sequences, num_units, vocab_size)


def test_a_folder_without_motifs_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} holds no motifs"):
        Motifs.from_pretrained(tmp_path)
