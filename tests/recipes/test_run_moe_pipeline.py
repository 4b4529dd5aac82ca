"""The whole MoE pipeline on a tiny model and tones, and what it says to users who err."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from card_blocks import run_blocks
from make_corpus import add_speaker
from paths import ROOT
from tiny_speech import save_tiny_whisper, speaker_folder
from transformers import WhisperForConditionalGeneration

from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus
from hf_components.whisper import MoeWhisperForConditionalGeneration
from recipes import benchmark_asr, pretrain_experts, run_moe_pipeline, verify

pytestmark = pytest.mark.integration

QUICK = str(ROOT / "recipes" / "configs" / "run_moe_pipeline" / "quick.yaml")
SMALL = [
    "--num_experts=3",
    "--shared_epochs=1",
    "--expert_epochs=1",
    "--joint_epochs=2",
    "--stage_options",
    "pretrain_router.num_train_epochs=3",
    "extract_embeddings.full_context_samples=3",
    "benchmark_asr.max_new_tokens=6",
    "average_checkpoints.max_new_tokens=6",
    "benchmark_asr.num_bootstrap=20",
    "pretrain_experts.report_to=none",
    "train_moe_whisper.report_to=none",
    "pretrain_experts.full_context_fraction=0",
    "train_moe_whisper.full_context_fraction=0",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return speaker_folder(folder / "speakers"), save_tiny_whisper(folder / "whisper")


@pytest.fixture(scope="module")
def finished(sources, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("pipeline") / "run"
    return out, run_moe_pipeline.main(command(sources, out, "--ship=moe"))


def test_verify_knows_all_that_a_run_leaves(finished):
    result = verify.main([str(finished[0])])
    assert result["exit_status"] == 0 and result["stages"] > 2, result


def command(sources: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    data, model = sources
    own = ["--selection_share=0.15", "--shared_runs=1"]
    return [
        "--config",
        QUICK,
        "--data",
        str(data),
        "--model",
        str(model),
        "--output_dir",
        str(out),
        *own,
        *SMALL,
        *more,
    ]


def test_every_system_is_judged_on_the_same_sample(finished):
    out, results = finished
    rows = results["benchmark"]["rows"]
    assert list(rows) == [
        "zero_shot",
        "single_lora",
        "moe_shared",
        "moe_top1",
        "moe_top2_weights",
        "moe_random",
        "moe_oracle",
    ]
    assert len({row["utterances"] for row in rows.values()}) == 1
    assert rows["zero_shot"]["utterances"] == results["benchmark"]["sample"]["utterances"] == 12
    assert json.loads((out / "results.json").read_text())["benchmark"]["rows"].keys() == rows.keys()
    transcripts = [json.loads(line) for line in (out / "benchmark" / "transcripts.jsonl").read_text().splitlines()]
    assert len(transcripts) == 12 and rows.keys() <= transcripts[0].keys()


def test_what_is_released_is_chosen_on_speakers_of_train(finished, sources, tmp_path):
    out, results = finished
    assert (results["shipped"], results["reason"]) == ("moe", "--ship moe asked for it")
    corpus = [load_corpus(out / "corpus", data_config_override=json.dumps({"selection": 0.15, "seed": 42}))]
    held_out = set(corpus[0]["selection"]["speaker_id"])
    judged = [json.loads(line) for line in (out / "selection" / "transcripts.jsonl").read_text().splitlines()]
    assert {line["speaker_id"] for line in judged} == held_out
    assert held_out and not held_out & set(corpus[0]["dev"]["speaker_id"])
    # They take part in what is trained after the choice.
    assert results["corpus"]["rows"]["train"] == len(corpus[0]["train"]) + len(corpus[0]["selection"])
    parts = [json.loads((out / name / "stage.json").read_text()) for name in ("choosing_shared", "shared")]
    assert parts[0]["metrics"]["steps"] < parts[1]["metrics"]["steps"]
    for name in ("single_lora", "shared_lora"):
        again = tmp_path / name
        shutil.copytree(out, again)
        released = run_moe_pipeline.main(command(sources, again, f"--ship={name}"))
        assert released["shipped"] == name
        plain = WhisperForConditionalGeneration.from_pretrained(again / "model")
        card = (again / "model" / "README.md").read_text()
        assert f"Released as `{name}`" in card and "trust_remote_code" not in card
        assert "\n# Whisper with a merged LoRA on " in card
        features = torch.randn(1, 80, 2 * plain.config.max_source_positions)
        mixture = MoeWhisperForConditionalGeneration.from_pretrained(out / "joint" / "model")
        mixture.set_audio_context("full")
        shared = mixture(features, decoder_input_ids=torch.tensor([[1]]), expert_weights=torch.zeros(1, 3)).logits
        found = plain(features, decoder_input_ids=torch.tensor([[1]])).logits
        assert torch.allclose(found, shared, atol=1e-4) == (name == "shared_lora")


def test_several_runs_make_the_shared_expert(sources, tmp_path):
    more = ["--shared_runs=2", "--no_plot", "--selection_share=0"]
    results = run_moe_pipeline.main(command(sources, tmp_path / "run", *more))
    assert results["shipped"] == "shared_lora" and "no speakers were held out" in results["reason"]
    assert not list((tmp_path / "run").glob("choosing_*")) and not (tmp_path / "run" / "selection").exists()
    config = json.loads((tmp_path / "run" / "joint" / "model" / "config.json").read_text())
    one = json.loads((tmp_path / "run" / "shared" / "config.json").read_text())
    assert config["lora_rank"] == 2 * one["lora_rank"]
    adapters = [tmp_path / "run" / name / "expert_0" for name in ("shared", "shared_1")]
    seeds = [json.loads((folder.parent / "stage.json").read_text())["config"]["seed"] for folder in adapters]
    assert seeds == [42, 142]
    training = results["training"]
    steps = training["shared"]["steps"] + training["experts"]["steps"] + training["joint"]["steps"]
    assert training["single_lora"]["steps"] == steps


def test_experts_by_what_the_shared_expert_gets_wrong(sources, tmp_path, caplog):
    more = ["--expert_source=error", "--no_plot", "--selection_share=0", "--num_experts=2", "--cluster_by=speaker"]
    results = run_moe_pipeline.main(command(sources, tmp_path / "run", *more))
    assert "no effect" not in caplog.text
    records = {
        name: json.loads((tmp_path / "run" / name / "stage.json").read_text())
        for name in ("gradients", "clusters", "trial_experts", "reassigned", "router", "experts")
    }
    read = {name: set(record["identity"]["inputs"]) for name, record in records.items()}
    assert "shared" in read["gradients"] and "gradients" in read["clusters"] and "clusters" in read["trial_experts"]
    assert {"trial_experts", "clusters"} <= read["reassigned"]
    assert "reassigned" in read["router"] and "reassigned" in read["experts"]
    assert results["clusters"]["reassigned"]["speakers"] == 6
    training = results["training"]
    steps = training["experts"]["steps"] + records["trial_experts"]["metrics"]["steps"] + training["joint"]["steps"]
    assert training["single_lora"]["steps"] == steps


def test_the_single_lora_goes_on_from_the_shared_one_for_as_long_as_the_mixture(finished):
    out, results = finished
    training = results["training"]
    assert training["single_lora"]["steps"] == training["experts"]["steps"] + training["joint"]["steps"]
    completion = json.loads((out / "single_lora" / "stage.json").read_text())
    assert "shared" in completion["identity"]["inputs"] and completion["config"]["labels_dir"] is None


@pytest.mark.slow
def test_every_line_of_use_on_the_card_runs(finished, tmp_path):
    model = finished[0] / "model"
    assert run_blocks((model / "README.md").read_text(), tmp_path / "home", folder=model) == 3


@pytest.mark.slow
def test_the_lines_of_the_readme_load_the_mixture_of_the_quick_start(finished, tmp_path):
    section = (ROOT / "README.md").read_text().partition("\n## Load the result elsewhere\n")[2].partition("\n## ")[0]
    assert "runs/moe/joint/model" in section
    lines = section.replace("clip.wav", "speech.wav")
    lines = lines.replace("runs/moe/joint/model", str(finished[0] / "joint" / "model"))
    assert run_blocks(lines, tmp_path / "home", folder=finished[0]) == 1


def test_the_model_folder_is_complete(finished):
    out, _ = finished
    model = MoeWhisperForConditionalGeneration.from_pretrained(out / "model")
    assert (model.config.num_experts, model.config.routing, model.config.audio_context) == (3, "hard", "dynamic")
    card = (out / "model" / "README.md").read_text()
    assert all(name in card for name in ("zero_shot", "single_lora", "moe_oracle", "trust_remote_code=True"))
    assert "\n# MoE-Whisper on " in card
    assert "\n# model.config.mixture = " in card and "\nmodel.config" not in card  # pasted, it is the released system
    plots = {line.split("(")[1].rstrip(")") for line in card.splitlines() if line.startswith("![")}
    assert plots and all((out / "model" / plot).is_file() for plot in plots)
    assert sorted(folder.name for folder in (out / "model" / "experts").iterdir()) == [
        "expert_0",
        "expert_1",
        "expert_2",
    ]


def test_resume_skips_what_is_finished_and_repeats_what_changed(finished, sources, caplog):
    out, results = finished
    before = {completion.parent.name: completion.stat().st_mtime_ns for completion in out.glob("*/stage.json")}
    with caplog.at_level("INFO"):
        again = run_moe_pipeline.main(
            command(sources, out, "--resume", "--stage_options", *SMALL[5:], "benchmark_asr.batch_size=5")
        )
    after = {completion.parent.name: completion.stat().st_mtime_ns for completion in out.glob("*/stage.json")}
    assert {name for name in after if after[name] != before[name]} == {"selection", "benchmark", "model"}
    assert again["training"] == results["training"]


def test_an_interrupted_run_continues(finished, sources, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    shutil.rmtree(out / "benchmark")
    shutil.rmtree(out / "model")
    monkeypatch.setattr(benchmark_asr, "score_rows", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_moe_pipeline.main(command(sources, out, "--resume"))
    assert not (out / "benchmark").exists()
    monkeypatch.undo()
    results = run_moe_pipeline.main(command(sources, out, "--resume"))
    wer = {name: row["wer"] for name, row in results["benchmark"]["rows"].items()}
    assert wer == {name: row["wer"] for name, row in finished[1]["benchmark"]["rows"].items()}


def test_every_rival_is_trained_when_it_is_asked_for(finished, sources, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    asked = "zero_shot,single_lora,single_lora_wide,full,merge,choose,soup,moe"
    results = run_moe_pipeline.main(
        command(
            sources,
            out,
            "--resume",
            f"--benchmark_models={asked}",
            "--benchmark_max_samples=3",
            "--benchmark_num_beams=2",
            "--benchmark_beta=0.3",
            "--benchmark_combine",
            "beta",
            "choose",
            "--stage_options",
            *SMALL[5:],
            "finetune_whisper.report_to=none",
        )
    )
    assert set(results["benchmark"]["rows"]) >= {
        "zero_shot",
        "single_lora",
        "single_lora_wide",
        "full",
        "merge",
        "choose",
        "soup",
        "moe_top1",
        "moe_beta0.3",
        "moe_choose",
    }
    assert results["benchmark"]["sample"]["num_beams"] == 2
    card = (out / "model" / "README.md").read_text()
    assert "- `moe_beta0.3`: " in card and "- `moe_choose`: " in card
    wide = json.loads((out / "single_lora_wide" / "config.json").read_text())
    assert wide["lora_rank"] == 3 * json.loads((out / "experts" / "config.json").read_text())["lora_rank"]
    steps = {
        stage: row["steps"] for stage, row in results["training"].items() if stage in ("shared", "single_lora", "full")
    }
    assert steps["full"] == steps["shared"] + steps["single_lora"]
    merged = json.loads((out / "merge" / "stage.json").read_text())["config"]["candidates"]
    assert [Path(folder).name for folder in merged] == ["shared", "shared_1", "shared_2", "shared_3"]


def test_a_share_of_the_data_is_the_same_in_every_stage(sources, tmp_path):
    out = tmp_path / "run"
    results = run_moe_pipeline.main(command(sources, out, "--data_percent=50", "--no_plot", "--pooling=flatten"))
    steps = results["training"]["shared"]["steps"]
    assert results["benchmark"]["sample"]["utterances"] == 6  # of 12 in Dev
    assert steps == 2  # half of 24 in Train, by batches of 8
    assert not list(out.rglob("*.png"))
    assert (out / "clustering_embeddings").is_dir()  # the router keeps to means


def test_a_single_cluster_leaves_one_expert_and_nothing_to_freeze(sources, tmp_path):
    single = [
        "--algorithm=hdbscan",
        "--min_clusters=1",
        "--min_experts=1",
        "--min_cluster_size=20",
        "--allow_single_cluster",
        "--no_plot",
    ]
    results = run_moe_pipeline.main(command(sources, tmp_path / "run", *single))
    assert results["clusters"]["num_experts"] == 1
    assert list(results["benchmark"]["rows"]) == [
        "zero_shot",
        "single_lora",
        "moe_merge",
        "moe_top1",
        "moe_random",
        "moe_oracle",
    ]


def test_another_corpus_in_the_same_folder_draws_its_own_sample(finished, sources, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    for speaker in list((sources[0] / "Dev").iterdir()):
        shutil.copytree(speaker, tmp_path / "other" / "Dev" / f"x{speaker.name}")
        (tmp_path / "other" / "Dev" / f"x{speaker.name}" / f"{speaker.name}.json").rename(
            tmp_path / "other" / "Dev" / f"x{speaker.name}" / f"x{speaker.name}.json"
        )
    shutil.copytree(sources[0] / "Train", tmp_path / "other" / "Train")
    results = run_moe_pipeline.main(command((tmp_path / "other", sources[1]), out))
    assert results["benchmark"]["sample"]["utterances"] == 12
    assert len(list(out.glob("benchmark_samples_dev_*.json"))) == 2


def test_the_seed_decides_and_nothing_else(finished, sources, tmp_path):
    torch.rand(7)  # the global generator is elsewhere than it was
    argv = [
        "--config",
        str(ROOT / "recipes/configs/pretrain_experts/quick.yaml"),
        "--corpus",
        str(finished[0] / "corpus"),
        "--model",
        str(sources[1]),
        "--num_train_epochs=1",
        "--report_to=none",
        "--full_context_fraction=0",
    ]
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        pretrain_experts.main([*argv, "--output_dir", str(tmp_path / name), f"--seed={seed}"])
        torch.rand(3)
    one, again, other = ((tmp_path / name / "experts.safetensors").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other


def test_the_flags_of_the_original_pipeline_are_known(tmp_path):
    flags = shlex.split(f"""--mode quick --seed 7 --resume --no-plot --dataset-root corpus --output-dir out
        --data-percent 50 --log-file {tmp_path}/f.log --clustering-algorithm hdbscan --num-experts 6
        --min-clusters 3 --min-cluster-size 20 --min-samples 5 --metric cosine --allow-single-cluster
        --no-reduce-experts --min-experts 2 --max-retries 4 --hdbscan-algorithm best --reduce umap --reduce-dim
        20 --plot-method umap --pooling flatten --whisper-model v2 --gating-batch-size 64 --expert-batch-size 4
        --asr-batch-size 2 --num-workers 0 --no-fp16 --gradient-accumulation-steps 8 --eval-every-n-epochs 2
        --save-every-n-epochs 1 --load-balance-coef 0.1 --soft-routing-epochs 1 --topk-routing-epochs 1
        --top-k-experts 2 --routing-temperature-start 3 --routing-temperature-end 1 --routing-temperature-min 1
        --router-noise-std 0.1 --routing-alignment-coef 0.2 --routing-entropy-coef 0.1
        --min-expert-usage-fraction 0.01 --rebase-output-dir --benchmark-split Dev --benchmark-percent 50
        --benchmark-max-samples 100 --benchmark-batch-size 4 --benchmark-top-k 3 --benchmark-seed 1
        --benchmark-models zero_shot,moe --benchmark-mixture logits""")
    args, _, passed_on = parse_arguments(run_moe_pipeline.ARGUMENTS, flags)
    assert (args.data, args.experts_per_utterance) == ("corpus", 2)
    assert (args.pooling, args.embedding_model) == ("flatten", "v2")
    assert (passed_on.algorithm, passed_on.allow_single_cluster, passed_on.asr_batch_size) == ("hdbscan", True, 2)
    assert (passed_on.no_fp16, passed_on.rebase_output_dir, passed_on.benchmark_top_k) == (True, True, 3)
    assert passed_on.target_entropy is None  # left to the stage


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--experts_per_utterance=9"], r"experts_per_utterance must lie in \[1, num_experts = 3\], got 9"),
        (["--num_expert=4"], "did you mean --num_experts"),
        (["--stage_options", "benchmarks.split=dev"], "STEP.FLAG=VALUE"),
        (["--stage_options", "benchmark.max_token=6"], "benchmark has no flag max_token; did you mean max_new_tokens"),
        (["--benchmark_models=zero_shot,full"], "must name moe"),
        (["--benchmark_models=moe", "--ship=single_lora"], "--ship single_lora needs that system"),
        (["--benchmark_models=moe,choose"], "choose is made of the LoRAs of merge; name merge"),
        (["--ship=merge"], "--ship merge needs that system; name it in --benchmark_models"),
        (["--ship=shared_lora", "--shared_epochs=0"], "--shared_epochs 0 trains no LoRA for all"),
        (["--benchmark_models=moe, suop"], "did you mean soup"),
        (["--benchmark_split=test"], "no split test to benchmark on"),
        (["--data_percent=0"], r"data_percent must lie in \(0, 100\], got 0"),
        (["--num_experts=100"], "experts"),
        (["--data=/no/such/folder"], "/no/such/folder"),
        (["--model=models/no-such-model"], "models/no-such-model"),
    ],
)
def test_mistakes_are_told(sources, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        run_moe_pipeline.main(command(sources, tmp_path / "run", *flags))


def test_an_output_folder_that_cannot_be_written_is_told(sources, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output_dir"):
        run_moe_pipeline.main(command(sources, tmp_path / "file" / "run"))


def test_a_single_speaker_cannot_be_judged(sources, tmp_path):
    only = tmp_path / "speakers"
    folder = add_speaker(only, "Train", "alone", {"0.wav": "one two"})
    shutil.copy(next(sources[0].glob("Train/*/0.wav")), folder)
    with pytest.raises(UserError, match="no split dev: a mixture is trained on some speakers and scored on others"):
        run_moe_pipeline.main(command((only, sources[1]), tmp_path / "run"))


def test_a_mistake_on_the_command_line_has_no_traceback(tmp_path):
    launched = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--quiet",
            "--config_file",
            "accelerate_configs/cpu.yaml",
            "recipes/run_moe_pipeline.py",
            "--config",
            QUICK,
            "--data",
            "x",
            "--output_dir",
            str(tmp_path / "run"),
            "--expert_epoch=2",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert launched.returncode != 0
    assert "did you mean --expert_epochs" in launched.stderr
    assert "Traceback" not in launched.stderr
