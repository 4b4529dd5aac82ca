"""Two clips of one speaker in one: which, how they are joined, and how they are batched."""

import datasets
import numpy as np
import pytest
import torch
from tiny_ctc import ctc_trainer
from tiny_speech import rows, tiny_processor, tiny_whisper, training_arguments

from hf_components.asr.families import family_of
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import waveforms
from hf_components.training.concatenation import ALONE, SILENCE_SECONDS, Concatenation
from hf_components.training.data import Draw, DurationBatchSampler, SpeechDataset
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit
COUNT = 400


def table(count: int = COUNT, speakers: int = 10) -> datasets.Dataset:
    """Rows without audio; the last of the speakers is unknown."""
    random = np.random.default_rng(0)
    names = [f"s{i}" for i in range(speakers - 1)] + ["unknown"]
    return datasets.Dataset.from_dict(
        {
            "id": [f"u{i}" for i in range(count)],
            "speaker_id": [names[i % speakers] for i in range(count)],
            "duration": random.uniform(0.5, 12, count).tolist(),
        }
    )


def concatenation(corpus=None, share=0.5, seed=7, seconds=15.0, tokens=None, longest_tokens=None) -> Concatenation:
    corpus = corpus or table()
    return Concatenation(corpus, share, seed, seconds, tokens or [1] * len(corpus), longest_tokens)


def test_partners_are_of_the_same_known_speaker_and_fit():
    corpus = table()
    joined = concatenation(corpus, share=1.0)
    partners = joined.partners(0)
    durations = joined.joined_durations(partners)
    for index, partner in enumerate(partners):
        if partner == ALONE:
            assert durations[index] == corpus["duration"][index]
            continue
        assert partner != index and corpus["speaker_id"][index] == corpus["speaker_id"][partner] != "unknown"
        expected = corpus["duration"][index] + SILENCE_SECONDS + corpus["duration"][partner]
        assert durations[index] == pytest.approx(expected) and expected <= 15
    assert (partners != ALONE).sum() > 0.85 * COUNT  # all but the unknown speaker's
    assert len(set(partners)) > 100


def test_the_share_of_joined_utterances():
    share = np.mean([(concatenation(share=0.3).partners(epoch) != ALONE).mean() for epoch in range(5)])
    assert 0.2 < share < 0.3  # the unknown speaker has a tenth of the rows


def test_partners_are_a_function_of_seed_epoch_and_id():
    corpus = table()
    first = concatenation(corpus).partners(3)
    np.random.default_rng().random()
    assert np.array_equal(concatenation(corpus).partners(3), first)
    assert not np.array_equal(concatenation(corpus).partners(4), first)
    assert not np.array_equal(concatenation(corpus, seed=8).partners(3), first)
    order = np.random.default_rng(1).permutation(COUNT)
    shuffled = corpus.select(order)
    names = {
        shuffled["id"][i]: shuffled["id"][j] for i, j in enumerate(concatenation(shuffled).partners(3)) if j != ALONE
    }
    assert names == {corpus["id"][i]: corpus["id"][j] for i, j in enumerate(first) if j != ALONE}


def test_both_transcripts_fit_the_decoder():
    tokens = np.random.default_rng(0).integers(1, 60, COUNT).tolist()
    partners = concatenation(share=1.0, tokens=tokens, longest_tokens=64).partners(0)
    pairs = [tokens[index] + tokens[partner] for index, partner in enumerate(partners) if partner != ALONE]
    assert len(pairs) > 100 and max(pairs) <= 64


def test_joined_texts_have_no_more_tokens_than_counted():
    family, processor, corpus = family_of(tiny_whisper()), tiny_processor(), rows(12)
    texts = corpus["text"][:]
    count = {text: len(family.tokenize(processor, text)) for text in texts}
    assert all(len(family.tokenize(processor, f"{a} {b}")) <= count[a] + count[b] for a in texts for b in texts)


@pytest.mark.parametrize(
    "changes", [{"speaker_id": ["unknown"] * COUNT}, {"duration": [14.9] * COUNT}], ids=["unknown", "long"]
)
def test_nothing_to_join_is_an_error(changes):
    corpus = datasets.Dataset.from_dict({**table().to_dict(), **changes})
    with pytest.raises(UserError, match="concatenate finds no two utterances to join: of 400"):
        concatenation(corpus)


def test_clip_and_text_are_joined(tmp_path):
    args = training_arguments(tmp_path, concatenate=1.0)
    weights = np.eye(3, dtype=np.float32)[np.arange(12) % 3]
    corpus = rows(12)
    dataset = SpeechTrainer(tiny_whisper(), args, tiny_processor(), corpus, expert_weights=weights).train_dataset
    one, other = waveforms([corpus[0], corpus[4]])
    item = dataset[Draw(0, 0, False, 4)]
    silence = np.zeros(int(SILENCE_SECONDS * 16_000))
    assert np.array_equal(item["waveform"], np.concatenate([one, silence, other]).astype(np.float32))
    text = f"{corpus[0]['text']} {corpus[4]['text']}"
    assert item["labels"] == family_of(tiny_whisper()).tokenize(tiny_processor(), text)
    assert item["id"] == "u0" and np.array_equal(item["expert_weights"], weights[0])
    assert np.array_equal(dataset[Draw(0, 0, False)]["waveform"], one)


def test_other_augmentation_comes_after_joining(tmp_path):
    corpus = rows(12)
    seen = []

    def augment(waveform, epoch, utterance_id):
        seen.append((len(waveform), epoch, utterance_id))
        return waveform

    dataset = SpeechDataset(corpus, family_of(tiny_whisper()), tiny_processor(), augment=augment)
    item = dataset[Draw(0, 2, False, 4)]
    assert seen == [(len(item["waveform"]), 2, "u0")]


def test_batches_are_of_like_joined_duration():
    joined = concatenation()
    sampler = DurationBatchSampler(joined.durations, 4, 7, 0.0, concatenation=joined)
    sampler.set_epoch(1)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert sorted(draw.index for batch in batches for draw in batch) == list(range(COUNT))
    partners = joined.partners(1)
    assert all(draw.partner == partners[draw.index] for batch in batches for draw in batch)
    durations = joined.joined_durations(partners)
    assert np.mean([np.ptp([durations[draw.index] for draw in batch]) for batch in batches]) < 1
    assert batches == list(sampler)


def test_a_training_with_joined_clips_reads_them(tmp_path):
    args = training_arguments(tmp_path, concatenate=1.0, num_train_epochs=2, per_device_train_batch_size=4)
    corpus = rows(12)
    trainer = SpeechTrainer(tiny_whisper(), args, tiny_processor(), corpus)
    partners = trainer.concatenation.partners(0)
    assert (partners != ALONE).all()  # two or three short clips of each speaker
    batches = list(trainer.get_train_dataloader())
    frames = sorted(int(mask.sum()) for batch in batches for mask in batch["attention_mask"])
    assert frames == pytest.approx(sorted(100 * trainer.concatenation.joined_durations(partners)), abs=2)
    trainer.train()
    assert trainer.state.global_step == 6


def test_ctc_has_no_limit_of_tokens(tmp_path):
    trainer = ctc_trainer(tmp_path, corpus=rows(12), concatenate=1.0, num_train_epochs=1)
    assert np.isinf(trainer.concatenation.room_of_tokens).all()
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.last_loss))
