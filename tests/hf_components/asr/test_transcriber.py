"""`Transcriber`: order, batches, long recordings, failures, adapters."""

import copy
import json

import numpy as np
import pytest
import soundfile
import tiny_models
import torch
from every_model import EVERY
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_speech import rows, save_tiny_whisper, tiny_moe, tiny_processor, tone

from hf_components.asr.families import load_asr
from hf_components.asr.transcriber import Transcriber, transcribe
from hf_components.checkpoints.loading import choose_dtype, save_processor
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import AudioError
from hf_components.speech.batching import seconds_batches
from hf_components.speech.cutting import cut_at_quiet

pytestmark = pytest.mark.unit

SHORT = {"max_new_tokens": 8, "dtype": "float32"}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    return tiny_models.save_wav2vec2(tmp_path_factory.mktemp("wav2vec2"))


def write(folder, name: str, waveform: np.ndarray):
    soundfile.write(folder / name, waveform, 16_000, subtype="FLOAT")
    return folder / name


def test_batches_are_bounded_by_seconds_with_padding():
    assert seconds_batches([1.0, 4.0, 2.0, 2.0, 9.0, 1.0], 8.0) == [[4], [1, 2], [3, 0, 5]]
    assert seconds_batches([], 8.0) == []


def test_the_audio_context_of_a_whisper_can_be_chosen(whisper, wav2vec2):
    for context in ("dynamic", "full"):
        assert Transcriber.from_pretrained(whisper, audio_context=context).model.audio_context == context
    with pytest.raises(UserError, match="audio_context is for a Whisper"):
        Transcriber.from_pretrained(wav2vec2, audio_context="full")


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_a_corpus_is_transcribed_as_by_transcribe(kind, request):
    corpus, folder = rows(9), str(request.getfixturevalue(kind))
    expected = transcribe(*load_asr(folder), corpus, batch_size=4, max_new_tokens=8)
    found = Transcriber.from_pretrained(folder, batch_seconds=3.0, **SHORT).transcribe_corpus(corpus)
    assert [transcript.text for transcript in found] == expected and len(set(expected)) > 1
    assert [transcript.id for transcript in found] == corpus["id"][:]


def test_files_come_in_their_order_and_one_that_is_broken_costs_itself_alone(wav2vec2, tmp_path):
    transcriber = Transcriber.from_pretrained(wav2vec2, batch_seconds=2.0, num_workers=1, **SHORT)
    paths = [write(tmp_path, f"{i}.wav", tone(i % 3, i, 0.3 + 0.2 * i)) for i in range(4)]
    whole = (tmp_path / "3.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("no audio")
    text, cut, none = (tmp_path / f"{name}.wav" for name in ("text", "cut", "none"))
    found = transcriber.transcribe_files([text, *paths, cut, none, paths[0]])
    assert [transcript.text for transcript in found[1:5]] == [transcriber.transcribe(path) for path in paths]
    assert len({transcript.text for transcript in found[1:5]}) == 4 and found[7] == found[1]
    problems = [found[i].problem for i in (0, 5, 6)]
    assert [problem.split(":")[0] for problem in problems] == [
        "unreadable audio",
        "truncated audio",
        "unreadable audio",
    ]
    assert all(found[i].text == "" for i in (0, 5, 6)) and all(found[i].problem is None for i in (1, 2, 3, 4))
    with pytest.raises(AudioError, match="text.wav: unreadable audio"):
        transcriber.transcribe(tmp_path / "text.wav")


def test_a_long_recording_is_the_texts_of_its_pieces(wav2vec2, tmp_path):
    transcriber = Transcriber.from_pretrained(wav2vec2, batch_seconds=40.0, **SHORT)
    clip = np.concatenate([tone(1, 0, 25.0), np.zeros(16_000, np.float32), tone(2, 1, 20.0)])
    parts = cut_at_quiet(clip, 30.0, 16_000)
    assert [round(len(part) / 16_000) for part in parts] == [26, 20]
    texts = [transcriber.transcribe(write(tmp_path, f"{i}.wav", part)) for i, part in enumerate(parts)]
    assert transcriber.transcribe(write(tmp_path, "long.wav", clip)) == " ".join(texts) and all(texts)


def test_whisper_takes_long_recordings_too(whisper, tmp_path):
    transcriber = Transcriber.from_pretrained(whisper, **SHORT)
    assert len(transcriber.transcribe(write(tmp_path, "long.wav", tone(1, 0, 61.0))).replace(" ", "")) > 8


def test_the_audio_context_is_the_checkpoints(whisper, tmp_path):
    assert Transcriber.from_pretrained(whisper, **SHORT).model.audio_context == "full"
    folder = save_tiny_whisper(tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "audio_context": "dynamic", "min_audio_context": 200}))
    model = Transcriber.from_pretrained(folder, **SHORT).model
    assert (model.audio_context, model.min_audio_context) == ("dynamic", 200)
    tiny_moe(min_audio_context=400).save_pretrained(tmp_path / "moe")
    save_processor(tiny_processor(), tmp_path / "moe")
    transcriber = Transcriber.from_pretrained(tmp_path / "moe", **SHORT)
    assert (transcriber.model.audio_context, transcriber._heard_seconds(1.0)) == ("dynamic", 4.0)


