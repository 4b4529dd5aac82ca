"""Whisper's encoder with a CTC head: its loss, its context, and that it loads without this project."""

import pytest
import torch
from tiny_speech import rows, tiny_processor, tiny_whisper
from transformers import AutoModelForCTC, AutoProcessor

from hf_components.asr import family_of, with_ctc_head
from hf_components.runtime import UserError
from hf_components.speech import waveforms

pytestmark = pytest.mark.unit


def headed(texts=("red sun", "it's blue")):
    torch.manual_seed(0)
    model = tiny_whisper()
    model.set_audio_context("dynamic", 50)
    return with_ctc_head(model, tiny_processor(), list(texts))


def batch_of(model, processor, corpus) -> dict[str, torch.Tensor]:
    family = family_of(model)
    labels = [family.tokenize(processor, text) for text in corpus["text"]]
    return family.training_batch(processor, waveforms(list(corpus)), labels)


def test_the_vocabulary_is_the_characters_of_the_transcripts():
    _, processor = headed(["Red, sun!", "It's 5", "\u0939\u093f\u0928"])
    letters = [token for token in processor.tokenizer.get_vocab() if len(token) == 1]
    assert sorted(letters) == sorted("|'5deinrstu\u0939\u093f\u0928")
    with pytest.raises(UserError, match="no letters to make a vocabulary of"):
        headed(["...", "!"])


def test_the_loss_is_that_of_each_clip_by_itself():
    model, processor = headed(rows(4)["text"])
    corpus = rows(4)
    batch = batch_of(model, processor, corpus)
    total = 0.0
    for i in range(4):
        frames = int(batch["attention_mask"][i].sum())
        logits = model(batch["input_features"][i : i + 1]).logits[0, : (frames + 1) // 2]
        labels = batch["labels"][i][batch["labels"][i] != -100]
        sizes = (torch.tensor([len(logits)]), torch.tensor([len(labels)]))
        log_probs = logits.log_softmax(-1)[:, None]
        total += torch.nn.functional.ctc_loss(log_probs, labels[None], *sizes, blank=0, reduction="sum")
    torch.testing.assert_close(model(**batch).loss, total, rtol=1e-4, atol=1e-4)


def test_it_hears_as_much_as_there_is():
    model, processor = headed()
    seen = []
    model.encoder.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    family = family_of(model)
    for seconds, least in ((0.2, 50), (2.0, 200)):
        inputs = family.inputs(processor, waveforms(list(rows(1, seconds=seconds))))
        logits = model(**inputs).logits
        assert logits.shape[1] == (inputs["input_features"].shape[-1] + 1) // 2
        assert least <= seen.pop() <= least + 20  # and some silence
    assert family.count_frames(model, processor, [0.2, 2.0]) == [10, 100]


def test_it_loads_as_it_was_saved(tmp_path):
    model, processor = headed()
    family_of(model).save(model, processor, tmp_path)
    loaded = AutoModelForCTC.from_pretrained(tmp_path)
    features = AutoProcessor.from_pretrained(tmp_path).feature_extractor
    assert type(loaded) is type(model) and type(features) is type(processor.feature_extractor)
    batch = batch_of(model, processor, rows(2).map(lambda row: {"text": "red sun"}))
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
    assert {"modeling_whisper_ctc.py", "dynamic_encoder.py", "silence.py"} <= {
        path.name for path in tmp_path.iterdir()
    }
