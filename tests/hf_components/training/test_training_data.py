"""Order of utterances, collation and augmentation."""

import numpy as np
import pytest
import torch
from tiny_speech import rows, tiny_processor, tiny_whisper
from transformers import WhisperConfig

from hf_components.asr.families import family_of
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import count_mel_frames, log_mel
from hf_components.speech.corpus import waveforms
from hf_components.training.augmentation import Masks
from hf_components.training.data import Draw, DurationBatchSampler, SpeechCollator, SpeechDataset
from hf_components.training.learnable import keep_learnable

pytestmark = pytest.mark.unit
WHISPER = family_of(WhisperConfig())
DURATIONS = np.random.default_rng(0).uniform(0.5, 20, 103)


def epoch_of(epoch: int, batch_size: int = 4, seed: int = 7, full_context_fraction: float = 0.25, durations=DURATIONS):
    sampler = DurationBatchSampler(durations, batch_size, seed, full_context_fraction)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


def test_every_utterance_once_per_epoch():
    for epoch in range(3):
        batches = epoch_of(epoch)
        assert sorted(draw.index for batch in batches for draw in batch) == list(range(len(DURATIONS)))
        assert {draw.epoch for batch in batches for draw in batch} == {epoch}
        assert max(map(len, batches)) == 4 and sum(len(batch) < 4 for batch in batches) == 1


def test_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(1)
    first = epoch_of(3)
    torch.manual_seed(2)
    np.random.default_rng().random()
    assert epoch_of(3) == first
    assert epoch_of(4) != first and epoch_of(3, seed=8) != first
    together = [{draw.index for draw in batch} for batch in first]
    durations = np.linspace(1, 20, 1000)  # more than one pool: other neighbours too, not only another order of batches
    other = [[{draw.index for draw in batch} for batch in epoch_of(epoch, durations=durations)] for epoch in (0, 1)]
    assert together and not any(batch in other[1] for batch in other[0][:20])


def test_batches_are_of_like_duration():
    spread = [np.ptp([DURATIONS[draw.index] for draw in batch]) for batch in epoch_of(0)]
    assert np.mean(spread) < 1 < np.ptp(DURATIONS) / 10


@pytest.mark.parametrize("fraction", [0, 0.03, 0.25, 0.7, 1])
def test_share_of_batches_at_full_context_is_spread_evenly(fraction):
    batches = epoch_of(0, full_context_fraction=fraction, durations=np.ones(8000))
    assert all(len({draw.full_context for draw in batch}) == 1 for batch in batches)
    full = np.array([batch[0].full_context for batch in batches])
    assert abs(full.sum() - fraction * len(batches)) < 1 and full.all() == (fraction == 1)
    gaps = np.diff(np.flatnonzero(full))
    assert not len(gaps) or np.ptp(gaps) <= 1
    if 0 < fraction < 1:
        starts = {epoch_of(epoch, full_context_fraction=fraction)[0][0].full_context for epoch in range(60)}
        assert starts == {True, False}  # the first of an epoch is not always, nor never, among them


@pytest.mark.parametrize("count", [103, 800, 5])
def test_a_step_is_the_same_however_its_batch_is_divided(count):
    durations, each = np.random.default_rng(1).uniform(0.5, 20, count), {}
    for batch_size, batches_per_step in ((8, 1), (4, 2), (2, 4), (1, 8)):
        sampler = DurationBatchSampler(durations, batch_size, 7, 0.25, batches_per_step)
        batches = list(sampler)
        assert len(batches) == len(sampler) and all(len(batch) == batch_size for batch in batches[:-1])
        steps = [sum(batches[i : i + batches_per_step], []) for i in range(0, len(batches), batches_per_step)]
        assert all(len({draw.full_context for draw in step}) == 1 for step in steps)
        each[batch_size] = steps
    assert each[8] == each[4] == each[2] == each[1]
    assert sorted(draw.index for step in each[8] for draw in step) == list(range(count))


def test_processes_hear_clips_of_like_duration_and_context_at_the_same_time():
    durations = np.random.default_rng(2).uniform(0.5, 20, 6400)

    def waiting(batches_per_step: int) -> float:
        """How much longer the slowest of eight processes takes than the mean one, steps taking as long as what they
        hear."""
        batches = list(DurationBatchSampler(durations, 4, 0, 0.03, batches_per_step))
        heard = np.array(
            [30 if batch[0].full_context else max(durations[draw.index] for draw in batch) for batch in batches]
        )
        return heard.reshape(-1, 8).max(1).mean() / heard.mean()

    assert waiting(8) < 1.05 and waiting(1) > 1.8


@pytest.fixture(scope="module")
def corpus():
    return rows(6)


def items(corpus, indices, epoch=0, full_context=False, **options):
    dataset = SpeechDataset(corpus, WHISPER, tiny_processor(), **options)
    assert len(dataset) == len(corpus)
    return [dataset[Draw(index, epoch, full_context)] for index in indices]


def collate(batch, seed=0, **masks):
    return SpeechCollator(WHISPER, tiny_processor(), masks=Masks(**masks), seed=seed)(batch)


def test_labels_are_text_between_task_tokens_padded(corpus):
    tokenizer = tiny_processor().tokenizer
    batch = collate(items(corpus, range(6)))
    for labels, text in zip(batch["labels"], corpus["text"], strict=True):
        tokens = labels[labels != -100].tolist()
        assert tokens == WHISPER.tokenize(tiny_processor(), text)
        assert (
            tokenizer.convert_ids_to_tokens(tokens[0]) == "<|notimestamps|>" and tokens[-1] == tokenizer.eos_token_id
        )
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
        assert (labels[len(tokens) :] == -100).all()
    assert batch["labels"].dtype == torch.int64


