"""Voices over one model: each writes in a mixed batch what it writes alone, and what PEFT makes of its file."""

import shutil
import time
from pathlib import Path

import pytest
import torch
from paths import ROOT
from peft import PeftModel
from tiny_speech import rows, save_tiny_whisper, tiny_moe, tiny_processor, tiny_whisper, tone
from tiny_voices import no_change, random_lora, voting, weights_only, with_examples
from transformers import WhisperForConditionalGeneration

from hf_components.asr.transcriber import Transcriber
from hf_components.asr.voices import Voices, with_slots
from hf_components.asr.whisper import Whisper
from hf_components.checkpoints.loading import load_whisper
from hf_components.checkpoints.voices import save_voice
from hf_components.runtime.errors import UserError
from hf_components.scoring import vote
from hf_components.speech.audio import log_mel
from hf_components.speech.corpus import waveforms

pytestmark = pytest.mark.unit

WHISPER = ROOT / "models" / "whisper-tiny.en"


def features_of(count: int) -> torch.Tensor:
    return log_mel(tiny_processor().feature_extractor, waveforms(rows(count)), 3000)


def ten(model, size: float = 0.5) -> dict:
    return {f"v{i}": random_lora(model, f"v{i}", seed=i, size=size) for i in range(10)}


def places(voices: dict) -> dict:
    return dict.fromkeys(voices, "somewhere")


@torch.inference_mode()
def test_a_mixed_batch_has_the_bits_of_each_voice_alone():
    base = tiny_whisper()
    voices = ten(base)
    mixed = Voices(base, voices, places(voices))
    features = features_of(10)
    start = torch.full((10, 3), base.config.decoder_start_token_id)
    together = mixed.model(features, decoder_input_ids=start, expert_weights=mixed.weights_of(list(voices))).logits
    written = mixed.model.generate(features, max_new_tokens=8, expert_weights=mixed.weights_of(list(voices)))
    texts = set()
    for row, (name, voice) in enumerate(voices.items()):
        alone = Voices(base, {name: voice}, {name: "somewhere"})
        weights = alone.weights_of([name] * 10)
        logits = alone.model(features, decoder_input_ids=start, expert_weights=weights).logits
        assert torch.equal(logits[row], together[row])
        tokens = alone.model.generate(features, max_new_tokens=8, expert_weights=weights)
        assert tokens[row].tolist() == written[row, : tokens.shape[1]].tolist()
        texts.add(tuple(written[row].tolist()))
    assert len(texts) > 5  # voices write different things


@torch.inference_mode()
def test_a_voice_is_its_adapter_in_plain_peft(tmp_path):
    folder = save_tiny_whisper(tmp_path / "model")
    base, _ = load_whisper(str(folder))
    voice = random_lora(base, "anna")
    save_voice(voice, tmp_path / "anna")
    stock = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    peft = PeftModel.from_pretrained(stock, tmp_path / "anna").base_model.model
    ours = Voices(base, {"anna": voice}, {"anna": tmp_path})
    features = features_of(2)
    start = torch.full((2, 3), base.config.decoder_start_token_id)
    torch.testing.assert_close(
        ours.model(features, decoder_input_ids=start, expert_weights=ours.weights_of(["anna"] * 2)).logits,
        peft(features, decoder_input_ids=start).logits,
        rtol=1e-4,
        atol=1e-4,
    )


@torch.inference_mode()
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("folded", [True, False])
def test_voices_over_a_mixture_start_from_its_experts(shared, folded, tmp_path):
    model = tiny_moe(shared_expert=shared, router_layer=1)
    if folded:
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path).eval()
        assert model.config.folded_weights is not None
    weights = [0.5, 0.25, 0.25]
    voices = {
        "placed": weights_only(model, "placed", weights),
        "lora": random_lora(model, "lora", weights=weights),
    }
    ours = Voices(model, voices, places(voices))
    features = features_of(2)
    start = torch.full((2, 3), model.config.decoder_start_token_id)
    rows_of = ours.weights_of(["placed", "lora"])
    found = ours.model(features, decoder_input_ids=start, expert_weights=rows_of).logits
    given = torch.tensor([weights] * 2)
    expected = model(features, decoder_input_ids=start, expert_weights=given).logits
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    assert (found[1] - expected[1]).abs().max() > 0.01


