"""`recipes/speak_units.py`: a recording and given units are spoken; mistakes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny_units import babble
from tiny_vocoder import save_tiny_vocoder, tiny_vocoder

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.runtime.errors import UserError
from hf_components.units.resynthesis.speaking import speak
from recipes import speak_units

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A units model, a vocoder of its units, and a recording at another rate, in stereo."""
    folder = tmp_path_factory.mktemp("run")
    model = AcousticUnitsModel.from_encoder("mfcc", num_units=8)
    features, _ = model.features(torch.from_numpy(babble(1.5, 0))[None])
    model.set_centroids(features[0, 4::9][:8])
    model.save_pretrained(folder / "units_model")
    save_tiny_vocoder(folder / "vocoder", units=model.identity())
    soundfile.write(folder / "clip.wav", np.stack([babble(1.5, 0)] * 2, axis=1), 24_000)
    return folder


def command(run: Path, output: Path, *words: object) -> list[str]:
    return [f"--vocoder_model={run / 'vocoder'}", f"--output_wav={output}", *map(str, words)]


def test_a_recording_is_spoken_again(run, tmp_path):
    output = tmp_path / "deep" / "spoken.wav"
    result = speak_units.main(command(run, output, "--audio", run / "clip.wav", "--units_model", run / "units_model"))
    assert len(result["units"]) == 49 and result["seconds"] == 0.98 and len(set(result["units"])) > 1
    assert soundfile.info(output).frames == 49 * 320 and soundfile.info(output).samplerate == 16_000
    again = tmp_path / "again.wav"
    speak_units.main(command(run, again, "--units", *result["units"]))
    assert again.read_bytes() == output.read_bytes()


def test_units_are_spoken(run, tmp_path):
    speak_units.main(command(run, tmp_path / "x.wav", "--units", 3, 3, 7))
    expected = speak(tiny_vocoder(), [[3, 3, 7]])[0]
    np.testing.assert_allclose(soundfile.read(tmp_path / "x.wav")[0], expected.clip(-1, 1), atol=1 / 32768)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either --audio or --units to speak, got neither"),
        (("--units", 1, "--audio", "x.wav"), "got both"),
        (("--audio", "x.wav"), "--audio and --units_model, which finds its units, go together"),
        (("--units", 1, 8), "--units must be numbers from 0 to 7, one at least, got 1 to 8"),
        (("--units", -1), "--units must be at least 0, got -1"),
    ],
)
def test_mistakes_are_named(run, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        speak_units.main(command(run, tmp_path / "x.wav", *words))
    assert not (tmp_path / "x.wav").exists()


def test_a_recording_is_not_overwritten(run, tmp_path):
    soundfile.write(tmp_path / "x.wav", babble(1.0, 0), 16_000)
    with pytest.raises(UserError, match="--output_wav .*x.wav would replace .*x.wav, which is read"):
        speak_units.main(
            command(run, tmp_path / "x.wav", "--audio", tmp_path / "x.wav", "--units_model", run / "units" / "model")
        )


def test_a_recording_must_be_long_enough_and_the_units_the_vocoders(run, tmp_path):
    soundfile.write(tmp_path / "short.wav", babble(0.02, 0), 16_000)
    with pytest.raises(UserError, match="short.wav has no units: a waveform must have at least 400 samples"):
        speak_units.main(
            command(run, tmp_path / "x.wav", "--audio", tmp_path / "short.wav", "--units_model", run / "units_model")
        )
    AcousticUnitsModel.from_encoder("mfcc", num_units=8).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="other and .*vocoder must be of the same units, but have centroids_sha256"):
        speak_units.main(
            command(run, tmp_path / "x.wav", "--audio", run / "clip.wav", "--units_model", tmp_path / "other")
        )


def test_a_voice_must_be_chosen_among_several(run, tmp_path):
    vocoder = save_tiny_vocoder(tmp_path / "voices", speakers=["anna", "ben"])
    with pytest.raises(UserError, match="has several voices; choose one by --speaker: anna, ben"):
        speak_units.main(command(run, tmp_path / "x.wav", f"--vocoder_model={vocoder}", "--units", 1))
    with pytest.raises(UserError, match="has no voice for the speaker carl"):
        speak_units.main(
            command(run, tmp_path / "x.wav", f"--vocoder_model={vocoder}", "--speaker=carl", "--units", 1)
        )
    speak_units.main(command(run, tmp_path / "x.wav", f"--vocoder_model={vocoder}", "--speaker=ben", "--units", 1))
    expected = speak(tiny_vocoder(speakers=["anna", "ben"]), [[1]], [1])[0]
    np.testing.assert_allclose(soundfile.read(tmp_path / "x.wav")[0], expected.clip(-1, 1), atol=1 / 32768)


def test_the_only_voice_need_not_be_chosen_and_a_nameless_one_cannot(run, tmp_path):
    vocoder = save_tiny_vocoder(tmp_path / "one", speakers=["anna"])
    speak_units.main(command(run, tmp_path / "x.wav", f"--vocoder_model={vocoder}", "--units", 1))
    assert soundfile.info(tmp_path / "x.wav").frames == 320
    with pytest.raises(UserError, match="vocoder was trained without --speaker_embedding .* leave out --speaker anna"):
        speak_units.main(command(run, tmp_path / "y.wav", "--speaker=anna", "--units", 1))


def test_a_vocoder_that_is_told_the_pitch_needs_a_recording(run, tmp_path):
    units_model = AcousticUnitsModel.from_pretrained(run / "units_model")
    vocoder = save_tiny_vocoder(tmp_path / "vocoder", units=units_model.identity(), use_f0=True)
    words = command(run, tmp_path / "spoken.wav")[:2] + [
        f"--vocoder_model={vocoder}",
        f"--output_wav={tmp_path / 'spoken.wav'}",
    ]
    assert (
        speak_units.main([*words, f"--audio={run / 'clip.wav'}", f"--units_model={run / 'units_model'}"])["seconds"]
        == 0.98
    )
    with pytest.raises(UserError, match="needs pitch as well as units"):
        speak_units.main([*words, "--units", "1", "2"])
