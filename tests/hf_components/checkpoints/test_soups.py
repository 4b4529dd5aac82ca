"""Averages, greedy selection, and what may go into a soup."""

import json
import random
import shutil

import pytest
import torch
from parsing import parse
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_speech import resumable_trainer, save_tiny_whisper, tiny_whisper
from transformers import WhisperForConditionalGeneration

from hf_components.checkpoints.soups import average_into, averaged, find_candidates, greedy_soup, save_average_adapter
from hf_components.checkpoints.training_checkpoints import COMPLETE, mark_complete
from hf_components.runtime.errors import UserError
from recipes import average_checkpoints

pytestmark = pytest.mark.unit


def test_greedy_goes_from_best_to_worst_and_keeps_what_does_not_hurt():
    scores = {
        (0,): 0.5,
        (1,): 0.3,
        (2,): 0.4,
        (3,): 0.9,
        (1, 2): 0.35,  # worse than the best alone: out
        (1, 0): 0.3,  # no worse: in
        (1, 0, 3): 0.2,
    }  # the worst alone helps: in
    asked = []

    def evaluate(members: list[int]) -> float:
        asked.append(tuple(members))
        return scores[tuple(members)]

    soup = greedy_soup(4, evaluate)
    assert (soup.members, soup.score, soup.candidate_scores) == ([1, 0, 3], 0.2, [0.5, 0.3, 0.4, 0.9])
    assert asked == list(scores)[:4] + [(1, 2), (1, 0), (1, 0, 3)]


