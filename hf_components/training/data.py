"""From corpus rows to batches. Every random choice depends only on the seed, the epoch, and the utterance or batch."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr import Family, family_of
from hf_components.speech import WORDS, leave_out_unreadable, load_corpus, unreadable_explained, waveforms
from hf_components.training.arguments import SpeechTrainingArguments, TrainingRecipeArguments
from hf_components.training.augmentation import (
    SECOND_MASK,
    Masks,
    WaveformAugmentation,
    draws_of,
    mask_waveform,
    spec_augment,
)
from hf_components.training.concatenation import ALONE, Concatenation, join_clips

FULL_CONTEXT_FRAMES = 3000
# Batches come from random pools of so many steps, sorted by duration: little padding, but a new order in each epoch.
STEPS_PER_POOL = 50
WEIGHT = "loss_weight"  # column of a corpus: how much the loss of each row counts


def load_training_rows(
    args: TrainingRecipeArguments,
    training_args: SpeechTrainingArguments,
    folder: Path,
    *,
    target: str = WORDS,
    g2p: str | None = None,
) -> tuple[datasets.Dataset, datasets.Dataset | None]:
    """The requested rows of the split "train" and of the evaluation split (None without evaluations).

    Args:
        folder: output folder, which gets `rejected.jsonl` if unreadable rows are to be left out.
        target, g2p: what is learnt, see `load_corpus`.
    """
    names = dict.fromkeys(["train", *([args.eval_split] if training_args.do_eval else [])])
    splits = {
        name: load_corpus(args.corpus, name, args.data_config_override, target=target, g2p=g2p) for name in names
    }
    if args.unreadable_rows == "reject":
        splits = leave_out_unreadable(splits, args.corpus, folder, training_args.dataloader_num_workers)
    return splits["train"], splits[args.eval_split] if training_args.do_eval else None


class Draw(NamedTuple):
    """One utterance drawn by the sampler, with the values for augmentation and audio context in the workers.

    Attributes:
        partner: row that follows it in the same clip, or `ALONE`.
    """

    index: int
    epoch: int
    full_context: bool
    partner: int = ALONE


@dataclass(eq=False, repr=False)
class DurationBatchSampler(torch.utils.data.Sampler):
    """Batches of utterances of similar duration, in a new order in each epoch.

    The batches of one optimiser step are consecutive and have similar duration and the same kind of audio context. So
    no process waits for longer clips of another one, and the utterances of a step depend only on the product of
    `batch_size` and `batches_per_step`.

    Args:
        durations: seconds of each utterance.
        batch_size: utterances per batch.
        seed: seed of the order, used together with the epoch.
        full_context_fraction: share of steps with 30 s of audio context, spread evenly.
        batches_per_step: number of processes times gradient accumulation steps.
        concatenation: which utterances are joined with another one, or None; the duration is that of the joined clip.
    """

    durations: Sequence[float]
    batch_size: int
    seed: int
    full_context_fraction: float
    batches_per_step: int = 1
    concatenation: Concatenation | None = None
    drop_last: bool = field(default=False, init=False)
    epoch: int = field(default=0, init=False)

    def __post_init__(self):
        self.durations = np.asarray(self.durations)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.durations) // self.batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch = self.epoch
        durations = self.durations
        partners = np.full(len(durations), ALONE)
        if self.concatenation:
            partners = self.concatenation.partners(epoch)
            durations = self.concatenation.joined_durations(partners)
        per_step = self.batch_size * self.batches_per_step
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(durations))
        # accelerate gives whole batches to processes, and expects that only the last one is incomplete.
        order, rest = np.split(order, [len(order) - len(order) % per_step])
        pools = [by_duration(pool, durations) for pool in in_parts(order, per_step * STEPS_PER_POOL)]
        steps = [step for pool in pools for step in in_parts(pool, per_step)]
        steps = [steps[i] for i in random.permutation(len(steps))] + (
            [by_duration(rest, durations)] if len(rest) else []
        )
        full = np.diff(np.floor(random.random() + self.full_context_fraction * np.arange(len(steps) + 1))) > 0
        for step, full_context in zip(steps, full, strict=True):
            for batch in in_parts(step, self.batch_size):
                yield [Draw(int(index), epoch, bool(full_context), int(partners[index])) for index in batch]


def by_duration(indices: np.ndarray, durations: np.ndarray) -> np.ndarray:
    return indices[np.argsort(durations[indices], kind="stable")]


def in_parts(items: np.ndarray, size: int) -> list[np.ndarray]:
    return [items[start : start + size] for start in range(0, len(items), size)]


@dataclass(eq=False, repr=False)
class SpeechDataset(torch.utils.data.Dataset):
    """Rows of a prepared corpus, decoded and tokenised when they are drawn.

    Args:
        corpus: rows of a prepared corpus, audio not decoded; perhaps with `WEIGHT`.
        family: family of the model, which tokenises the texts.
        processor: processor of the checkpoint.
        expert_weights: weights that replace the model's router, float32 `(utterances, experts)`.
        augment: augmentation of the recordings, or None.
    """

    corpus: datasets.Dataset
    family: Family
    processor: ProcessorMixin
    expert_weights: np.ndarray | None = None
    augment: WaveformAugmentation | None = None

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, draw: Draw) -> dict:
        row = self.corpus[draw.index]
        text = row["text"]
        weight = row.get(WEIGHT)
        with unreadable_explained():
            (waveform,) = waveforms([row])
            if draw.partner != ALONE:
                partner = self.corpus[draw.partner]
                waveform = join_clips(waveform, *waveforms([partner]))
                text = f"{text} {partner['text']}"
                weight = None if weight is None else (weight + partner[WEIGHT]) / 2
        item = {
            "id": row["id"],
            "epoch": draw.epoch,
            "full_context": draw.full_context,
            "waveform": self.augment(waveform, draw.epoch, row["id"]) if self.augment else waveform,
            "labels": self.family.tokenize(self.processor, text),
        }
        if weight is not None:
            item[WEIGHT] = weight
        if self.expert_weights is not None:
            item["expert_weights"] = self.expert_weights[draw.index]
        return item


@dataclass(eq=False, repr=False)
class SpeechCollator:
    """Makes batches: features padded to the longest clip, and labels padded with -100.

    Args:
        family: family of the model, which computes the features.
        processor: processor of the checkpoint.
        masks: log-mel features are masked by `spec_augment`, waveforms by `mask_waveform`.
        seed: seed of the masks, used together with epoch and utterance id.
        language: code such as "en", for families with a prompt in each request.
        two_masks: give each utterance twice, with different masks: first all utterances, then all of them again.
    """

    family: Family
    processor: ProcessorMixin
    _: KW_ONLY
    masks: Masks = Masks()
    seed: int = 0
    language: str | None = None
    two_masks: bool = False

    def __call__(self, items: list[dict]) -> dict[str, torch.Tensor]:
        """Returns what the family scores (Whisper: `input_features (batch, n_mels, frames)`, `attention_mask (batch,
        frames)`, `labels (batch, tokens)`) and, if the data set has them, `loss_weight (batch,)` and `expert_weights
        (batch, experts)`. With `two_masks` the batch has twice as many rows as items."""
        draws = [draws_of(self.seed, item["epoch"], item["id"]) for item in items]
        if self.two_masks:
            draws += [draws_of(self.seed, item["epoch"], item["id"], SECOND_MASK) for item in items]
            items = items * 2
        clips = [item["waveform"] for item in items]
        if not self.family.has_mel_features:
            clips = [mask_waveform(clip, random, self.masks) for clip, random in zip(clips, draws, strict=True)]
        batch = self.family.training_batch(
            self.processor,
            clips,
            [item["labels"] for item in items],
            language=self.language,
            full_context=items[0]["full_context"],
        )
        if self.family.has_mel_features:
            for random, features, mask in zip(draws, batch["input_features"], batch["attention_mask"], strict=True):
                spec_augment(features, int(mask.sum()), random, self.masks)
        if WEIGHT in items[0]:
            batch[WEIGHT] = torch.tensor([item[WEIGHT] for item in items])
        if "expert_weights" in items[0]:
            batch["expert_weights"] = torch.from_numpy(np.stack([item["expert_weights"] for item in items]))
        return batch


def collator_of(
    family: Family, processor: ProcessorMixin, args: SpeechTrainingArguments, language: str | None
) -> SpeechCollator:
    return SpeechCollator(
        family,
        processor,
        masks=Masks(*(getattr(args, name) for name in Masks._fields)),
        seed=args.data_seed,
        language=language,
        two_masks=args.consistency_coef > 0,
    )


def augmentation_of(family: Family, args: SpeechTrainingArguments) -> WaveformAugmentation | None:
    if not (args.noise or args.speed_factors):
        return None
    return WaveformAugmentation(args, args.data_seed, family.longest_seconds)


def concatenation_of(
    corpus: datasets.Dataset, model: PreTrainedModel, processor: ProcessorMixin, args: SpeechTrainingArguments
) -> Concatenation | None:
    if not args.concatenate:
        return None
    family = family_of(model)
    return Concatenation(
        corpus,
        args.concatenate,
        args.data_seed,
        min(args.concatenate_seconds, family.longest_seconds),
        tokens=[len(family.tokenize(processor, text)) for text in corpus["text"]],
        longest_tokens=family.longest_labels(model),
    )
