"""Find the rows of a corpus that a CTC model can learn from, before training."""

import logging
from collections import Counter

import datasets
import torch
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr import SHORTEST_SAMPLES, family_of, rate_of, writable
from hf_components.runtime import NothingToTrainOnError, first_few
from hf_components.speech import SAMPLING_RATE

logger = logging.getLogger(__name__)

NAMED = 10  # ids and characters that a message shows


def keep_learnable(
    corpus: datasets.Dataset, model: PreTrainedModel, processor: ProcessorMixin, fastest: float = 1.0
) -> datasets.Dataset:
    """Leave out the rows that a CTC model cannot learn from, with a warning.

    These are transcripts with characters that the vocabulary lacks, transcripts without any character of it (the model
    would learn to write nothing), and transcripts that need more frames than their audio has (see `frames_needed`;
    their loss is infinite).

    Args:
        corpus: rows of a prepared corpus.
        model: model with waveform input, such as wav2vec2, HuBERT and WavLM.
        fastest: largest speed factor of the augmentation, which makes clips shorter.
    Raises:
        NothingToTrainOnError: no row is left.
    """
    family = family_of(model)
    tokenizer = processor.tokenizer
    ids = corpus["id"][:]
    texts = corpus["text"][:]
    labels = [family.tokenize(processor, text) for text in texts]
    unknown = {
        i: _unknown_characters(tokenizer, texts[i]) for i, row in enumerate(labels) if tokenizer.unk_token_id in row
    }
    frames = count_frames(model, [seconds / fastest for seconds in corpus["duration"]], rate_of(processor))
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
    return corpus.select(kept) if len(kept) < len(ids) else corpus


def frames_needed(labels: list[int]) -> int:
    """Frames of the shortest CTC path: one per label, and a blank between equal neighbours (Graves et al. 2006)."""
    return len(labels) + sum(a == b for a, b in zip(labels, labels[1:], strict=False))


def count_frames(model: PreTrainedModel, seconds: list[float], sampling_rate: int = SAMPLING_RATE) -> list[int]:
    """Number of output frames for clips of these lengths, at that sampling rate in Hz."""
    shortest = SHORTEST_SAMPLES / SAMPLING_RATE
    samples = torch.tensor([round(max(shortest, value) * sampling_rate) for value in seconds])
    return model._get_feat_extract_output_lengths(samples).tolist()


def _unknown_characters(tokenizer, text: str) -> set[str]:
    return {
        character
        for character in writable(tokenizer, text)
        if not character.isspace()
        and tokenizer.unk_token_id in tokenizer(character, add_special_tokens=False).input_ids
    }
