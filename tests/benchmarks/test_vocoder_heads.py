"""The benchmark of the vocoder's heads in its smallest form."""

import pytest
from tiny_units import write_tiny_segments, write_tiny_units

from benchmarks import vocoder_heads


@pytest.mark.integration
def test_vocoder_heads(tmp_path, monkeypatch, capsys):
    segments = write_tiny_segments(tmp_path / "segments", train=2, dev=1)
    units = write_tiny_units(tmp_path / "units", segments)
    monkeypatch.setattr(
        vocoder_heads,
        "HEADS",
        {
            **vocoder_heads.HEADS,
            "hifigan V2": {
                "head": "hifigan",
                "upsample_initial_channel": 32,
                "resblock_kernel_sizes": [3],
                "resblock_dilation_sizes": [[1]],
            },
        },
    )
    found = vocoder_heads.main(
        [
            "--corpus",
            str(segments),
            "--units_dir",
            str(units),
            "--steps",
            "2",
            "--batch_size",
            "2",
            "--crop_seconds",
            "0.5",
            "--segments",
            "1",
            "--repeats",
            "1",
        ]
    )
    assert found["hifigan V1"]["flops"] > 10 * found["istft"]["flops"]  # an order of magnitude, whatever the machine
    assert all(found[name]["mel_loss"] > 0 and found[name]["mcd"] > 0 for name in vocoder_heads.LEARNING_RATES)
    assert "mcd" not in found["hifigan V1"] and "hifigan V1" in capsys.readouterr().out
