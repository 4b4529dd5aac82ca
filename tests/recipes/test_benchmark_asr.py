"""The benchmark as a program on tiny models and tones: which systems, which files, and what it says to users who
err."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from every_model import EVERY
from make_corpus import damaged_copy
from paths import ROOT
from tiny_speech import save_tiny_whisper, speaker_folder, tiny_moe, tiny_processor, tiny_whisper

from hf_components.asr.families import load_asr
from hf_components.asr.transcriber import transcribe
from hf_components.checkpoints.loading import save_processor
from hf_components.moe.benchmark.combining import COMBINATIONS
from hf_components.moe.benchmark.routing import random_experts
from hf_components.moe.benchmark.systems import FLAGS, load_system
from hf_components.moe.experts import ExpertArguments, build_experts, save_trained_experts
from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus
from recipes import benchmark_asr, prepare_corpus

pytestmark = pytest.mark.integration

CONFIG = str(ROOT / "recipes" / "configs" / "benchmark_asr" / "quick.yaml")
OPTIONS = {"max_samples": 7, "batch_size": 4, "max_new_tokens": 6, "num_bootstrap": 20}
BASELINES = ["zero_shot", "single_lora", "single_lora_wide", "full", "merge"]
MIXTURE = ["moe_top1", "moe_random", "moe_oracle"]  # of top-1


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A corpus of 24 utterances to train on and 12 to test on, and one checkpoint per system."""
    folder = tmp_path_factory.mktemp("sources")
    base = save_tiny_whisper(folder / "base_model")
    for seed, name in ((0, "moe_model"), (1, "soup_model"), (2, "choose_model")):
        mixture = tiny_moe(min_audio_context=100, base_model_name_or_path=str(base))
        generator = torch.Generator().manual_seed(seed)
        for layer in mixture.routed_layers().values():
            layer.lora_b.data = 0.3 * torch.randn(layer.lora_b.shape, generator=generator)
        mixture.config.mixture = "choose" if name == "choose_model" else "weights"
        mixture.save_pretrained(folder / name)
        save_processor(tiny_processor(), folder / name)
    for rank, experts, name in (
        (2, 1, "single_lora_model"),
        (6, 1, "single_lora_wide_model"),
        (2, 2, "experts"),
        (3, 1, "merge_model"),
    ):
        lora = build_experts(tiny_whisper(), ExpertArguments(lora_rank=rank), experts, router_layer=1)
        for layer in lora.routed_layers().values():
            torch.nn.init.normal_(layer.lora_b, std=0.3)
        (folder / name).mkdir()
        save_trained_experts(lora, folder / name)
    save_tiny_whisper(folder / "full_model", seed=1)
    prepare_corpus.main(
        [
            "--data_dir",
            str(speaker_folder(folder / "speakers")),
            "--output_dir",
            str(folder / "corpus"),
            "--num_proc",
            "1",
        ]
    )
    return folder


def command(sources: Path, output: Path, *more: str, systems=tuple(FLAGS), **flags) -> list[str]:
    flags = {
        "corpus": sources / "corpus",
        "output_dir": output,
        **{FLAGS[name]: sources / FLAGS[name] for name in systems},
        **OPTIONS,
        **flags,
    }
    return ["--config", CONFIG, *(f"--{flag}={value}" for flag, value in flags.items()), *more]


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "trial" / "benchmark"
    return out, benchmark_asr.main(command(sources, out))


