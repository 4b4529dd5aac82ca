"""The tab of the demo in which a voice is learned, in a browser whose microphone plays a recording."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import browser_page
from paths import ROOT
from tiny_speech import save_tiny_whisper, tone

from hf_components.checkpoints import WAYS

DEMO = ROOT / "spaces" / "demo"
ARTEFACTS = ROOT / "tests" / "artefacts"
sys.path.append(str(DEMO))  # a Space's files are its own top level

import voice  # noqa: E402

pytestmark = pytest.mark.integration

RATE = 48_000


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Path:
    return save_tiny_whisper(tmp_path_factory.mktemp("whisper"), positions=448)


@pytest.fixture
def speech(tmp_path) -> Path:
    """What the microphone of the browser hears."""
    sound = np.concatenate([tone(0, number, 1.0) for number in range(4)])
    soundfile.write(tmp_path / "speech.wav", np.repeat(0.5 * sound, 3), RATE)
    return tmp_path / "speech.wav"


@pytest.fixture
def page(speech):
    flags = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={speech}",
    )
    with browser_page(*flags, permissions=["microphone"]) as (page, errors):
        yield page, errors


def test_no_voice_is_learned_while_another_is_heard(whisper):
    """Both use one recogniser, which learning changes."""
    pytest.importorskip("gradio")
    import app

    queues = {fn.name: (fn.concurrency_id, fn.concurrency_limit) for fn in app.build([str(whisper)], []).fns.values()}
    assert queues["learn_my_voice"] == queues["compare_voice"] == ("voices", 1)


@pytest.fixture
def address(whisper, monkeypatch, tmp_path):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    import app

    built = app.build([str(whisper)], [])
    _, local, _ = built.launch(prevent_thread_lock=True, quiet=True)
    yield local
    built.close()


def record(page, place: int, seconds: float = 1.0) -> None:
    """Record with the microphone of the audio field that is visible at this place."""
    page.locator("button.record-button:visible").nth(place).click()
    page.wait_for_timeout(1000 * seconds)
    page.locator("button.stop-button:visible, button.stop-button-paused:visible").first.click()


def test_a_voice_is_learned_from_sentences_that_are_recorded_one_by_one(page, address):
    page, errors = page
    ARTEFACTS.mkdir(exist_ok=True)
    page.goto(address)
    page.get_by_role("tab", name="My voice").click()
    page.get_by_label("Sentences, one per line").fill("red cat\ngreen dog\nblue sun")
    page.get_by_text("Sentence 1 of 3").wait_for()
    page.get_by_role("button", name="Keep and go on").click()  # too soon; the message must not cover the recorder
    page.get_by_text("Record something or choose a file first.").wait_for()
    for number in (1, 2, 3):
        record(page, 0)
        page.locator("audio, [data-testid^=waveform]").first.wait_for(state="attached")
        page.wait_for_timeout(500)
        page.get_by_role("button", name="Keep and go on").click()
        page.get_by_text(f"Sentence {number + 1} of 3" if number < 3 else "All 3 sentences are recorded").wait_for()
        if number == 1:  # not said well
            page.get_by_role("button", name="Go back").click()
            page.get_by_text("Sentence 1 of 3").wait_for()
            record(page, 0)
            page.wait_for_timeout(500)
            page.get_by_role("button", name="Keep and go on").click()
            page.get_by_text("Sentence 2 of 3").wait_for()
    page.get_by_role("button", name="Learn my voice").click()
    page.get_by_text("Learned from 3 sentences").wait_for(timeout=120_000)
    record(page, 1)
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Transcribe before and after").click()
    page.wait_for_function("() => [...document.querySelectorAll('textarea')].filter(t => t.value).length >= 3")
    page.screenshot(path=ARTEFACTS / "demo_voice.png", full_page=True)
    assert errors == []


def test_learning_without_underheard_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(voice, "IS_INSTALLED", False)
    with pytest.raises(ValueError, match="run `make demo`"):
        voice.learn("x", [], [])


def test_what_is_wrong_with_sentences_is_said(whisper):
    waveform = tone(0, 1, 0.6).astype("float32")
    with pytest.raises(ValueError, match="needs at least 2 sentences"):
        voice.learn(str(whisper), ["red cat"], [waveform])
    with pytest.raises(ValueError, match="sentence 2 of this speaker is silent"):
        voice.learn(str(whisper), ["red cat", "green dog"], [waveform, np.zeros(16_000, np.float32)])


def test_what_is_wrong_takes_the_place_of_the_remark_and_the_last_voice_stays(whisper):
    pytest.importorskip("gradio")
    import app

    first, last = app.learn_my_voice(str(whisper), "red cat", [], "an earlier voice")
    assert first == ("an earlier voice", "Learning from 0 sentences. On two CPU cores this takes one to five minutes.")
    assert last[0] == "an earlier voice"
    assert last[1].startswith("**Nothing was learned.** the voice of this speaker needs at least 2 sentences")


def test_every_way_is_explained():
    assert set(voice.CHOSEN) == set(WAYS)


def test_no_recording_has_a_button_that_would_upload_it():
    gradio = pytest.importorskip("gradio")
    import app

    fields = [block for block in app.build([], []).blocks.values() if isinstance(block, gradio.Audio)]
    assert len(fields) == 5
    assert all("share" not in field.buttons for field in fields)


def test_before_and_after(whisper):
    waveforms = [tone(0, number, 0.6).astype("float32") for number in range(3)]
    learnt = voice.learn(str(whisper), ["red cat", "green dog", "blue sun"], waveforms)
    assert learnt.remark.startswith("**Learned** from 3 sentences")
    before, after = voice.before_and_after(learnt, waveforms[0])
    assert before and after
    assert learnt.voice.way != "no change" or before == after
