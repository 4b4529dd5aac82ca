"""LoRAs trained apart become one mixture."""

import json

import pytest
import torch
from paths import ROOT
from tiny_speech import rows, save_tiny_whisper

from hf_components.asr import Transcriber
from hf_components.checkpoints import load_moe_whisper, load_whisper, merge_adapter
from hf_components.moe import ExpertArguments, build_experts, save_trained_experts
from hf_components.runtime.errors import UserError
from hf_components.whisper import DynamicContextWhisper
from recipes import assemble_moe_whisper

pytestmark = pytest.mark.unit

QUICK = str(ROOT / "recipes" / "configs" / "assemble_moe_whisper" / "quick.yaml")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A tiny Whisper, two LoRAs of it, one of another rank and one of another layer."""
    folder = tmp_path_factory.mktemp("sources")
    whisper = save_tiny_whisper(folder / "whisper")
    for seed, name, sizes, layer in (
        (1, "one", {}, 1),
        (2, "two", {}, 1),
        (3, "wide", {"lora_rank": 4}, 1),
        (4, "mixture", {"experts": 2}, 1),
    ):
        torch.manual_seed(seed)
        experts = sizes.pop("experts", 1)
        model = build_experts(
            load_whisper(str(whisper))[0], ExpertArguments(**{"lora_rank": 2, **sizes}), experts, layer
        )
        for layer in model.routed_layers().values():
            torch.nn.init.normal_(layer.lora_b, std=0.3)
        (folder / name).mkdir()
        save_trained_experts(model, folder / name)
    return folder


def assemble(sources, out, *loras: str, **flags) -> dict:
    words = [f"--{name}={value}" for name, value in flags.items()]
    return assemble_moe_whisper.main(
        [
            *("--config", QUICK, "--model", str(sources / "whisper"), "--output_dir", str(out), *words),
            *("--loras", *(str(sources / name) for name in loras)),
        ]
    )


def test_each_lora_is_an_expert_and_their_mean_is_the_plain_model(sources, tmp_path):
    assert assemble(sources, tmp_path / "out", "one", "two")["experts"] == 2
    model, processor = load_moe_whisper(str(tmp_path / "out" / "model"))
    assert (model.config.mixture, model.audio_context, model.config.plain_weights) == ("choose", "dynamic", [0.5, 0.5])
    features = torch.randn(2, 80, 2 * model.config.max_source_positions)
    ids = torch.tensor([[model.config.decoder_start_token_id, 4, 7]] * 2)
    outputs = []
    for expert, name in enumerate(("one", "two")):
        alone, _ = load_whisper(str(sources / "whisper"))
        alone = merge_adapter(alone, str(sources / name / "expert_0"))
        outputs.append(alone(features, decoder_input_ids=ids).logits)
        given = torch.eye(2)[[expert, expert]]
        found = model(features, decoder_input_ids=ids, expert_weights=given).logits
        torch.testing.assert_close(found, outputs[-1], atol=1e-4, rtol=1e-4)
        saved = merge_adapter(
            load_whisper(str(sources / "whisper"))[0], str(tmp_path / "out" / "experts" / f"expert_{expert}")
        )
        torch.testing.assert_close(saved(features, decoder_input_ids=ids).logits, outputs[-1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(*outputs, atol=1e-2)
    plain = DynamicContextWhisper.from_pretrained(tmp_path / "out" / "model").eval()
    mean = model(features, decoder_input_ids=ids, expert_weights=torch.full((2, 2), 0.5)).logits
    torch.testing.assert_close(plain(features, decoder_input_ids=ids).logits, mean, atol=1e-4, rtol=1e-4)


def test_a_transcriber_takes_another_way_of_mixing(sources, tmp_path):
    assemble(sources, tmp_path / "out", "one", "two", mixture="merge")
    options = {"max_new_tokens": 6, "dtype": "float32"}
    merged = Transcriber.from_pretrained(tmp_path / "out" / "model", **options)
    choosing = Transcriber.from_pretrained(tmp_path / "out" / "model", mixture="choose", **options)
    assert (merged.model.config.mixture, choosing.model.config.mixture) == ("merge", "choose")
    choosing.transcribe_corpus(rows(3))
    assert choosing.model.utterances_chosen == 3
    with pytest.raises(UserError, match="mixture must be weights, merge, logits, choose, got 'best'"):
        Transcriber.from_pretrained(tmp_path / "out" / "model", mixture="best")
    with pytest.raises(UserError, match="mixture is for a MoE-Whisper, and .*whisper is not one; leave mixture out"):
        Transcriber.from_pretrained(sources / "whisper", mixture="choose")


@pytest.mark.parametrize(
    ("loras", "message"),
    [
        (["one"], "--loras takes two LoRAs or more"),
        (["one", "none"], "there is no folder .*none.*--loras takes folders of LoRAs"),
        (["one", "mixture"], "adapter"),
        (["one", "whisper"], "adapter"),
    ],
)
def test_what_does_not_fit_is_named(sources, tmp_path, loras, message):
    with pytest.raises(UserError, match=message):
        assemble(sources, tmp_path / "out", *loras)


def test_a_finished_mixture_is_kept(sources, tmp_path):
    assemble(sources, tmp_path / "out", "one", "two")
    before = json.loads((tmp_path / "out" / "stage.json").read_text())
    assemble(sources, tmp_path / "out", "one", "two", resume=True)
    assert json.loads((tmp_path / "out" / "stage.json").read_text()) == before
