"""Speed and noise: right sizes and ratios, draws that are a pure function of (seed, epoch, id), exact resume with them
on."""

import numpy as np
import pytest
import soundfile
import torch
from parsing import parse
from tiny_speech import Kill, resumable_trainer, rows, tiny_processor, tiny_whisper, tone, training_arguments
from transformers import Wav2Vec2Config

from hf_components.asr.ctc_from_scratch import letter_processor
from hf_components.asr.families import family_of
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import SAMPLING_RATE
from hf_components.speech.corpus import waveforms
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.augmentation import (
    Masks,
    WaveformAugmentation,
    change_speed,
    find_recordings,
    mask_waveform,
    mix,
)
from hf_components.training.data import Draw, SpeechCollator
from hf_components.training.trainer import SpeechTrainer

pytestmark = pytest.mark.unit
CLIP = tone(1, 0, 1.0)


@pytest.fixture
def noise_dir(tmp_path):
    for seed in range(3):
        folder = tmp_path / "noise" / str(seed)
        folder.mkdir(parents=True)
        soundfile.write(folder / "n.wav", 0.1 * np.random.default_rng(seed).standard_normal(4000), 8000)
    (tmp_path / "noise" / "README").write_text("what this is")
    return tmp_path / "noise"


def augmentation(tmp_path, seed=3, longest=30.0, **options) -> WaveformAugmentation:
    return WaveformAugmentation(training_arguments(tmp_path, **options), seed, longest)


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.5])
def test_speed_changes_length_and_pitch_alike(factor):
    faster = change_speed(CLIP, factor)
    assert len(faster) == pytest.approx(len(CLIP) / factor, abs=2)

    def pitch(clip: np.ndarray) -> float:
        return np.abs(np.fft.rfft(clip)).argmax() * SAMPLING_RATE / len(clip)

    assert pitch(faster) == pytest.approx(factor * pitch(CLIP), rel=0.02)
    assert change_speed(CLIP, 1.0) is CLIP


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_has_the_power_that_its_ratio_says(snr):
    added = mix(CLIP, np.random.default_rng(0).standard_normal(len(CLIP)), snr).astype(np.float64) - CLIP
    assert 10 * np.log10(np.mean(CLIP**2.0) / np.mean(added**2)) == pytest.approx(snr, abs=0.01)
    silence = np.zeros_like(CLIP)
    assert mix(CLIP, silence, snr) is CLIP and mix(silence, CLIP, snr) is silence


def test_draws_are_a_function_of_seed_epoch_and_id(tmp_path, noise_dir):
    options = {
        "speed_factors": [0.9, 1.0, 1.1],
        "noise": ["gaussian", "recordings"],
        "noise_dir": str(noise_dir),
        "noise_probability": 0.7,
    }
    augment = augmentation(tmp_path, **options)
    np.random.default_rng().random()
    heard = {(epoch, name): augment(CLIP, epoch, name) for epoch in range(3) for name in ("a", "b", "c")}
    again = augmentation(tmp_path, **options)
    assert all(np.array_equal(again(CLIP, *key), clip) and clip.dtype == np.float32 for key, clip in heard.items())
    assert len({clip.tobytes() for clip in heard.values()}) >= 7
    other = augmentation(tmp_path, seed=4, **options)
    assert sum(np.array_equal(other(CLIP, *key), clip) for key, clip in heard.items()) < 4
    assert len({len(clip) for clip in heard.values()}) == 3


def test_share_of_noisy_utterances(tmp_path):
    augment = augmentation(tmp_path, noise=["gaussian"], noise_probability=0.3)
    noisy = [augment(CLIP, 0, str(i)) is not CLIP for i in range(500)]
    assert np.mean(noisy) == pytest.approx(0.3, abs=0.06)


def test_recordings_are_cut_from_a_random_place_and_go_round(tmp_path, noise_dir):
    augment = augmentation(
        tmp_path, noise=["recordings"], noise_dir=str(noise_dir), noise_probability=1, noise_snr=[0, 0]
    )
    assert find_recordings(noise_dir) == [noise_dir / str(i) / "n.wav" for i in range(3)]
    added = augment(CLIP, 0, "a") - CLIP  # 1 s of noise that lasts 0.5 s
    np.testing.assert_allclose(added[:8000], added[8000:], atol=1e-6)
    assert not np.array_equal(augment(CLIP, 1, "a"), augment(CLIP, 0, "a"))