@pytest.mark.parametrize("seed", range(30))
def test_a_greedy_soup_is_never_worse_than_its_best_candidate(seed):
    table: dict[tuple[int, ...], float] = {}

    def evaluate(members: list[int]) -> float:
        return table.setdefault(tuple(members), random.Random(f"{seed}{members}").random())

    soup = greedy_soup(6, evaluate)
    assert soup.score == table[tuple(soup.members)] <= min(soup.candidate_scores)
    assert len(set(soup.members)) == len(soup.members) and set(soup.members) <= set(range(6))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three Whispers of one size; the second is in two files and the third in half precision."""
    folder = tmp_path_factory.mktemp("models")
    for seed in range(3):
        save_tiny_whisper(folder / str(seed), seed=seed)
    second = WhisperForConditionalGeneration.from_pretrained(folder / "1")
    (folder / "1" / "model.safetensors").unlink()
    second.save_pretrained(folder / "1", max_shard_size="40KB")
    assert len(list((folder / "1").glob("*.safetensors"))) > 1
    WhisperForConditionalGeneration.from_pretrained(folder / "2").half().save_pretrained(folder / "2")
    return folder


def test_average_of_models_is_the_mean_of_every_parameter(models):
    folders = [models / "0", models / "1", models / "2"]
    states = [
        WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).state_dict() for folder in folders
    ]
    model = tiny_whisper(seed=7)
    average_into(model, folders)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, sum(state[name] for state in states) / 3, msg=name)
    average_into(model, folders[:1])  # alone it is itself, bit for bit
    assert all(torch.equal(value, states[0][name]) for name, value in model.state_dict().items())


def test_candidates_that_are_models(models, tmp_path):
    paths = [str(models / name) for name in "021"]
    candidates = find_candidates(paths)
    assert (list(candidates.folders), candidates.model, candidates.adapter) == (paths, paths[0], None)
    with pytest.raises(UserError, match="--last chooses checkpoints of one training, got 3 candidates"):
        find_candidates(paths, last=2)
    with pytest.raises(UserError, match="each candidate counts once"):
        find_candidates([paths[0], paths[0]])
    with pytest.raises(UserError, match=f"{tmp_path} holds no model"):
        find_candidates([paths[0], str(tmp_path)])


def test_models_of_another_size_or_kind_are_named(models, tmp_path):
    model = tiny_whisper(encoder_layers=2)
    save_tiny_whisper(tmp_path / "smaller", encoder_layers=2)
    with pytest.raises(UserError, match=r"do not hold the same weights of one model: model.encoder.layers.2"):
        average_into(model, [models / "0", tmp_path / "smaller"])
    save_tiny_whisper(tmp_path / "wider")
    wider = load_file(tmp_path / "wider" / "model.safetensors")
    wider["model.encoder.conv1.bias"] = torch.zeros(99)
    save_file(wider, tmp_path / "wider" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"conv1.bias has shape \(99,\) in a candidate, but \(16,\) in the model"):
        average_into(tiny_whisper(), [models / "0", tmp_path / "wider"])


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Three LoRAs of one model with separate beginnings, of other ranks, scalings and layers."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, (rank, alpha, targets) in enumerate(
        [(2, 4, ["q_proj", "fc1"]), (3, 3, ["q_proj"]), (2, 1, ["q_proj", "fc1"])]
    ):
        torch.manual_seed(seed)
        model = get_peft_model(
            tiny_whisper(), LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
        )
        model.peft_config["default"].base_model_name_or_path = "base"
        model.save_pretrained(folder / str(seed))
    return folder


def merged(adapter) -> dict[str, torch.Tensor]:
    return PeftModel.from_pretrained(tiny_whisper(), adapter).merge_and_unload().state_dict()


def test_average_of_adapters_is_the_mean_of_the_merged_models(adapters, tmp_path):
    folders = [adapters / name for name in "012"]
    save_average_adapter(tmp_path / "soup", folders, folders[0])
    soup, alone = merged(tmp_path / "soup"), [merged(folder) for folder in folders]
    for name, value in soup.items():
        torch.testing.assert_close(value, sum(state[name] for state in alone) / 3, msg=name)
    config = json.loads((tmp_path / "soup" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == ("base", 9)


def test_an_average_of_smaller_rank_is_the_nearest(adapters, tmp_path):
    folders = [adapters / name for name in "012"]
    save_average_adapter(tmp_path / "exact", folders, folders[0])
    save_average_adapter(tmp_path / "small", folders, folders[0], rank=3)
    base = tiny_whisper().state_dict()
    exact, small = merged(tmp_path / "exact"), merged(tmp_path / "small")
    name = "model.decoder.layers.0.self_attn.q_proj.weight"
    whole, part = exact[name] - base[name], small[name] - base[name]
    assert torch.linalg.matrix_rank(part, atol=1e-5) == 3 < torch.linalg.matrix_rank(whole, atol=1e-5)
    values = torch.linalg.svdvals(whole)
    torch.testing.assert_close(torch.linalg.norm(whole - part), values[3:].norm(), rtol=1e-3, atol=1e-5)
    with pytest.raises(UserError, match="rank must be at most 9, the sum of all ranks, got 10"):
        save_average_adapter(tmp_path / "large", folders, folders[0], rank=10)


def test_a_training_of_one_lora_is_a_candidate(adapters, tmp_path):
    for name, inside in (("0", "expert_0"), ("1", "adapter")):
        shutil.copytree(adapters / name, tmp_path / name / inside)
    candidates = find_candidates([str(tmp_path / "0"), str(tmp_path / "1")])
    assert candidates.adapter == tmp_path / "0" / "expert_0"
    assert candidates.of([1]) == [tmp_path / "1" / "adapter"]


def test_trying_adapters_leaves_the_model_as_it_was(adapters):
    candidates = find_candidates([str(adapters / name) for name in "012"])
    assert (candidates.model, candidates.adapter) == ("base", adapters / "0")
    model, before = tiny_whisper(), tiny_whisper().state_dict()
    inputs = {"input_features": torch.randn(1, 80, 3000), "decoder_input_ids": torch.tensor([[1, 2]])}
    expected = PeftModel.from_pretrained(tiny_whisper(), adapters / "1").eval()(**inputs).logits
    with averaged(model, candidates, [1]):
        torch.testing.assert_close(model.eval()(**inputs).logits, expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_adapters_of_different_models_make_no_soup(adapters, models, tmp_path):
    other = shutil.copytree(adapters / "1", tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "another"}))
    with pytest.raises(UserError, match="adapters of different base models cannot be averaged: another, base"):
        find_candidates([str(adapters / "0"), str(other)])
    with pytest.raises(UserError, match="holds an adapter; --candidates takes"):
        find_candidates([str(adapters / "0"), str(models / "0")])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Nine checkpoints of a joint training."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    resumable_trainer(folder / "checkpoints").train()
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_checkpoints_by_step_and_the_newest_of_them(run):
    candidates = find_candidates([str(run)])
    assert list(candidates.folders) == [f"checkpoint-{step}" for step in range(1, 10)]
    assert (candidates.model, candidates.adapter) == (str(run / "model"), None)
    assert list(find_candidates([str(run)], last=2).folders) == ["checkpoint-8", "checkpoint-9"]


def test_an_incomplete_checkpoint_is_passed_over(run):
    (run / "checkpoints" / "checkpoint-9" / COMPLETE).unlink()
    assert list(find_candidates([str(run)], last=2).folders) == ["checkpoint-7", "checkpoint-8"]


def test_a_run_that_makes_no_soup_is_named(run, tmp_path):
    with pytest.raises(UserError, match="nowhere holds no model"):
        find_candidates([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="--last must be at least 2, got 1"):
        parse(average_checkpoints.Arguments, candidates=[run], corpus="x", output_dir="y", last=1)
    checkpoint = run / "checkpoints" / "checkpoint-4"
    (checkpoint / "base.json").write_text(json.dumps({"base_model": "another", "fingerprint": "x"}))
    with pytest.raises(UserError, match="checkpoint-4 was changed after it was written: base.json"):
        find_candidates([str(run)])
    mark_complete(checkpoint, {"step": 4})
    with pytest.raises(UserError, match="adapt different base models: checkpoint-4 and checkpoint-9"):
        find_candidates([str(run)])
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(
        UserError, match="at least 2 complete checkpoints, .*checkpoints holds 0; .*--save_total_limit"
    ):
        find_candidates([str(run)])