def test_a_row_per_system_on_the_same_utterances(finished):
    out, result = finished
    assert list(result["rows"]) == [
        *BASELINES,
        "choose",
        "soup",
        "moe_shared",
        "moe_top1",
        "moe_top2_weights",
        "moe_random",
        "moe_oracle",
    ]
    assert {name: row["decodes"] for name, row in result["rows"].items() if row["decodes"] > 1} == {
        "choose": 4,  # nobody is sure of noise
        "moe_oracle": 3,
    }
    assert {row["utterances"] for row in result["rows"].values()} == {7}
    contexts = {name: row["audio_context"] for name, row in result["rows"].items()}
    assert {name for name, context in contexts.items() if context == "30 s"} == {"zero_shot", "full"}
    assert set(contexts.values()) == {"30 s", ">= 1 s"}  # a LoRA runs in the mixture's context
    assert all(row["seconds"] > 0 and row["real_time_factor"] > 0 for row in result["rows"].values())
    oracle, others = result["rows"].pop("moe_oracle"), result["rows"]
    assert oracle["wer"] <= min(others[name]["wer"] for name in ("moe_top1", "moe_random"))
    others["moe_oracle"] = oracle
    pairs = {(line["a"], line["b"]) for line in result["differences"]}
    mixtures = result["rows"].keys() - set(BASELINES)
    # The shared expert alone is the last of the baselines that what follows is compared with.
    assert pairs == {
        *itertools.combinations(BASELINES, 2),
        *itertools.product(BASELINES, mixtures),
        *itertools.product(["moe_shared", "chance"], mixtures - {"choose", "soup", "moe_shared"}),
    }


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("zero_shot", "full"),
        ("single_lora", "dynamic"),
        ("single_lora_wide", "dynamic"),
        ("full", "full"),
        ("merge", "dynamic"),
        ("choose", "dynamic"),
        ("soup", "dynamic"),
    ],
)
def test_each_row_is_its_own_checkpoint(sources, finished, name, context):
    out, _ = finished
    written = lines_of(out / "transcripts.jsonl")
    corpus = load_corpus(sources / "corpus", "dev")
    corpus = corpus.select([corpus["id"][:].index(line["id"]) for line in written])
    folders = {system: str(sources / flag) for system, flag in FLAGS.items()}
    model, processor = load_system(name, folders, "en", tiny_moe(min_audio_context=100).config)
    assert model.audio_context == context
    texts = transcribe(model, processor, corpus, batch_size=4, max_new_tokens=6)
    assert [line[name] for line in written] == texts
    assert all(texts != [line[other] for line in written] for other in [*BASELINES, "soup"] if other != name)


def test_experts_are_drawn_by_seed_and_id(finished):
    out, _ = finished
    transcripts = lines_of(out / "transcripts.jsonl")
    for line, expert in zip(
        transcripts, random_experts([line["id"] for line in transcripts], 3, seed=42), strict=True
    ):
        assert line["moe_random"] == line[f"expert_{expert}"]
    for line, gates in zip(transcripts, lines_of(out / "gating_trial_top1.jsonl"), strict=True):
        assert line["id"] == gates["id"] and line["moe_top1"] == line[f"expert_{gates['experts'][0]}"]
        assert line["moe_oracle"] == line[f"expert_{gates['oracle_expert']}"]


def test_files_of_a_run(finished):
    out, result = finished
    assert {path.name for path in out.iterdir()} == {
        "benchmark_trial_top1.json",
        "benchmark_trial_topk2.json",
        "gating_trial_top1.jsonl",
        "gating_trial_topk2.jsonl",
        "transcripts.jsonl",
        "wer_per_group.png",
        "routing_per_group.png",
        "stage.json",
    }
    sample = json.loads(next(out.parent.glob("benchmark_samples_dev_*_100pct_7_42.json")).read_text())
    assert sample["ids"] == [line["id"] for line in lines_of(out / "transcripts.jsonl")] and len(sample["ids"]) == 7
    index = lines_of(out.parent / "benchmarks_index.jsonl")
    assert [line["file"] for line in index] == [
        "benchmark/benchmark_trial_top1.json",
        "benchmark/benchmark_trial_topk2.json",
    ]
    for line in index:
        written = json.loads((out.parent / line["file"]).read_text())
        assert line["wer"] == {name: row["wer"] for name, row in written["rows"].items()}
        assert (
            written["sample"] == result["sample"] == line["sample"] and written["run_id"] == line["run_id"] == "trial"
        )
    assert "routing" in result and "moe_top1" not in index[1]["wer"]