def test_features_and_mask(corpus):
    extractor, clips = tiny_processor().feature_extractor, waveforms(corpus)
    batch = collate(items(corpus, range(6)))
    real = torch.tensor([count_mel_frames(extractor, len(clip)) for clip in clips])
    assert batch["input_features"].shape == (6, 80, int(real.max()))
    assert torch.equal(batch["input_features"], log_mel(extractor, clips))
    assert torch.equal(batch["attention_mask"].sum(-1), real)
    assert (batch["attention_mask"].diff(dim=-1) <= 0).all()


def test_full_context_gives_thirty_seconds(corpus):
    batch = collate(items(corpus, [0, 1], full_context=True), time_masks=2, mel_masks=2)
    assert batch["input_features"].shape[-1] == batch["attention_mask"].shape[-1] == 3000
    assert batch["attention_mask"].sum(-1).max() < 110
    padding = batch["input_features"][0, :, 120:]
    assert (padding == padding[:1]).all()  # augmentation stays inside the clip


def test_expert_weights_travel_by_row(corpus):
    weights = np.random.default_rng(0).dirichlet(np.ones(3), 6).astype(np.float32)
    batch = collate(items(corpus, [4, 1], expert_weights=weights))
    assert np.array_equal(batch["expert_weights"].numpy(), weights[[4, 1]])
    assert "expert_weights" not in collate(items(corpus, [0]))


MASKS = {"time_masks": 2, "time_mask_length": 40, "mel_masks": 2, "mel_mask_width": 10, "seed": 3}


def masked(batch, plain) -> torch.Tensor:
    return batch["input_features"] != plain["input_features"]


def test_augmentation_is_a_function_of_seed_epoch_and_id(corpus):
    plain = collate(items(corpus, range(6)))
    torch.manual_seed(1)
    first = collate(items(corpus, range(6)), **MASKS)
    torch.manual_seed(2)
    assert torch.equal(collate(items(corpus, range(6)), **MASKS)["input_features"], first["input_features"])
    places = masked(first, plain)
    assert (places.any(-1).any(-1)).all()
    later = collate(items(corpus, range(6), epoch=1), **MASKS)
    reseeded = collate(items(corpus, range(6)), **{**MASKS, "seed": 4})
    assert not torch.equal(masked(later, plain), places) and not torch.equal(masked(reseeded, plain), places)
    twins = rows(1).select([0, 0])  # the same clip under two names
    twins = twins.remove_columns("id").add_column("id", ["a", "b"])
    batch = collate(items(twins, [0, 1]), **MASKS)
    assert not torch.equal(batch["input_features"][0], batch["input_features"][1])


def test_augmentation_does_not_depend_on_the_rest_of_the_batch(corpus):
    whole = collate(items(corpus, range(6)), **MASKS)
    for i in range(6):
        alone = collate(items(corpus, [i]), **MASKS)["input_features"][0]
        frames = alone.shape[-1]
        torch.testing.assert_close(whole["input_features"][i, :, :frames], alone, atol=1e-6, rtol=0)


def test_augmentation_keeps_within_its_sizes():
    corpus = rows(8, seconds=2.0)
    plain, batch = (
        collate(items(corpus, range(8))),
        collate(items(corpus, range(8)), time_masks=1, time_mask_length=30),
    )
    frames = masked(batch, plain).any(1).sum(-1)
    assert frames.max() <= 30 and frames.float().mean() > 3
    batch = collate(items(corpus, range(8)), time_masks=1, time_mask_length=1000)
    assert masked(batch, plain).any(1).sum(-1).max() <= 202 // 5  # a fifth of the clip
    batch = collate(items(corpus, range(8)), mel_masks=1, mel_mask_width=12)
    assert masked(batch, plain).any(-1).sum(-1).max() <= 12


def test_long_transcripts_are_named_and_left_out(corpus, caplog):
    lengths, model = [len(WHISPER.tokenize(tiny_processor(), text)) for text in corpus["text"]], tiny_whisper()
    assert keep_learnable(corpus, model, tiny_processor()) is corpus
    model.config.max_target_positions = longest = sorted(lengths)[3]
    with caplog.at_level("WARNING"):
        kept = keep_learnable(corpus, model, tiny_processor())
    assert kept["id"][:] == [f"u{i}" for i, length in enumerate(lengths) if length <= longest]
    assert all(f"u{i}" in caplog.text for i, length in enumerate(lengths) if length > longest)
    model.config.max_target_positions = 2
    with pytest.raises(UserError, match="no utterance is left"):
        keep_learnable(corpus, model, tiny_processor())


@pytest.mark.parametrize("processes", [2, 8])
def test_no_utterance_is_lost_when_batches_are_dealt_to_processes(processes):
    from accelerate.data_loader import BatchSamplerShard

    for epoch in range(20):
        shards = []
        for process in range(processes):
            sampler = DurationBatchSampler(list(range(103)), 4, 0, 0.2, batches_per_step=2 * processes)
            sampler.set_epoch(epoch)
            shards.append(list(BatchSamplerShard(sampler, num_processes=processes, process_index=process)))
        assert len({len(shard) for shard in shards}) == 1  # else a process would wait for ever
        assert {draw.index for shard in shards for batch in shard for draw in batch} == set(range(103))