@torch.inference_mode()
@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_example_is_heard_and_said_before_the_text(num_beams):
    """Rows with different examples in one batch write what a plain loop over the decoder writes."""
    model = tiny_whisper()
    processor = tiny_processor()
    family = Whisper()
    said = [family.tokenize_text(processor, text) for text in ("cat", "a green dog", "")]
    inputs = {"input_features": features_of(3)}
    texts = family.decode(model, processor, inputs, max_new_tokens=8, num_beams=num_beams, said=said)
    if num_beams > 1:
        return
    suppressed = model.generation_config.suppress_tokens
    end = model.config.eos_token_id
    head = [model.config.decoder_start_token_id, model.generation_config.no_timestamps_token_id]
    for row, known in enumerate(said):
        ids = head + known
        while len(ids) < len(head) + len(known) + 8 and ids[-1] != end:
            logits = model(inputs["input_features"][row : row + 1], decoder_input_ids=torch.tensor([ids])).logits[
                0, -1
            ]
            logits[suppressed] = -torch.inf
            if len(ids) == len(head):
                logits[model.generation_config.begin_suppress_tokens or []] = -torch.inf
            ids.append(int(logits.argmax()))
        expected = processor.decode(ids[len(head) + len(known) :], skip_special_tokens=True)
        assert texts[row] == expected


def test_the_plain_weights_are_there_once():
    base = tiny_whisper()
    extended = with_slots(base, 2, 4, ["q_proj"], 1)
    own = {p.data_ptr() for p in base.parameters()}
    strangers = [name for name, p in extended.named_parameters() if ".lora_" not in name and p.data_ptr() not in own]
    assert all(".router." in name for name in strangers)


@pytest.fixture
def saved(tmp_path):
    folder = save_tiny_whisper(tmp_path / "model")
    base, _ = load_whisper(str(folder))
    everyone = (
        random_lora(base, "anna", 1),
        random_lora(base, "bo", 2),
        no_change(base, "chris"),
        with_examples(base, "dan", "red cat", "green dog", "blue sun"),
    )
    for voice in everyone:
        save_voice(voice, tmp_path / "voices" / voice.name)
    return folder, tmp_path


def test_transcriber_with_voices(saved):
    folder, place = saved
    options = {"max_new_tokens": 8, "dtype": "float32"}
    corpus = rows(6)
    plain = Transcriber.from_pretrained(folder, **options).transcribe_corpus(corpus)
    alone = {
        name: Transcriber.from_pretrained(folder, voice=place / "voices" / name, **options).transcribe_corpus(corpus)
        for name in ("anna", "bo", "chris", "dan")
    }
    assert [one.text for one in alone["chris"]] == [one.text for one in plain]
    assert [one.text for one in alone["anna"]] != [one.text for one in plain]
    names = ["anna", "bo", "chris", "dan", "bo", "dan"]
    mixed = Transcriber.from_pretrained(folder, voice=place / "voices", **options)
    found = mixed.transcribe_corpus(corpus, voices=names)
    assert [one.text for one in found] == [alone[name][row].text for row, name in enumerate(names)]
    with pytest.raises(UserError, match="4 voices are loaded, such as anna: name that of each"):
        mixed.transcribe_corpus(corpus)
    with pytest.raises(UserError, match="there is no voice 'dora'; there are anna, bo"):
        mixed.transcribe_corpus(corpus, voices=["dora"] * 6)
    with pytest.raises(UserError, match="expert_weights and a voice both choose"):
        mixed.transcribe_corpus(corpus, voices=names, expert_weights=torch.ones(6, 1))


def test_base_examples_and_lora_vote():
    base = tiny_whisper()
    said = ("red cat", "green dog")
    voices = {
        "examples": with_examples(base, "examples", *said),
        "lora": random_lora(base, "lora", seed=1),
        "both": voting(base, "both", *said, seed=1),
        "nothing": no_change(base, "nothing"),
    }
    several = Voices(base, voices, places(voices))
    asking = Transcriber(base, tiny_processor(), max_new_tokens=8, voices=several)
    corpus = rows(6)
    texts = {name: [one.text for one in asking.transcribe_corpus(corpus, voices=[name] * 6)] for name in voices}
    each = zip(texts["nothing"], texts["examples"], texts["lora"], strict=True)
    assert texts["both"] == [vote(list(one)) for one in each]
    assert texts["lora"] != texts["nothing"]
    with pytest.raises(UserError, match="puts examples before each recording"):
        Voices(base, {"both": voices["both"]}, {"both": "somewhere"}).merged("somewhere")


