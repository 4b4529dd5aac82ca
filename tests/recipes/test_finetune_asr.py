"""Fine-tuning in-process, on a tiny model and tones: what it leaves, resuming, debugging, data of a manifest,
mistakes."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from every_model import EVERY
from make_corpus import children_corpus, damaged_copy
from paths import CONFIGS
from safetensors.torch import load_file
from tiny_speech import save_tiny_whisper, speaker_folder
from transformers import WhisperForConditionalGeneration

from hf_components.asr import Transcriber
from hf_components.checkpoints.loading import load_whisper, writes
from hf_components.runtime.arguments import parse_arguments
from hf_components.runtime.errors import UserError
from hf_components.speech import readable
from hf_components.speech.corpus import load_corpus
from hf_components.training import finetuning, recogniser
from recipes import finetune_asr, prepare_corpus

pytestmark = pytest.mark.integration

CONFIG = CONFIGS / "finetune_whisper"
FLAGS = {
    "per_device_train_batch_size": 8,
    "report_to": "none",
    "full_context_fraction": 0,
    "logging_steps": 1,
    "use_cpu": True,
    "num_train_epochs": 2,
    "max_new_tokens": 6,
    "learning_rate": 1e-3,
    "plot": False,
    "val_ratio": 0.5,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A corpus of 24 utterances to train on and 12 to test on, and a Whisper of 60k parameters."""
    folder = tmp_path_factory.mktemp("run")
    save_tiny_whisper(folder / "whisper")
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


def command(run: Path, output: str | Path, *words: str, **flags) -> list[str]:
    flags = {"corpus": run / "corpus", "model": run / "whisper", "output_dir": run / output, **FLAGS, **flags}
    return [
        "--config",
        str(CONFIG / "quick.yaml"),
        *words,
        *(f"--{flag}={value}" for flag, value in flags.items() if value is not None),
    ]