def test_a_clip_counts_for_what_is_heard_of_it(tmp_path):
    seconds = {
        name: Transcriber.from_pretrained(EVERY[name](tmp_path / name), **SHORT)._heard_seconds(3.0)
        for name in ("glm-asr", "qwen3-asr")
    }
    assert seconds == {"glm-asr": 30.0, "qwen3-asr": 3.0}


@pytest.mark.parametrize("kind", ["whisper", "wav2vec2"])
def test_adapters_on_top_are_those_of_peft(kind, request, tmp_path):
    folder = str(request.getfixturevalue(kind))
    corpus, (base, processor) = rows(5), load_asr(folder)
    for seed in range(2):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        lora = get_peft_model(copy.deepcopy(base), config)
        lora.save_pretrained(tmp_path / str(seed))
    alone = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "0").eval()
    expected = transcribe(alone.base_model.model, processor, corpus, max_new_tokens=8)
    found = Transcriber.from_pretrained(folder, adapter=tmp_path / "0", **SHORT).transcribe_corpus(corpus)
    assert (
        [transcript.text for transcript in found] == expected != transcribe(base, processor, corpus, max_new_tokens=8)
    )
    both = Transcriber.from_pretrained(folder, adapter=[tmp_path / "0", tmp_path / "1"], **SHORT).model.state_dict()
    for name, weight in base.state_dict().items():
        if name.endswith("q_proj.weight"):
            changes = [
                PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / seed).merge_and_unload().state_dict()[name]
                - weight
                for seed in "01"
            ]
            torch.testing.assert_close(both[name], weight + sum(changes))


def test_the_type_of_the_weights(whisper):
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == torch.float32 and choose_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(UserError, match="dtype must be auto, float32, float16, bfloat16, got 'half'"):
        choose_dtype("half", cpu)
    transcriber = Transcriber.from_pretrained(whisper, dtype="bfloat16", max_new_tokens=8)
    assert transcriber.model.dtype == torch.bfloat16 and len(transcriber.transcribe_corpus(rows(2))) == 2


def test_too_long_texts_are_refused_at_once(whisper):
    with pytest.raises(UserError, match=r"max_new_tokens must lie in \[1, 60\]"):
        Transcriber.from_pretrained(whisper, max_new_tokens=61).transcribe_corpus(rows(1))


def test_beams_are_those_of_the_checkpoint_unless_asked_for(whisper):
    clips = rows(4)

    def texts(**options):
        return [t.text for t in Transcriber.from_pretrained(whisper, **SHORT, **options).transcribe_corpus(clips)]

    assert texts() == texts(num_beams=5) != texts(num_beams=1)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros((16_000, 2), np.float32), r"must be mono, of the shape \(samples,\), got \(16000, 2\)"),
        (np.zeros((1, 16_000), np.float32), r"got \(1, 16000\)"),
        (np.full(16_000, 3000, np.int16), "must be floats in .*, got int16: divide"),
        (np.full(16_000, np.nan, np.float32), "no numbers"),
    ],
    ids=["stereo", "batch", "integers", "nan"],
)
def test_a_waveform_that_is_none_is_refused(whisper, samples, said):
    with pytest.raises(UserError, match=said):
        Transcriber.from_pretrained(whisper, **SHORT).transcribe_waveform(samples)


def test_a_waveform_may_be_a_tensor_or_of_double_precision(whisper):
    transcriber = Transcriber.from_pretrained(whisper, **SHORT)
    waveform = tone(0, 1, 0.6).astype(np.float32)
    expected = transcriber.transcribe_waveform(waveform)
    assert transcriber.transcribe_waveform(torch.from_numpy(waveform)) == expected
    assert transcriber.transcribe_waveform(waveform.astype(np.float64)) == expected


def test_a_message_names_the_method_for_what_was_given(whisper, tmp_path):
    transcriber = Transcriber.from_pretrained(whisper, **SHORT)
    file = write(tmp_path, "a.wav", tone(0, 1, 0.6))
    for given in ([file], {"array": tone(0, 1, 0.6), "sampling_rate": 16_000}, tone(0, 1, 0.6)):
        with pytest.raises(UserError, match="transcribe_files takes several paths, and transcribe_waveform takes"):
            transcriber.transcribe(given)
    with pytest.raises(UserError, match="transcribe takes a single one"):
        transcriber.transcribe_files(str(file))
