"""The unit vocoder: shapes, padding, parity with transformers' HiFi-GAN, its inputs, and where frames land in time."""

import pytest
import torch
from tiny_units import IDENTITY
from tiny_vocoder import SIZES, some_units, tiny_vocoder
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from hf_components.unit_hifigan import UnitHifiGanConfig
from hf_components.unit_hifigan.durations import deduplicate, repeat_units

pytestmark = pytest.mark.unit
HEADS = ("hifigan", "istft")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("frames", [1, 2, 37])
@torch.no_grad()
def test_a_frame_is_exactly_320_samples(head, frames):
    waveform = tiny_vocoder(head)(some_units(3, frames))
    assert waveform.shape == (3, frames * 320) and waveform.isfinite().all() and waveform.abs().max() > 1e-3


@torch.no_grad()
def test_parity_with_the_hifigan_of_transformers():
    model = tiny_vocoder("hifigan")
    torch.manual_seed(1)
    reference = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=SIZES["embedding_dim"],
            upsample_rates=model.config.upsample_rates,
            normalize_before=False,
            upsample_kernel_sizes=model.config.upsample_kernel_sizes,
            initializer_range=0.2,
            **{name: SIZES[name] for name in SIZES if name.startswith(("upsample", "resblock"))},
        )
    ).eval()
    weights = {name: value for name, value in reference.state_dict().items() if name not in ("mean", "scale")}
    model.head.load_state_dict(weights)
    units = some_units(2, 20)
    expected = reference(model.unit_embedding(units))
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(model(units), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_inverse_stft_is_that_of_torch():
    head = tiny_vocoder("istft").head
    window = torch.hann_window(head.n_fft)
    spectrum = torch.randn(
        2, 30, head.n_fft // 2 + 1, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
    )
    # That of torch begins at the centre of the first frame, half a hop later.
    whole = torch.istft(spectrum.transpose(1, 2), head.n_fft, head.hop_length, window=window, center=True)
    over = head.n_fft // 2 - (head.n_fft - head.hop_length) // 2
    own = head.inverse_stft(spectrum, None)[:, over : over + whole.shape[1]]
    torch.testing.assert_close(own, whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_a_padded_row_is_spoken_as_if_it_were_alone(head):
    model, units = tiny_vocoder(head), some_units(2, 24)
    mask = torch.ones_like(units)
    mask[1, 9:] = 0
    batch, alone = model(units, attention_mask=mask), model(units[1:, :9])
    torch.testing.assert_close(batch[1, : 9 * 320], alone[0], atol=1e-5, rtol=1e-4)
    assert not batch[1, 9 * 320 :].any()
    assert not torch.allclose(model(units)[1, : 9 * 320], alone[0], atol=1e-3)  # without the mask it is not


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_what_a_unit_changes_is_centred_on_its_own_samples(head):
    model, units = tiny_vocoder(head), torch.zeros(1, 61, dtype=torch.long)
    other = units.clone()
    other[0, 30] = 1
    change = (model(other) - model(units))[0].square()
    centre = (change * torch.arange(len(change))).sum() / change.sum() / 320
    assert abs(float(centre) - 30.5) < 0.5


def test_deduplicated_units_are_spoken_for_their_durations():
    units = torch.tensor([[3, 3, 3, 1, 1, 3], [2, 2, 5, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    names, durations = deduplicate(units, mask)
    assert names.tolist() == [[3, 1, 3], [2, 5, 0]] and durations.tolist() == [[3, 2, 1], [2, 1, 0]]
    frames, again = repeat_units(names, durations)
    assert frames.tolist() == [[3, 3, 3, 1, 1, 3], [2, 2, 5, 0, 0, 0]] and again.tolist() == mask.bool().tolist()
    model = tiny_vocoder("istft", predict_durations=True)
    with torch.no_grad():
        torch.testing.assert_close(model(names, durations=durations), model(units, attention_mask=mask))
        predicted = model.predict_durations(names, durations > 0)
        alone = model.predict_durations(names[1:, :2])
    assert (predicted[0] > 0).all() and predicted[1, 2] == 0
    assert predicted[1, :2].tolist() == alone[0].tolist()
    with pytest.raises(ValueError, match="`predict_durations`"):
        tiny_vocoder("istft").predict_durations(names)


@torch.no_grad()
def test_speakers_and_pitch_are_heard_and_asked_for():
    units = some_units(1, 12)
    model = tiny_vocoder("istft", speakers=["ana", "ben"], use_f0=True)
    f0 = torch.full((1, 12), 110.0)
    spoken = {
        key: model(units, speaker_ids=torch.tensor([speaker]), f0=pitch)
        for key, speaker, pitch in (("ana", 0, f0), ("ben", 1, f0), ("high", 0, 2 * f0), ("silent", 0, 0 * f0))
    }
    for name, waveform in spoken.items():
        assert name == "ana" or not torch.allclose(waveform, spoken["ana"], atol=1e-3)
    with pytest.raises(ValueError, match="needs `speaker_ids`"):
        model(units, f0=f0)
    with pytest.raises(ValueError, match="needs `f0`"):
        model(units, speaker_ids=torch.tensor([0]))
    with pytest.raises(ValueError, match="knows no `f0`"):
        tiny_vocoder("istft")(units, f0=f0)


def test_units_of_another_quantizer_are_refused_by_name():
    model = tiny_vocoder("istft")
    model.require_units(dict(IDENTITY))
    with pytest.raises(ValueError, match=r"speaks units of .*'mfcc'.* but these are of .*facebook/other"):
        model.require_units({**IDENTITY, "encoder": "facebook/other"})


@torch.no_grad()
def test_weight_normalisation_changes_no_sample():
    model, units = tiny_vocoder("hifigan"), some_units(1, 10)
    before, names = model(units), list(model.state_dict())
    model.apply_weight_norm()
    torch.testing.assert_close(model(units), before, atol=1e-6, rtol=1e-5)
    assert any("parametrizations" in name for name in model.state_dict())
    model.remove_weight_norm()
    torch.testing.assert_close(model(units), before, atol=1e-6, rtol=1e-5)
    assert sorted(model.state_dict()) == sorted(names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head": "wavenet"}, "`head` must be one of hifigan, istft"),
        ({"num_units": 9}, "`num_units` must be that of `units`, 8, got 9"),
        ({"n_fft": 960}, "`n_fft` must be an even multiple of `hop_length` 320, got 960"),
        ({"upsample_rates": [4, 4, 4, 2, 2]}, "must multiply to `hop_length` 320"),
        ({"upsample_kernel_sizes": [11, 8, 8, 4]}, "must be as many as `upsample_rates`"),
        ({"upsample_kernel_sizes": [10, 8, 8, 4, 4]}, "by even numbers, got 10 for 5"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, got 0"),
    ],
)
def test_a_wrong_configuration_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        UnitHifiGanConfig(**{"num_units": 8, "units": IDENTITY, **fields})