@pytest.fixture(scope="module")
def finetuned(run) -> dict:
    return finetune_asr.main(command(run, "full", plot=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_everything_is_trained_and_the_best_epoch_kept(run, finetuned):
    assert (finetuned["steps"], finetuned["utterances"], finetuned["selected_on"]) == (6, 24, "dev")
    assert {"model", "checkpoints", "history.json", "loss.png", "wer.png", "stage.json"} <= {
        path.name for path in (run / "full").iterdir()
    }
    best = json.loads((run / "full" / "checkpoints" / "best.json").read_text())
    assert (
        best["value"]
        == finetuned["best_wer"]
        == min(
            entry["eval_wer"]
            for entry in json.loads((run / "full" / "history.json").read_text())
            if "eval_wer" in entry
        )
    )
    stock, base = (
        WhisperForConditionalGeneration.from_pretrained(folder).state_dict()
        for folder in (run / "full" / "model", run / "whisper")
    )
    kept = load_file(run / "full" / "checkpoints" / best["checkpoint"] / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in stock.items() if name in kept)
    kept = [name for name, value in base.items() if torch.equal(stock[name], value)]
    assert kept == ["model.encoder.embed_positions.weight"]


def test_some_utterances_of_each_split(run):
    flags = {"max_samples": 5, "num_train_epochs": 1}
    assert finetune_asr.main(command(run, "some", **flags))["utterances"] == 5
    with pytest.raises(UserError, match="max_samples is 5, and 6 in data_config_override"):
        finetune_asr.main(command(run, "both", data_config_override='{"max_samples": 6}', **flags))


def edit_record(folder: Path, **settings) -> None:
    record = json.loads((folder / "stage.json").read_text())
    record["config"] |= settings
    del record["seal"]  # earlier versions wrote none
    (folder / "stage.json").write_text(json.dumps(record))


def test_a_finished_run_is_kept_and_restarted_by_force(run, finetuned, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(finetune_asr, "produce", None)  # calling it again would fail
        assert finetune_asr.main(command(run, "full", plot=True)) == finetuned
        for name in ("loss.png", "wer.png"):
            (run / "full" / name).unlink()
        edit_record(run / "full", plot=False)
        assert finetune_asr.main(command(run, "full", plot=True)) == finetuned
        assert (run / "full" / "loss.png").exists()
    before = (run / "full" / "stage.json").stat().st_mtime_ns
    assert finetune_asr.main(command(run, "full", "--force_restart", plot=True)) == finetuned
    assert (run / "full" / "stage.json").stat().st_mtime_ns > before
    monkeypatch.setattr(finetune_asr, "produce", None)
    assert finetune_asr.main(command(run, "full", plot=True)) == finetuned  # made by force, and kept from then on


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_run_goes_on_by_itself_unless_forced(run, finetuned, monkeypatch, force):
    output = f"again{force}"
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "save_history", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            finetune_asr.main(command(run, output))
    started = []
    train = finetuning.KlToBaseTrainer

    def watched(*args, **kwargs):
        trainer = train(*args, **kwargs)
        started.append(Path(trainer.args.output_dir, "checkpoint-3").exists())
        return trainer

    monkeypatch.setattr(finetuning, "KlToBaseTrainer", watched)
    finetune_asr.main(command(run, output, *(["--force-restart"] if force else [])))
    assert started == [not force]
    assert all(torch.equal(value, weights(run / "full")[name]) for name, value in weights(run / output).items())


def test_decoder_alone(run):
    metrics = finetune_asr.main(command(run, "decoder", freeze_encoder=True, num_train_epochs=1))
    moved = {
        name
        for name, value in load_file(run / "whisper" / "model.safetensors").items()
        if not torch.equal(value, weights(run / "decoder")[name])
    }
    assert moved and not any("encoder.layers" in name or "encoder.conv" in name for name in moved)
    assert metrics["trained_parameters"] < 40_000


def test_lora_leaves_an_adapter_and_the_merged_model(run):
    metrics = finetune_asr.main(
        command(
            run, "lora", finetuning="lora", lora_rank=2, kl_to_base_coef=0.1, num_train_epochs=1, learning_rate=1e-2
        )
    )
    assert {"adapter_config.json", "adapter_model.safetensors"} == {
        path.name for path in (run / "lora" / "adapter").iterdir()
    }
    moved = {
        name
        for name, value in load_file(run / "whisper" / "model.safetensors").items()
        if not torch.equal(value, weights(run / "lora")[name])
    }
    assert moved and all(name.endswith(("_proj.weight", "fc1.weight", "fc2.weight")) for name in moved)
    entries = [entry for entry in json.loads((run / "lora" / "history.json").read_text()) if "loss" in entry]
    assert metrics["trained_parameters"] < 5000 and all("kl_to_base" in entry for entry in entries)


def test_full_context_trains_and_evaluates_at_30_seconds(run, monkeypatch):
    seen = []
    train = finetuning.KlToBaseTrainer

    def watched(model, *args, **kwargs):
        model.get_encoder().register_forward_pre_hook(
            lambda _, inputs, named: seen.append(
                (named.get("input_features", inputs[0] if inputs else None)).shape[-1]
            ),
            with_kwargs=True,
        )
        return train(model, *args, **kwargs)

    monkeypatch.setattr(finetuning, "KlToBaseTrainer", watched)
    flags = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    finetune_asr.main(command(run, "context", audio_context="full", **flags))
    assert len(seen) >= 2 and set(seen) == {3000}
    assert load_whisper(str(run / "context" / "model"))[0].audio_context == "full"
    seen.clear()
    finetune_asr.main(command(run, "context", audio_context="dynamic", min_audio_context=400, **flags))
    assert min(seen) < 200 and max(seen) == 400  # of evaluation
    model, _ = load_whisper(str(run / "context" / "model"))
    assert (model.audio_context, model.min_audio_context) == ("dynamic", 400)


def test_the_base_to_stay_close_to_hears_30_seconds(run, tmp_path, monkeypatch):
    contexts = []
    train = finetuning.KlToBaseTrainer

    def watched(model, *args, base, **kwargs):
        contexts.append((model.audio_context, base.model.audio_context))
        return train(model, *args, base=base, **kwargs)

    monkeypatch.setattr(finetuning, "KlToBaseTrainer", watched)
    finetune_asr.main(command(run, tmp_path / "near", kl_to_base_coef=0.5, num_train_epochs=1))
    assert contexts == [("dynamic", "full")]


def test_debug_is_small_and_otherwise_in_earnest(run, monkeypatch):
    monkeypatch.setattr(finetune_asr, "DEBUG_SAMPLES", {"train": 10, "validation": 4})
    metrics = finetune_asr.main(command(run, "debugged", "--debug"))
    assert (metrics["utterances"], metrics["steps"]) == (10, 2)
    history = json.loads((run / "debugged_debug" / "history.json").read_text())
    assert [entry["eval_utterances"] for entry in history if "eval_wer" in entry] == [4]
    assert (run / "debugged_debug" / "model" / "model.safetensors").exists()


def test_a_new_head_on_the_encoder_of_a_whisper(run, tmp_path):
    metrics = finetune_asr.main(command(run, "headed", head="ctc", num_train_epochs=2, learning_rate=1e-2))
    assert (metrics["family"], metrics["audio_context"]) == ("Whisper CTC", None)
    transcriber = Transcriber.from_pretrained(run / "headed" / "model")
    assert transcriber.family.name == "Whisper CTC"
    texts = [transcript.text for transcript in transcriber.transcribe_corpus(load_corpus(run / "corpus", "dev"))]
    assert len(texts) == 12 and set("".join(texts)) <= set(" abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(UserError, match="--head ctc is new and must be trained"):
        finetune_asr.main(command(run, tmp_path / "x", head="ctc", finetuning="lora"))
    with pytest.raises(UserError, match="--head ctc has no base to stay close to"):
        finetune_asr.main(command(run, tmp_path / "x", head="ctc", kl_to_base_coef=0.5))
    with pytest.raises(UserError, match="--head ctc goes on the encoder of a plain Whisper"):
        finetune_asr.main(command(run, tmp_path / "x", head="ctc", model=EVERY["moonshine"](tmp_path / "moonshine")))


@pytest.mark.parametrize("kind", ["whisper", "hubert"])
def test_sounds_are_learnt_by_a_new_head_and_written_as_ipa(run, tmp_path, kind):
    base = {} if kind == "whisper" else {"model": EVERY[kind](tmp_path / kind)}
    flags = {"target": "phonetic_text", "head": "ctc", "num_train_epochs": 1, "learning_rate": 1e-2, **base}
    with pytest.raises(UserError, match="none of 24 rows has phonetic_text; --g2p en-us makes IPA"):
        finetune_asr.main(command(run, tmp_path / "none", **flags))
    metrics = finetune_asr.main(command(run, tmp_path / "ipa", **flags, g2p="en-us"))
    assert metrics["target"] == "phonetic_text" and metrics["g2p"] == "en-us" and metrics["best_cer"] > 0
    transcriber = Transcriber.from_pretrained(tmp_path / "ipa" / "model")
    assert writes(transcriber.model) == "phonetic_text"
    learnt = load_corpus(run / "corpus", "train", target="phonetic_text", g2p="en-us")["text"][:]
    symbols = {symbol for text in learnt for symbol in text} - {" "}
    assert symbols <= transcriber.processor.tokenizer.get_vocab().keys() and "\u0279" in symbols


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_of_any_family_is_frozen(run, tmp_path, part):
    base = EVERY["moonshine"](tmp_path / "base")
    finetune_asr.main(command(run, tmp_path / "out", model=base, num_train_epochs=1, **{f"freeze_{part}": True}))
    before = load_file(base / "model.safetensors")
    moved = {name for name, value in weights(tmp_path / "out").items() if not torch.equal(value, before[name])}
    assert moved and not any(f".{part}." in name for name in moved)


def test_filtered_utterances_are_listed(run):
    ids = load_corpus(run / "corpus", "train")["id"][:]
    lines = [{"utterance_id": name, "orthographic_text": "not a word of it"} for name in ids[:5]]
    (run / "heard.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = finetune_asr.main(
        command(run, "filtered", filter_transcripts=run / "heard.jsonl", filter_max_wer=0.5, num_train_epochs=1)
    )
    rows = [json.loads(line) for line in (run / "filtered" / "filtered.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ids[:5] and (metrics["utterances"], metrics["filtered"]) == (19, 5)
    assert set(rows[0]) == {"id", "group", "text", "transcript", "wer", "threshold"}


def test_from_a_manifest(run, tmp_path, monkeypatch):
    root = children_corpus(tmp_path / "children")
    flags = {
        "corpus": None,
        "train_manifest": root / "train.jsonl",
        "num_train_epochs": 1,
        "output_dir": tmp_path / "out",
    }
    folders = ["--audio_dirs", *(str(root / f"audio_{i}") for i in range(3))]
    metrics = finetune_asr.main(command(run, "", *folders, **flags))
    corpus = load_corpus(tmp_path / "out_corpus")
    assert metrics["utterances"] == len(corpus["train"]) and sum(map(len, corpus.values())) == 18
    assert not set(corpus["train"]["speaker_id"]) & set(corpus["dev"]["speaker_id"])
    monkeypatch.setattr(finetune_asr, "write_corpus", None)
    monkeypatch.setattr(finetune_asr, "produce", None)
    assert finetune_asr.main(command(run, "", *folders, **flags)) == metrics  # both stages are kept


@pytest.mark.parametrize("flag", ["--model", "--base_model", "--variant"])
def test_variants_are_openais_and_folders_come_first(tmp_path, monkeypatch, flag):
    def model(name: str) -> str:
        return parse_arguments(finetune_asr.ARGUMENTS, [flag, name, "--output_dir", "x"])[0].model

    monkeypatch.chdir(tmp_path)
    assert model("large-v3-turbo") == "openai/whisper-large-v3-turbo"
    assert model("tiny.en") == "openai/whisper-tiny.en"
    assert model("someone/whisper") == "someone/whisper"
    (tmp_path / "small").mkdir()
    assert model("small") == "small" and model("base") == "openai/whisper-base"


def test_effective_batch_of_the_default_configuration():
    args = parse_arguments(finetune_asr.ARGUMENTS, ["--config", str(CONFIG / "default.yaml"), "--output_dir", "x"])[-1]
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 36
    assert (args.learning_rate, args.warmup_steps, args.activation_checkpointing) == (1e-5, 500, True)
    assert args.load_best_model_at_end and args.metric_for_best_model == "wer"
    assert (args.time_masks, args.mel_masks, args.noise, args.speed_factors) == (0, 0, [], [])


@pytest.mark.parametrize(
    ("recipe", "config"),
    [
        ("finetune_whisper", "quick"),
        ("finetune_wav2vec2_lora", "default"),
        *(
            (recipe, config)
            for recipe in ("pretrain_experts", "train_moe_whisper", "distil_moe_whisper")
            for config in ("quick", "default")
        ),
    ],
)
def test_masks_that_figures_were_measured_with_are_named(recipe, config):
    values = yaml.safe_load((CONFIG.parent / recipe / f"{config}.yaml").read_text())
    values = values.get("training", values)  # in sections or not
    assert (values["time_masks"], values["mel_masks"]) == (2, 2)


ERRORS = [
    ({"train_manifest": "x.jsonl"}, "give either --corpus or --train_manifest"),
    ({"corpus": None}, "give either --corpus or --train_manifest, got None and None"),
    ({"corpus": "{run}/speakers"}, "is not a prepared corpus"),
    ({"model": "{run}/nowhere"}, "there is no folder"),
    ({"finetuning": "half"}, "invalid choice: 'half'"),
    ({"finetuning": "lora", "lora_rank": 0}, "--lora_rank must be at least 1, got 0"),
    ({"filter_max_wer": "0.5"}, "filter_transcripts and filter_max_wer go together"),
    ({"kl_to_base_coef": -1}, "--kl_to_base_coef must be at least 0, got -1"),
    ({"noise": "loud"}, "--noise: invalid choice: 'loud' .choose from 'gaussian', 'recordings'."),
    ({"audio_dirz": "x"}, "did you mean --audio_dirs"),
    ({"corpus": None, "train_manifest": "nowhere.jsonl"}, "nowhere.jsonl"),
]


@pytest.mark.parametrize(("flags", "message"), ERRORS)
def test_mistakes_are_named_and_leave_no_result(run, tmp_path, flags, message):
    flags = {flag: value.format(run=run) if isinstance(value, str) else value for flag, value in flags.items()}
    with pytest.raises(UserError, match=message):
        finetune_asr.main(command(run, tmp_path / "output", **flags))
    assert not (tmp_path / "output").exists()


def test_the_default_learning_rate_is_a_usual_one(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(finetune_asr, "run_stage", lambda *args, **kwargs: {})
    monkeypatch.setattr(finetune_asr, "run_as_stage", lambda *args, **kwargs: {})
    finetune_asr.main([f"--corpus={run / 'corpus'}", f"--output_dir={tmp_path / 'output'}"])
    assert "is unusual for" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        ({"finetuning": "lora", "learning_rate": 1e-5}, True),
        ({"learning_rate": 1e-3}, True),
        ({"learning_rate": 1e-5}, False),
    ],
)
def test_an_unusual_learning_rate_is_told(run, tmp_path, monkeypatch, capsys, flags, warned):
    monkeypatch.setattr(finetune_asr, "run_stage", lambda *args, **kwargs: {})
    finetune_asr.main(command(run, tmp_path / "output", **flags))
    assert ("is unusual for" in capsys.readouterr().err) == warned


@pytest.fixture(scope="module")
def damaged(run) -> tuple[Path, dict[str, str]]:
    """The corpus with a recording of each split cut in its middle, and their ids."""
    ids = {name: rows["id"][1] for name, rows in load_corpus(run / "corpus").items()}
    return damaged_copy(run / "corpus", run / "damaged", list(ids.values())), ids


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_row_stops_the_training_and_names_the_flag(run, damaged, tmp_path, workers):
    corpus, ids = damaged
    rule = f"^{ids['train']}: .*; prepare the corpus again, or leave such rows out with --unreadable_rows reject$"
    with pytest.raises(UserError, match=rule):
        finetune_asr.main(command(run, tmp_path / "out", corpus=corpus, dataloader_num_workers=workers))


def test_an_unreadable_row_of_dev_is_named_too(run, damaged, tmp_path):
    corpus, ids = damaged
    flags = {"eval_strategy": "epoch", "data_config_override": '{"max_samples": 12, "seed": 3}'}
    readable_train = load_corpus(corpus, "train", flags["data_config_override"])["id"]
    assert ids["train"] not in readable_train[:]  # else the training would stop first
    with pytest.raises(UserError, match=f"^{ids['dev']}: .* --unreadable_rows reject$"):
        finetune_asr.main(command(run, tmp_path / "out", corpus=corpus, **flags))


def test_unreadable_rows_are_left_out_counted_and_named(run, damaged, tmp_path, capsys, monkeypatch):
    corpus, ids = damaged
    flags = {"corpus": corpus, "unreadable_rows": "reject", "eval_strategy": "epoch"}

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recogniser, "load_asr", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetune_asr.main(command(run, tmp_path / "out", **flags))
    capsys.readouterr()
    monkeypatch.setattr(readable, "_unreadable", interrupt)  # the recordings are not decoded again
    result = finetune_asr.main(command(run, tmp_path / "out", **flags))
    assert result["utterances"] == 23
    rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {row["split"]: row["id"] for row in rows} == ids
    assert all(row["reason"] == "truncated audio" and row["detail"] for row in rows)
    logged = capsys.readouterr().err
    for split, count in (("train", 24), ("dev", 12)):
        text = f"{corpus}, split {split}: 1 of {count} recordings cannot be decoded and are left out: {ids[split]}; "
        assert f"{text}the reasons are in rejected.jsonl" in logged


def test_what_prepare_corpus_decoded_is_not_decoded_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(readable, "_unreadable", None)  # calling it would fail
    splits = {"train": load_corpus(run / "corpus", "train")}
    tmp_path.joinpath("out").mkdir()
    assert readable.leave_out_unreadable(splits, str(run / "corpus"), tmp_path / "out") == splits
    assert (tmp_path / "out" / "rejected.jsonl").read_text() == ""


def test_no_readable_row_is_left(run, tmp_path):
    rows = load_corpus(run / "corpus", "dev")
    corpus = damaged_copy(run / "corpus", tmp_path / "damaged", rows["id"][:])
    splits = {"dev": load_corpus(corpus, "dev")}
    with pytest.raises(UserError, match="split dev: none of the 12 recordings can be decoded; prepare the corpus"):
        readable.leave_out_unreadable(splits, str(corpus), tmp_path, num_workers=1)
