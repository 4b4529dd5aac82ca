"""Find the rows of a corpus that a model can learn from, before training."""

import logging
from collections import Counter

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from hf_components.asr import family_of, writable
from hf_components.runtime import NothingToTrainOnError, first_few

logger = logging.getLogger(__name__)

NAMED = 10  # ids and characters that a message shows


def keep_learnable(
    corpus: datasets.Dataset, model: PreTrainedModel, processor: ProcessorMixin, fastest: float = 1.0
) -> datasets.Dataset:
    """Leave out the rows that a model cannot learn from, with a warning.

    For a decoder with a number of positions these are longer transcripts. For CTC they are transcripts with characters
    that the vocabulary lacks, transcripts without any character of it (the model would learn to write nothing), and
    transcripts that need more frames than their audio has (see `frames_needed`; their loss is infinite).

    Args:
        corpus: rows of a prepared corpus.
        model, processor: the model to train.
        fastest: largest speed factor of the augmentation, which makes clips shorter.
    Raises:
        NothingToTrainOnError: no row is left.
        UserError: models of this family cannot be trained.
    """
    family = family_of(model)
    texts = corpus["text"][:]
    labels = [family.tokenize(processor, text) for text in texts]
    longest = family.longest_labels(model)
    if longest is not None:
        kept = _short_enough(corpus["id"][:], labels, longest)
        _warn_of_unknown(processor.tokenizer, corpus["id"][:], labels)
    elif family.blank(model) is not None:
        frames = family.count_frames(model, processor, [seconds / fastest for seconds in corpus["duration"]])
        kept = _writable_in_time(processor.tokenizer, corpus["id"][:], texts, labels, frames)
    else:
        return corpus
    return corpus.select(kept) if len(kept) < len(texts) else corpus


def _warn_of_unknown(tokenizer: PreTrainedTokenizerBase, ids: list[str], labels: list[list[int]]) -> None:
    """Warn of transcripts that the tokenizer cannot write in full."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        return
    if lacking := [name for name, row in zip(ids, labels, strict=True) if unknown in row]:
        text = "%d of %d transcripts have characters that the tokenizer writes as %s, which the model will learn: %s"
        logger.warning(text, len(lacking), len(ids), tokenizer.unk_token, first_few(lacking, NAMED))


def _short_enough(ids: list[str], labels: list[list[int]], longest: int) -> list[int]:
    """Rows whose transcript has at most `longest` tokens."""
    kept = [i for i, row in enumerate(labels) if len(row) <= longest]
    if len(kept) < len(labels):
        gone = [name for name, row in zip(ids, labels, strict=True) if len(row) > longest]
        text = "%d transcripts have more than %d tokens and are not trained on: %s"
        logger.warning(text, len(gone), longest, first_few(gone, NAMED))
    if not kept:
        found = f"all {len(labels)} transcripts have more than {longest} tokens"
        raise NothingToTrainOnError(f"no utterance is left to train on: {found}")
    return kept


def _writable_in_time(
    tokenizer: PreTrainedTokenizerBase, ids: list[str], texts: list[str], labels: list[list[int]], frames: list[int]
) -> list[int]:
    """Rows that a CTC model with this tokenizer can write in so many frames."""
    unknown = {
        i: _unknown_characters(tokenizer, texts[i]) for i, row in enumerate(labels) if tokenizer.unk_token_id in row
    }
    short = [i for i, row in enumerate(labels) if i not in unknown and frames_needed(row) > frames[i]]
    empty = [i for i, row in enumerate(labels) if not row]
    if empty:
        text = "%d of %d transcripts have no character that the tokenizer can write and are not trained on: %s"
        logger.warning(text, len(empty), len(ids), first_few([ids[i] for i in empty], NAMED))
    if unknown:
        counts = Counter(character for characters in unknown.values() for character in characters)
        told = ", ".join(f"{character!r} in {count}" for character, count in counts.most_common(NAMED))
        logger.warning(
            "%d of %d transcripts have characters that the tokenizer cannot write (%s) and are not trained on: %s; "
            "spell them out in the letters of its vocabulary",
            len(unknown),
            len(ids),
            told,
            first_few([ids[i] for i in unknown], NAMED),
        )
    if short:
        logger.warning(
            "%d of %d utterances are too short for their transcripts and are not trained on: %s. CTC needs a frame "
            "per token and one more between equal neighbours; check that audio and transcript belong together",
            len(short),
            len(ids),
            ", ".join(f"{ids[i]} ({frames[i]} frames, {frames_needed(labels[i])} needed)" for i in short[:NAMED]),
        )
    kept = sorted(set(range(len(ids))) - {*unknown, *empty, *short})
    if not kept:
        raise NothingToTrainOnError(
            f"no utterance is left to train on: of {len(ids)}, {len(unknown)} have characters that the tokenizer "
            f"lacks, {len(empty)} have no character that it has, and {len(short)} are too short for their transcripts"
        )
    return kept


def frames_needed(labels: list[int]) -> int:
    """Frames of the shortest CTC path: one per label, and a blank between equal neighbours (Graves et al. 2006)."""
    return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))


def _unknown_characters(tokenizer, text: str) -> set[str]:
    return {
        character
        for character in writable(tokenizer, text)
        if not character.isspace()
        and tokenizer.unk_token_id in tokenizer(character, add_special_tokens=False).input_ids
    }
