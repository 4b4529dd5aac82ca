"""The demo recogniser: a stock checkpoint, the same when trained again, and good enough to be corrected and
fine-tuned."""

import json
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCTC, AutoProcessor, pipeline

from hf_components.asr.transcriber import Transcriber
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import encode_flac
from recipes.train_demo_recogniser import main

pytest.importorskip("espeakng_loader", reason="the wheel espeakng-loader is not installed")
TINY = [
    "--train_speakers",
    "2",
    "--utterances_per_speaker",
    "4",
    "--dev_speakers",
    "1",
    "--dev_utterances",
    "2",
    "--hidden_size",
    "16",
    "--num_hidden_layers",
    "1",
    "--num_attention_heads",
    "2",
    "--conv_dim",
    "8",
    "16",
    "--conv_kernel",
    "40",
    "16",
    "--conv_stride",
    "20",
    "16",
    "--max_steps",
    "2",
    "--save_strategy",
    "no",
    "--per_device_train_batch_size",
    "4",
    "--report_to",
    "none",
    "--use_cpu",
    "--dataloader_pin_memory",
    "false",
]


@pytest.mark.integration
def test_it_is_a_stock_checkpoint_and_a_function_of_its_settings(tmp_path):
    metrics = main([*TINY, "--output_dir", str(tmp_path / "model")])
    assert metrics["utterances"] == 8 and metrics["wer_clean"] > 0 and metrics["wer_noisy"] > 0
    assert json.loads((tmp_path / "model" / "stage.json").read_text())["metrics"] == metrics
    model, processor = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForCTC, AutoProcessor))
    clip = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    inputs = processor(clip, sampling_rate=16_000, return_tensors="pt")
    assert set(inputs) == {"input_values", "attention_mask"}
    assert model(**inputs).logits.shape == (1, 49, 32)
    recogniser = pipeline("automatic-speech-recognition", model=str(tmp_path / "model"), device="cpu")
    assert isinstance(recogniser({"raw": clip, "sampling_rate": 16_000})["text"], str)
    (tmp_path / "clip.flac").write_bytes(encode_flac(0.1 * clip))
    assert isinstance(Transcriber.from_pretrained(str(tmp_path / "model")).transcribe(tmp_path / "clip.flac"), str)

    main([*TINY, "--output_dir", str(tmp_path / "again"), "--plot", "false"])
    again = AutoModelForCTC.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.unit
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--conv_dim", "8"], "same number of values, got 1, 3 and 3"),
        (["--hidden_size", "30"], "hidden_size must be a multiple"),
    ],
)
def test_sizes_that_do_not_fit_are_told(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        main([*flags, "--output_dir", str(tmp_path / "model")])


@pytest.mark.slow
def test_figures_of_the_demo_recogniser(tmp_path):
    start = time.time()
    metrics = main(
        ["--config", "recipes/configs/train_demo_recogniser/default.yaml", "--output_dir", str(tmp_path / "model")]
    )
    assert metrics["wer_clean"] <= 0.5 and 0.1 <= metrics["wer_noisy"] <= 0.9
    assert time.time() - start <= 480