def test_a_clip_is_not_slowed_down_beyond_what_the_model_takes(tmp_path):
    augment = augmentation(tmp_path, longest=1.05, speed_factors=[0.9])
    assert augment(CLIP, 0, "a") is CLIP
    assert len(augment(CLIP[:8000], 0, "a")) > 8000


def test_off_by_default(tmp_path):
    args = SpeechTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    assert (args.noise, args.speed_factors, args.time_masks, args.mel_masks) == ([], [], 0, 0)
    corpus, processor = rows(2), tiny_processor()
    trainer = SpeechTrainer(tiny_whisper(), args, processor, corpus)
    batch = trainer.data_collator([trainer.train_dataset[Draw(0, 0, False)]])
    expected = family_of(trainer.model).inputs(processor, waveforms([corpus[0]]))
    assert torch.equal(batch["input_features"], expected["input_features"])


def test_resuming_with_augmentation_gives_the_same_bits(tmp_path, noise_dir):
    options = {
        "speed_factors": [0.9, 1.1],
        "noise": ["gaussian", "recordings"],
        "noise_dir": str(noise_dir),
        "full_context_fraction": 0.0,
        "num_train_epochs": 1,
    }
    whole = resumable_trainer(tmp_path / "whole", save_steps=100, **options)
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        resumable_trainer(tmp_path / "cut", callbacks=[Kill(2)], **options).train()
    resumed = resumable_trainer(tmp_path / "cut", save_steps=100, **options)
    resumed.train(resume_from_checkpoint=True)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed_factors": [0.9, 3.0]}, r"--speed_factors must lie in \[0.5, 2\], got 3.0"),
        ({"noise": ["pink"]}, "--noise: invalid choice: 'pink' .choose from 'gaussian', 'recordings'."),
        ({"noise": ["recordings"]}, "go together, got noise recordings and noise_dir None"),
        ({"noise_dir": "x"}, "go together, got noise of no kind and noise_dir x"),
        ({"noise_probability": 1.5}, r"--noise_probability must lie in \[0, 1\], got 1.5"),
        ({"noise_snr": [20.0, 5.0]}, "noise_snr must be the lowest and the highest ratio in dB, .* got 20.0 5.0"),
    ],
)
def test_mistakes_are_named(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        parse(SpeechTrainingArguments, output_dir=tmp_path, use_cpu=True, **options)


def test_a_noise_folder_without_sound_is_named(tmp_path):
    with pytest.raises(UserError, match="noise_dir must be a folder with sound files"):
        find_recordings(tmp_path)


def test_mask_of_a_waveform_silences_bands_and_stretches():
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    masks = Masks(time_masks=1, time_mask_length=40, mel_masks=0, mel_mask_width=10)
    clip = mask_waveform(noise, np.random.default_rng(2), masks)
    silent = np.flatnonzero(clip == 0)
    assert 0 < len(silent) <= 20 * 160 and len(silent) % 160 == 0 and np.ptp(silent) == len(silent) - 1
    assert np.array_equal(np.delete(clip, silent), np.delete(noise, silent))
    clip = mask_waveform(noise, np.random.default_rng(2), masks._replace(time_masks=0, mel_masks=1))
    gone = np.flatnonzero(np.abs(np.fft.rfft(clip)) < 1e-2)
    assert clip.dtype == np.float32 and 10 < len(gone) < 4000 and np.ptp(gone) == len(gone) - 1
    clip = mask_waveform(noise, np.random.default_rng(2), masks._replace(time_masks=0))
    assert np.array_equal(clip, noise) and clip is not noise
    assert len(mask_waveform(noise[:100], np.random.default_rng(2), masks._replace(mel_masks=2))) == 100


def test_masks_of_waveforms_are_a_function_of_seed_epoch_and_id():
    family, processor = family_of(Wav2Vec2Config()), letter_processor()
    item = {"id": "u0", "epoch": 0, "full_context": False, "waveform": CLIP, "labels": [1]}

    def masked(seed: int = 3, **changes) -> np.ndarray:
        collator = SpeechCollator(family, processor, masks=Masks(time_masks=2, mel_masks=2), seed=seed)
        return collator([{**item, **changes}])["input_values"].numpy()

    assert np.array_equal(masked(), masked())
    for other in ({"seed": 4}, {"epoch": 1}, {"id": "u1"}):
        assert not np.array_equal(masked(), masked(**other))
