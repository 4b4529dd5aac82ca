"""A personal voice is private unless its owner says otherwise, and has no licence by default."""

import pytest
from tiny_speech import tiny_whisper
from tiny_voices import no_change, random_lora

from hf_components.checkpoints.voices import save_voice
from hf_components.publishing import hub
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

CARD = "---\ntags: [personal-voice]\n---\n# A voice\n"


@pytest.fixture
def sent(monkeypatch):
    found = {}

    def send(folder, repo_id, kind, files, private):
        found.update(private=private, kind=kind.repo_type, files=sorted(files))
        return hub.Published("https://hub", "1")

    monkeypatch.setattr(hub, "_send", send)
    return found


@pytest.mark.parametrize("make", [random_lora, no_change])
@pytest.mark.parametrize(("given", "private"), [(None, True), (False, False), (True, True)])
def test_a_voice_is_private_by_default(tmp_path, sent, make, given, private):
    save_voice(make(tiny_whisper(), "anna"), tmp_path)
    (tmp_path / "README.md").write_text(CARD)
    hub.publish(tmp_path, "user/voice", private=given, license="cc-by-nc-4.0")
    assert sent["private"] is private and sent["kind"] == "model" and "voice.json" in sent["files"]


def test_a_folder_of_voices_is_private_too(tmp_path, sent):
    save_voice(no_change(tiny_whisper(), "anna"), tmp_path / "voices" / "anna")
    (tmp_path / "README.md").write_text(CARD)
    hub.publish(tmp_path, "user/voices", license="cc-by-nc-4.0")
    assert sent["private"] is True


def test_a_voice_needs_a_licence(tmp_path, sent):
    save_voice(no_change(tiny_whisper(), "anna"), tmp_path)
    (tmp_path / "README.md").write_text(CARD)
    with pytest.raises(UserError, match="holds a voice, and its card names no licence"):
        hub.publish(tmp_path, "user/voice")