def test_resume_keeps_the_result_copies_it_and_adds_what_the_index_lacks(sources, finished, monkeypatch, tmp_path):
    out, result = finished
    index = out.parent / "benchmarks_index.jsonl"
    before = index.read_text()
    index.write_text(before.splitlines(keepends=True)[0])  # killed before the second line
    monkeypatch.setattr(benchmark_asr, "produce", None)  # calling it again would fail
    again = benchmark_asr.main(
        command(
            sources, out, "--resume", f"--output={tmp_path}/deep/b.json", "--gating-output", str(tmp_path / "g.jsonl")
        )
    )
    assert again == json.loads(json.dumps(result))
    assert [line["sha256"] for line in lines_of(index)] == [json.loads(line)["sha256"] for line in before.splitlines()]
    assert (tmp_path / "deep" / "b.json").read_bytes() == (out / "benchmark_trial_topk2.json").read_bytes()
    assert (tmp_path / "g.jsonl").read_bytes() == (out / "gating_trial_topk2.jsonl").read_bytes()


def test_a_deleted_sample_is_drawn_again_and_the_result_is_kept(sources, tmp_path, monkeypatch):
    flags = {"systems": ("zero_shot",), "models": "zero_shot", "max_samples": 2, "plot": False}
    own = tmp_path / "own.json"
    for out, more in ((tmp_path / "a" / "out", {}), (tmp_path / "b" / "out", {"sample_file": own})):
        result = benchmark_asr.main(command(sources, out, **flags, **more))
        file = own if more else out.parent / result["sample"]["file"]
        sample = file.read_bytes()
        file.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(benchmark_asr, "produce", None)  # calling it again would fail
            again = benchmark_asr.main(command(sources, out, **{**flags, "plot": True}, **more))
        assert again == json.loads(json.dumps(result)) and file.read_bytes() == sample
        assert (out / "wer_per_group.png").exists()


def test_a_sample_that_cannot_be_written(sources, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the sample .*; choose another --output_dir or --sample_file"):
        benchmark_asr.main(
            command(
                sources, tmp_path / "out", systems=(), models="zero_shot", sample_file=tmp_path / "file" / "s.json"
            )
        )


def test_top_1_alone_under_another_name(sources, finished, tmp_path):
    out = tmp_path / "benchmark"
    result = benchmark_asr.main(
        command(
            sources,
            out,
            "--moe-top-k=1",
            "--run_id=second",
            "--no_plot",
            "--models=moe",
            f"--output={tmp_path}/b.json",
            f"--gating_output={tmp_path}/g.jsonl",
        )
    )
    assert list(result["rows"]) == ["moe_shared", *MIXTURE]
    assert {(line["a"], line["b"]) for line in result["differences"]} == {
        *itertools.product(["moe_shared", "chance"], MIXTURE),
    }
    assert result["rows"]["moe_top1"]["wer"] == finished[1]["rows"]["moe_top1"]["wer"]
    assert {path.name for path in out.iterdir()} == {
        "benchmark_second_top1.json",
        "gating_second_top1.jsonl",
        "transcripts.jsonl",
        "stage.json",
    }
    assert (tmp_path / "b.json").read_bytes() == (out / "benchmark_second_top1.json").read_bytes()
    assert (tmp_path / "g.jsonl").read_bytes() == (out / "gating_second_top1.jsonl").read_bytes()


def test_baselines_without_a_mixture(sources, tmp_path):
    result = benchmark_asr.main(
        command(
            sources,
            tmp_path / "benchmark",
            "--models=full, single_lora",
            "--split=Dev",
            "--percent=50",
            systems=("zero_shot", "single_lora", "full"),
        )
    )
    assert list(result["rows"]) == ["single_lora", "full"] and "routing" not in result
    assert [(line["a"], line["b"]) for line in result["differences"]] == [("single_lora", "full")]
    assert result["sample"]["utterances"] == 6 and result["sample"]["split"] == "dev"
    assert result["rows"]["single_lora"]["audio_context"] == "30 s"  # as the LoRA's own configuration says
    assert [path.name for path in (tmp_path / "benchmark").glob("*.jsonl")] == ["transcripts.jsonl"]


def test_any_recogniser_is_one_more_row(sources, tmp_path):
    others = [EVERY[name](tmp_path / name.replace(" ", "-")) for name in ("hubert", "qwen3-asr")]
    models = f"--models={','.join(map(str, others))},zero_shot"
    out = tmp_path / "benchmark"
    result = benchmark_asr.main(command(sources, out, models, systems=("zero_shot",), max_samples=3))
    assert list(result["rows"]) == ["zero_shot", "hubert", "qwen3-asr"]
    assert [row["audio_context"] for row in result["rows"].values()] == ["30 s", "the clip", "the clip"]
    assert [(line["a"], line["b"]) for line in result["differences"]] == [
        ("zero_shot", "hubert"),
        ("zero_shot", "qwen3-asr"),
    ]
    corpus = load_corpus(sources / "corpus", "dev")
    heard = dict(zip(corpus["id"], transcribe(*load_asr(str(others[0])), corpus, batch_size=1), strict=True))
    for line in lines_of(out / "transcripts.jsonl"):
        assert heard[line["id"]] in line.values()
    (tmp_path / "again" / "hubert").mkdir(parents=True)
    with pytest.raises(UserError, match="two rows called hubert"):
        benchmark_asr.main(command(sources, out, f"--models={others[0]},{tmp_path}/again/hubert", systems=()))


def test_by_default_all_run_whose_folder_is_given(sources, tmp_path):
    result = benchmark_asr.main(command(sources, tmp_path / "benchmark", systems=("zero_shot", "soup"), max_samples=2))
    assert list(result["rows"]) == ["zero_shot", "soup"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "weights"),
        (["--moe_mixture"], "logits"),
        (["--moe-mixture", "--moe-top-k", "3"], "logits"),
        (["--mixture=logits"], "logits"),
        (["--moe_mixture", "weights"], "weights"),
    ],
)
def test_a_bare_mixture_flag_means_logits(flags, expected):
    (args,) = parse_arguments(benchmark_asr.Arguments, ["--corpus=a", "--output_dir=b", *flags])
    assert args.moe_mixture == expected and args.experts_per_utterance == (3 if "3" in flags else 2)


