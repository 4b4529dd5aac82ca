"""From corpus rows to batches. Every random choice is a pure function of (seed, epoch, utterance or batch)."""

import logging
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import datasets
import numpy as np
import torch
from transformers import WhisperFeatureExtractor, WhisperProcessor

from hf_components.audio import count_mel_frames, log_mel
from hf_components.corpus import load_corpus, waveforms
from hf_components.errors import UserError
from hf_components.training.arguments import SpeechTrainingArguments, TrainingRecipeArguments

logger = logging.getLogger(__name__)

FULL_CONTEXT_FRAMES = 3000
BATCHES_PER_POOL = 50  # batches are cut from pools sorted by duration: little padding, and still another order each epoch


def load_training_rows(args: TrainingRecipeArguments, training_args: SpeechTrainingArguments
                       ) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """The part of the split "train" that is asked for, and that of the split that evaluations transcribe, None without any."""
    train = load_corpus(args.corpus, "train", args.data_config_override)
    return train, load_corpus(args.corpus, args.eval_split, args.data_config_override) if training_args.do_eval else None


class Draw(NamedTuple):
    """One utterance as the sampler draws it; carries what augmentation and context depend on to the workers."""

    index: int
    epoch: int
    full_context: bool


class DurationBatchSampler(torch.utils.data.Sampler):
    """Batches of utterances of like duration, in another order each epoch.

    Args:
        durations: seconds per utterance.
        batch_size: utterances per batch.
        seed: with the epoch, decides the order.
        full_context_fraction: share of batches drawn with 30 s of audio context.
    """

    def __init__(self, durations: Sequence[float], batch_size: int, seed: int, full_context_fraction: float):
        self.durations = np.asarray(durations)
        self.batch_size, self.seed, self.full_context_fraction = batch_size, seed, full_context_fraction
        self.drop_last, self.epoch = False, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.durations) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.durations))
        # accelerate deals whole batches out to processes and takes only the last one for incomplete.
        order, incomplete = np.split(order, [len(order) - len(order) % self.batch_size])
        pool = self.batch_size * BATCHES_PER_POOL
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        pools = [indices[np.argsort(self.durations[indices], kind="stable")] for indices in pools]
        batches = [pool[start : start + self.batch_size] for pool in pools for start in range(0, len(pool), self.batch_size)]
        batches = [batches[i] for i in random.permutation(len(batches))] + ([incomplete] if len(incomplete) else [])
        full = random.random(len(batches)) < self.full_context_fraction
        for i in range(len(batches)):
            yield [Draw(int(index), epoch, bool(full[i])) for index in batches[i]]


class SpeechDataset(torch.utils.data.Dataset):
    """Rows of a prepared corpus, decoded and tokenised when drawn.

    Args:
        corpus: `datasets.Dataset` with the columns of the data contract, audio not decoded.
        processor: gives the tokenizer.
        expert_weights: `(utterances, experts)` float32, given to the model instead of its router's choice.
    """

    def __init__(self, corpus: datasets.Dataset, processor: WhisperProcessor, expert_weights: np.ndarray | None = None):
        self.corpus, self.tokenizer, self.expert_weights = corpus, processor.tokenizer, expert_weights

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, draw: Draw) -> dict:
        row = self.corpus[draw.index]
        item = {"id": row["id"], "epoch": draw.epoch, "full_context": draw.full_context,
                "waveform": waveforms([row])[0], "labels": tokenize(self.tokenizer, row["text"])}
        if self.expert_weights is not None:
            item["expert_weights"] = self.expert_weights[draw.index]
        return item


def tokenize(tokenizer, text: str) -> list[int]:
    """Token ids that the decoder learns to write: task tokens, text, end; the start token is its first input."""
    return tokenizer(text).input_ids[1:]


def drop_long_transcripts(corpus: datasets.Dataset, processor: WhisperProcessor, longest: int) -> datasets.Dataset:
    """Leave out utterances with more tokens than the decoder has positions, and name them in a warning."""
    lengths = [len(tokenize(processor.tokenizer, text)) for text in corpus["text"]]
    kept = [i for i, length in enumerate(lengths) if length <= longest]
    if len(kept) < len(lengths):
        ids = [name for name, length in zip(corpus["id"], lengths, strict=True) if length > longest]
        logger.warning("%d transcripts have more than %d tokens and are not trained on: %s", len(ids), longest, ", ".join(ids))
    if not kept:
        raise UserError(f"no utterance is left to train on: all {len(lengths)} transcripts have more than {longest} tokens")
    return corpus.select(kept) if len(kept) < len(lengths) else corpus


class SpeechCollator:
    """Log-mel features of the shortest even length that holds the batch, labels padded with -100.

    Args:
        feature_extractor: of the checkpoint.
        time_masks, time_mask_length, mel_masks, mel_mask_width: SpecAugment (Park et al. 2019, arXiv 1904.08779):
            number and greatest size (mel frames, mel bins) of masked stretches per utterance; 0 masks nothing.
        seed: with epoch and utterance id, decides where the masks lie.
    """

    def __init__(self, feature_extractor: WhisperFeatureExtractor, *, time_masks: int = 0, time_mask_length: int = 40,
                 mel_masks: int = 0, mel_mask_width: int = 10, seed: int = 0):
        self.feature_extractor, self.seed = feature_extractor, seed
        self.time_masks, self.time_mask_length = time_masks, time_mask_length
        self.mel_masks, self.mel_mask_width = mel_masks, mel_mask_width

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        """Returns `input_features (batch, n_mels, frames)`, `attention_mask (batch, frames)`, `labels (batch, tokens)`
        and, where the data set has them, `expert_weights (batch, experts)`."""
        frames = FULL_CONTEXT_FRAMES if items[0]["full_context"] else None
        features = log_mel(self.feature_extractor, [item["waveform"] for item in items], frames)
        real_frames = torch.tensor([count_mel_frames(self.feature_extractor, len(item["waveform"])) for item in items])
        for row, item in enumerate(items):
            self._mask(features[row], int(real_frames[row]), item)
        labels = torch.full((len(items), max(len(item["labels"]) for item in items)), -100)
        for row, item in enumerate(items):
            labels[row, : len(item["labels"])] = torch.tensor(item["labels"])
        batch = {"input_features": features, "labels": labels,
                 "attention_mask": (torch.arange(features.shape[-1]) < real_frames[:, None]).long()}
        if "expert_weights" in items[0]:
            batch["expert_weights"] = torch.from_numpy(np.stack([item["expert_weights"] for item in items]))
        return batch

    def _mask(self, features: torch.Tensor, real_frames: int, item: dict) -> None:
        random = np.random.default_rng([self.seed, item["epoch"], zlib.crc32(item["id"].encode())])
        mean = features[:, :real_frames].mean()
        for _ in range(self.time_masks):
            # At most a fifth of the clip, so that short words survive.
            length = int(random.integers(0, min(self.time_mask_length, real_frames // 5) + 1))
            start = int(random.integers(0, real_frames - length + 1))
            features[:, start : start + length] = mean
        for _ in range(self.mel_masks):
            width = int(random.integers(0, self.mel_mask_width + 1))
            start = int(random.integers(0, features.shape[0] - width + 1))
            features[start : start + width, :real_frames] = mean
