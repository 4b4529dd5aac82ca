"""Motifs: runs of units that recur, learnt by byte-pair encoding. A unit is a symbol, a segment is a word."""

import io
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute as pc
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_components.runtime import UserError, damage_named, write_json
from hf_components.units.table import SECONDS_PER_UNIT

logger = logging.getLogger(__name__)

FIRST_SYMBOL, LAST_SYMBOL = 0x4E00, 0x9FFF  # a single script that no normaliser changes
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}  # ids 0 to 3
MODEL, VOCABULARY = "motifs.model", "motifs.vocab"
TOO_HIGH = re.compile(r"Vocabulary size too high .* a value <= (\d+)")
# SentencePiece drops a unit if the sum of all other counts rounds to the whole corpus in float32.
SHARE_TO_COUNT = 1 << 23


@dataclass
class Motifs:
    """A vocabulary of motifs; single units are motifs of length 1.

    Args:
        tokenizer: tokenizer of the texts that `to_symbols` makes.
        units: units of each id; empty for special ids.
        identity: identity of the units, see `hf_components.units.table`.
    """

    tokenizer: PreTrainedTokenizerFast
    units: list[list[int]]
    identity: dict

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Motifs":
        """Read what `save_motifs` wrote.

        Raises:
            UserError: the folder holds no motifs.
        """
        if not (Path(folder) / MODEL).is_file():
            raise UserError(f"{folder} holds no motifs ({MODEL} is missing); recipes/learn_motifs.py makes them")
        with damage_named(folder, "learn the motifs again"):
            tokenizer = AutoTokenizer.from_pretrained(folder)
            return cls.from_tokenizer(tokenizer, dict(tokenizer.init_kwargs["units"]))

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerFast, identity: dict) -> "Motifs":
        special = set(tokenizer.all_special_ids)
        pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        return cls(tokenizer, [[] if i in special else to_units(piece) for i, piece in enumerate(pieces)], identity)

    def encode(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The ids of the motifs of each sequence of units."""
        if not len(sequences):
            return []
        encoded = self.tokenizer(
            [to_symbols(units) for units in sequences], add_special_tokens=False, return_attention_mask=False
        )
        return [np.array(ids, dtype=np.int64) for ids in encoded["input_ids"]]

    def decode(self, ids: Sequence[int]) -> list[int]:
        """The units of a sequence of motifs."""
        return [unit for i in ids for unit in self.units[i]]

    def name(self, motif: int) -> str:
        """Name of a motif in annotations and on pages."""
        return f"m{motif}"

    def lengths(self) -> np.ndarray:
        """Number of units of each motif (vocabulary,), 0 for special ids."""
        return np.array([len(units) for units in self.units])


@dataclass
class Occurrences:
    """The motifs of segments, in order and without gaps; all arrays are (occurrences,).

    Args:
        row: index of the segment.
        motif: id of the motif.
        unit: index of its first unit in the segment's deduplicated units.
        start, end: seconds within the segment.
    """

    row: np.ndarray
    motif: np.ndarray
    unit: np.ndarray
    start: np.ndarray
    end: np.ndarray


def find_occurrences(motifs: Motifs, rows: pyarrow.Table) -> Occurrences:
    """Divide segments into motifs; `rows` are those of a `hf_components.units.table.UnitTable`."""
    encoded = motifs.encode(rows["deduplicated"].to_pylist())
    motif = np.concatenate([np.zeros(0, np.int64), *encoded])
    row = np.repeat(np.arange(len(encoded)), [len(ids) for ids in encoded])
    # Positions in the units of all segments together: ends of motifs, end frames of units, starts of segments.
    last = np.cumsum(motifs.lengths()[motif])
    first = last - motifs.lengths()[motif]
    frames = np.concatenate([[0], np.cumsum(pc.list_flatten(rows["durations"]).to_numpy())])
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(rows["durations"]).to_numpy())])[row]
    start, end = ((frames[of] - frames[offsets]) * SECONDS_PER_UNIT for of in (first, last))
    return Occurrences(row, motif, first - offsets, start, end)


def to_symbols(units: Sequence[int]) -> str:
    """Unit i as the character U+4E00 + i."""
    return "".join(chr(FIRST_SYMBOL + unit) for unit in units)


def to_units(symbols: str) -> list[int]:
    """The inverse of `to_symbols`."""
    return [ord(symbol) - FIRST_SYMBOL for symbol in symbols]


def train_motifs(sequences: Sequence[Sequence[int]], num_units: int, vocab_size: int) -> bytes:
    """Train SentencePiece's byte-pair encoding (Sennrich et al. 2016).

    Args:
        sequences: deduplicated units of each segment.
        num_units: number of units; all are in the vocabulary, even if they do not occur.
        vocab_size: number of motifs, single units and the four special symbols together. If the sequences have too
            few motifs, the vocabulary is smaller, with a warning.
    Returns:
        the model's bytes.
    Raises:
        UserError: there is nothing to learn from, the vocabulary is too small, or there are more units than symbols.
    """
    needed = num_units + len(SPECIAL)
    most = LAST_SYMBOL - FIRST_SYMBOL + 1
    if num_units > most:
        raise UserError(f"motifs can be learnt over at most {most} units, got {num_units}")
    if vocab_size <= needed:
        raise UserError(
            f"--vocab_size must exceed {needed}, the {num_units} units and {len(SPECIAL)} special symbols, or no motif"
            f" fits in; got {vocab_size}"
        )
    if not any(len(units) > 1 for units in sequences):
        raise UserError(
            f"a motif needs two units in a row, and none of the {len(sequences)} segments to learn from has them; "
            "give more recordings, or learn more than one unit"
        )
    total = sum(map(len, sequences))
    alone = [[unit] for unit in range(num_units)] * (1 + total // SHARE_TO_COUNT)  # every unit occurs, without pairs
    try:
        return _train([*sequences, *alone], vocab_size)
    except RuntimeError as error:
        found = TOO_HIGH.search(str(error))
        if found is None:
            raise
        largest = int(found[1])
    logger.warning(
        "--vocab_size %d is more than these %d units hold: %d are learnt, down to runs that occur once or never; "
        "lower it, or give more recordings",
        vocab_size,
        total,
        largest,
    )
    return _train([*sequences, *alone], largest)


def _train(sequences: Sequence[Sequence[int]], vocab_size: int) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=map(to_symbols, sequences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        character_coverage=1.0,
        max_sentence_length=1 << 30,  # bytes; the default 4192 silently drops segments of 1,400 units
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_whitespace=False,
        split_by_unicode_script=False,
        split_by_number=False,
        minloglevel=2,
    )
    return model.getvalue()


def to_fast_tokenizer(model: bytes) -> PreTrainedTokenizerFast:
    """The same vocabulary as a tokenizer of `tokenizers`, which gives the same ids.

    SentencePiece joins any two neighbours whose union has the best score. So every way to divide a piece into two
    pieces is a merge, in the order of the pieces.
    """
    pieces = ModelProto.FromString(model).pieces
    vocabulary = {piece.piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece.piece[:cut], piece.piece[cut:])
        for piece in pieces
        if piece.type == piece.NORMAL
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in vocabulary and piece.piece[cut:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=SPECIAL["unk_token"], fuse_unk=True))
    tokenizer.decoder = decoders.Fuse()  # no space between motifs
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **SPECIAL,
    )


def save_motifs(folder: Path, model: bytes, identity: dict) -> None:
    """Write SentencePiece's model and vocabulary, and the fast tokenizer with the identity of the units."""
    (folder / MODEL).write_bytes(model)
    lines = [f"{piece.piece}\t{piece.score:g}\n" for piece in ModelProto.FromString(model).pieces]
    (folder / VOCABULARY).write_text("".join(lines), encoding="utf-8")
    to_fast_tokenizer(model).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    # transformers 4.57 does not know the class name that 5 writes; both know this one.
    write_json(
        folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast", "units": identity}
    )