def test_several_experts_may_mix_probabilities(sources, tmp_path):
    result = benchmark_asr.main(
        command(
            sources, tmp_path / "benchmark", "--moe_mixture", systems=("zero_shot", "moe"), moe_top_k=3, max_samples=3
        )
    )
    assert list(result["rows"]) == [
        "zero_shot",
        "moe_shared",
        "moe_top1",
        "moe_top3_logits",
        "moe_random",
        "moe_oracle",
    ]
    prices = {name: row["decodes"] for name, row in result["rows"].items()}
    assert prices.pop("moe_top3_logits") == prices.pop("moe_oracle") == 3 and set(prices.values()) == {1}


def test_all_combinations_change_no_other_row(sources, finished, tmp_path):
    out = tmp_path / "trial" / "benchmark"
    result = benchmark_asr.main(command(sources, out, "--combine", "all", "--beta=0.25", models="moe"))
    prices = {name: row["decodes"] for name, row in result["rows"].items()}
    assert prices == {
        "moe_shared": 1,
        "moe_top1": 1,
        "moe_top2_weights": 1,
        "moe_soft": 1,
        "moe_beta0.25": 1,
        "moe_speaker": 1,
        "moe_logits": 3,
        "moe_mbr": 3,
        "moe_rover": 3,
        "moe_choose": 4,
        "moe_random": 1,
        "moe_oracle": 3,
    }
    before, lines = lines_of(finished[0] / "transcripts.jsonl"), lines_of(out / "transcripts.jsonl")
    kept = prices.keys() & finished[1]["rows"].keys()
    assert len(kept) == 5
    for name in [*kept, "expert_0", "expert_1", "expert_2"]:
        assert [line[name] for line in lines] == [line[name] for line in before]
    assert result["routing"] == finished[1]["routing"]
    assert {line["a"] for line in result["differences"] if line["b"] == "moe_choose"} == {"moe_shared", "chance"}
    for key, other in (("top1", "moe_top2_weights"), ("topk2", "moe_top1")):
        written = json.loads((out / f"benchmark_trial_{key}.json").read_text())
        assert written["rows"].keys() == prices.keys() - {other}
        assert written["routing"].keys() >= {"disagreement", "oracle_wer"}


def test_combinations_that_are_asked_for_come_in_one_order(sources):
    words = ["--corpus=a", "--output_dir=b", "--combine"]
    for asked, expected in (
        (["rover", "merge"], ["merge", "rover"]),
        (["soft", "all"], list(COMBINATIONS)),
        (["choose", "choose"], ["choose"]),
    ):
        (args,) = parse_arguments(benchmark_asr.Arguments, [*words, *asked])
        assert args.combine == expected
    (args,) = parse_arguments(benchmark_asr.Arguments, words[:2])
    assert (args.combine, args.beta) == (["merge"], 0.5)


