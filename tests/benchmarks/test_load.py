"""Many recordings, and many users of the demo at once: nothing is lost, and no answer is another user's."""

import pytest
from tiny_speech import save_tiny_whisper

from benchmarks import transcribe_scale

pytestmark = pytest.mark.slow


def test_no_recording_is_lost(capsys):
    found = transcribe_scale.main(["--clips", "30", "120"])
    assert [run["lost"] for run in found.values()] == [0, 0]
    assert "lines lost" in capsys.readouterr().out


def test_every_user_gets_their_own_answer(tmp_path, capsys):
    pytest.importorskip("gradio")
    from benchmarks import demo_load

    model = save_tiny_whisper(tmp_path / "whisper")
    found = demo_load.main(["--users", "8", "--requests", "2", "--model", str(model)])
    assert (found["answers"], found["wrong"], found["failed"]) == (16, 0, 0)
    assert "16 answers to 8 users, 0 of them wrong; 0 failed" in capsys.readouterr().out