@pytest.mark.parametrize("place", ["of the model", "here", "of the recipe"])
def test_a_voice_is_found_by_its_name(saved, monkeypatch, tmp_path, place):
    folder, everyone = saved
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    there = {"of the model": Path(folder), "here": work, "of the recipe": work / "runs" / "voice" / "model"}
    with pytest.raises(UserError, match="there is no folder anna; recipes/personalise_whisper.py"):
        Transcriber.from_pretrained(folder, voice="anna")
    shutil.copytree(everyone / "voices", there[place] / "voices")
    named = Transcriber.from_pretrained(folder, voice=["anna", "bo"])
    assert set(named.voices.names) == {"anna", "bo"}
    with pytest.raises(UserError, match="there is no folder dora; there is no voice of that name in .*voices"):
        Transcriber.from_pretrained(folder, voice="dora")


def test_a_voice_of_another_model_is_refused(saved, tmp_path):
    other = save_tiny_whisper(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="was learned over .*model, and .*other has other weights"):
        Transcriber.from_pretrained(other, voice=saved[1] / "voices" / "anna")


def test_what_is_no_voice_is_named(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no voice"):
        Transcriber.from_pretrained(saved[0], voice=tmp_path / "empty")
    (saved[1] / "voices" / "anna" / "voice.json").write_text("{")
    with pytest.raises(UserError, match="voice.json is damaged"):
        Transcriber.from_pretrained(saved[0], voice=saved[1] / "voices" / "anna")


def real_size() -> tuple:
    """Whisper tiny.en on as much audio as there is, and ten clips of a second."""
    base, processor = load_whisper(str(WHISPER))
    base.set_audio_context("dynamic", 200)
    return base, log_mel(processor.feature_extractor, [tone(i % 3, i, 1.0).astype("float32") for i in range(10)], 200)


@pytest.mark.slow
def test_ten_voices_take_at_most_a_fifth_longer_than_one():
    if not WHISPER.exists():
        pytest.skip("models/whisper-tiny.en is not there; make models/whisper-tiny.en")
    base, features = real_size()
    voices = ten(base, size=0.03)

    def seconds(several: Voices, names: list[str]) -> float:
        weights = several.weights_of(names)
        found = []
        for _ in range(3):
            started = time.process_time()
            with torch.inference_mode():
                several.model.generate(features, max_new_tokens=30, min_new_tokens=30, expert_weights=weights)
            found.append(time.process_time() - started)
        return min(found)

    one = seconds(Voices(base, {"v0": voices["v0"]}, {"v0": "somewhere"}), ["v0"] * 10)
    assert seconds(Voices(base, voices, places(voices)), list(voices)) <= 1.2 * one


@pytest.mark.slow
@torch.inference_mode()
def test_a_mixed_batch_of_real_size_has_the_bits_of_each_voice_alone():
    if not WHISPER.exists():
        pytest.skip("models/whisper-tiny.en is not there; make models/whisper-tiny.en")
    base, features = real_size()
    voices = ten(base, size=0.03)
    mixed = Voices(base, voices, places(voices))
    options = {"max_new_tokens": 6, "num_beams": 2, "return_dict_in_generate": True, "output_scores": True}
    together = mixed.model.generate(features, expert_weights=mixed.weights_of(list(voices)), **options)
    for row, (name, voice) in list(enumerate(voices.items()))[::4]:
        alone = Voices(base, {name: voice}, {name: "somewhere"})
        own = alone.model.generate(features, expert_weights=alone.weights_of([name] * 10), **options)
        assert torch.equal(own["sequences"][row], together["sequences"][row, : own["sequences"].shape[1]])
        start = torch.full((10, 4), base.config.decoder_start_token_id)
        logits = [
            one.model(features, decoder_input_ids=start, expert_weights=one.weights_of(names)).logits[row]
            for one, names in ((mixed, list(voices)), (alone, [name] * 10))
        ]
        assert torch.equal(*logits)