def test_a_wide_lora_of_another_rank_is_warned_of(sources, finished, tmp_path, caplog):
    folders = {name: str(sources / flag) for name, flag in FLAGS.items()}
    config = tiny_moe().config  # three experts of rank 2
    load_system("single_lora_wide", folders, "en", config)
    assert not caplog.records
    load_system("single_lora_wide", {**folders, "single_lora_wide": folders["single_lora"]}, "en", config)
    assert (
        "has rank 2, the mixture's 3 experts have 6 together; train it with pretrain_experts --lora_rank 6"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"models": "zero_shot,mo"}, "--models takes some of zero_shot,.*got 'mo'; did you mean moe"),
        *(
            ({"models": name, FLAGS[name]: ""}, f"--models {name} needs --{FLAGS[name]}")
            for name in FLAGS
            if name != "zero_shot"
        ),
        ({"models": ""}, "--models takes some of .*got ''"),
        ({"moe_model": "{sources}/nowhere"}, "there is no folder"),
        ({"moe_model": "{sources}/base_model"}, "is not a checkpoint of MoeWhisper"),
        ({"soup_model": "{sources}/full_model"}, "is not a checkpoint of MoeWhisper"),
        ({"full_model": "{sources}/nowhere"}, "there is no folder"),
        ({"base_model": "{sources}/full_model"}, "moe_model adapts .*base_model, not --base_model"),
        ({"base_model": "{sources}/full_model", "moe_model": ""}, "soup_model adapts .*base_model, not --base_model"),
        ({"single_lora_model": "{sources}/experts"}, "--single_lora_model must hold one LoRA, .* holds 2"),
        ({"single_lora_wide_model": "{sources}/experts"}, "--single_lora_wide_model must hold one LoRA, .* holds 2"),
        ({"single_lora_model": "{sources}/full_model"}, "holds no experts.safetensors"),
        ({"moe_top_k": 4}, r"experts_per_utterance must lie in \[1, num_experts = 3\], got 4"),
        ({"moe_top_k": 0}, "--experts_per_utterance must be at least 1, got 0"),
        ({"moe_mixture": "both"}, "invalid choice: 'both'"),
        ({"combine": "both"}, "invalid choice: 'both'"),
        ({"beta": 1.5}, r"beta must lie in \[0, 1\], got 1.5"),
        ({"max_new_tokens": 100}, r"max_new_tokens must lie in \[1, 60\]"),
        ({"split": "test"}, "has no split 'test'"),
        ({"percent": 0}, r"percent must lie in \(0, 100\], got 0"),
        ({"max_samples": 0}, "max_samples must be at least 1"),
        ({"run_id": "a/b"}, "--run_id .* must hold no slash, got 'a/b'"),
        ({"run_id": ""}, "--run_id .* must hold no slash, got ''"),
        ({"gating_output": "g.jsonl", "models": "zero_shot"}, "--gating_output needs a router"),
    ],
)
def test_mistakes_are_named_and_leave_no_result(sources, tmp_path, flags, message):
    flags = {flag: str(value).format(sources=sources) for flag, value in flags.items()}
    with pytest.raises(UserError, match=message):
        benchmark_asr.main(command(sources, tmp_path / "output", **{"max_samples": 1, **flags}))
    assert not (tmp_path / "output").exists() and not (tmp_path / "benchmarks_index.jsonl").exists()


def test_an_unreadable_row_of_the_sample_stops_it(sources, tmp_path):
    rows = load_corpus(sources / "corpus", "dev")["id"][:]
    corpus = damaged_copy(sources / "corpus", tmp_path / "damaged", rows[:1])
    flags = {"corpus": corpus, "models": "zero_shot", "max_samples": len(rows)}
    with pytest.raises(UserError, match=f"1 of the {len(rows)} recordings to score .*{rows[0]} .*take their rows out"):
        benchmark_asr.main(command(sources, tmp_path / "output", **flags))
    assert not (tmp_path / "output").exists()
