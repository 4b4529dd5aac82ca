"""Soup, merge, distillation and export of one tiny joint training, in-process; and what they say to users who err."""

import json
from pathlib import Path

import pytest
import torch
from make_corpus import damaged_copy
from paths import CONFIGS
from safetensors.torch import load_file
from tiny_speech import (
    EXPERTS,
    resumable_trainer,
    save_tiny_whisper,
    speaker_folder,
    tiny_moe,
    tiny_processor,
    tiny_whisper,
)
from tiny_voices import no_change, random_lora, with_examples
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from hf_components.asr.transcriber import Transcriber, transcribe
from hf_components.asr.voices import load_voices
from hf_components.checkpoints.ctranslate2_import import import_whisper
from hf_components.checkpoints.loading import load_moe_whisper, load_whisper, save_processor
from hf_components.checkpoints.voices import save_voice
from hf_components.moe import merging
from hf_components.moe.merging import merge_experts
from hf_components.runtime.errors import UserError
from hf_components.scoring.error_rates import score
from hf_components.speech.audio import log_mel
from hf_components.speech.batching import duration_batches
from hf_components.speech.corpus import load_corpus, sample_rows, waveforms
from hf_components.training import averaging
from recipes import average_checkpoints, distil_moe_whisper, export_ctranslate2, merge_moe_whisper, prepare_corpus
from recipes import transcribe as transcribe_recipe

pytestmark = pytest.mark.integration

INPUTS = {
    "average_checkpoints": {"corpus": "corpus", "candidates": "joint"},
    "merge_moe_whisper": {"corpus": "corpus", "model": "joint/model"},
    "distil_moe_whisper": {"corpus": "corpus", "teacher_model": "joint/model", "model": "average/model"},
    "export_ctranslate2": {"corpus": "corpus", "model": "average/model"},
}
DECODING = {"max_new_tokens": 6, "batch_size": 5, "max_samples": 9}
MERGE = {**DECODING, "num_bootstrap": 10}
DISTIL = {
    "max_new_tokens": 6,
    "max_samples": 9,
    "num_bootstrap": 10,
    "per_device_train_batch_size": 8,
    "report_to": "none",
    "use_cpu": True,
    "logging_steps": 1,
    "full_context_fraction": 0,
    "learning_rate": 1e-3,
    "num_train_epochs": 2,
}


def command(recipe, run: Path, output: str | Path, **flags) -> list[str]:
    """The command line of a recipe, its inputs in the run folder; `output` below it."""
    name = recipe.__name__.rsplit(".", 1)[-1]
    flags = {**{flag: run / path for flag, path in INPUTS[name].items()}, "output_dir": run / output, **flags}
    return [
        "--config",
        str(CONFIGS / name / "quick.yaml"),
        *(f"--{flag}={value}" for flag, value in flags.items() if value is not None),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A prepared corpus, and what train_moe_whisper leaves: a model and the checkpoints of nine steps."""
    folder = tmp_path_factory.mktemp("run")
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
    trainer = resumable_trainer(folder / "joint" / "checkpoints", save_steps=3)
    trainer.train()
    trainer.model.save_pretrained(folder / "joint" / "model")
    save_processor(tiny_processor(), folder / "joint" / "model")
    return folder


@pytest.fixture(scope="module")
def by_characters():
    """Selection by character errors: a model of random weights gets every word wrong."""
    with pytest.MonkeyPatch.context() as patch:
        for place in (averaging, merging):
            patch.setattr(
                place, "word_error_rate", lambda texts, said, language: score(texts, said, num_bootstrap=0)["cer"]
            )
        yield


@pytest.fixture(scope="module")
def greedy(run, by_characters):
    return average_checkpoints.main(command(average_checkpoints, run, "soup", **DECODING))


@pytest.fixture(scope="module")
def average(run):
    return merge_moe_whisper.main(command(merge_moe_whisper, run, "average", **MERGE))


@pytest.fixture(scope="module")
def distilled(run, average):
    return distil_moe_whisper.main(command(distil_moe_whisper, run, "distilled", **DISTIL))


def trained_weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "joint" / "checkpoints" / f"checkpoint-{step}" / "model.safetensors")


def test_uniform_soup_is_the_mean_of_the_checkpoints(run):
    metrics = average_checkpoints.main(
        command(average_checkpoints, run, "uniform", method="uniform", last=2, **DECODING)
    )
    soup, _ = load_moe_whisper(str(run / "uniform" / "model"))
    soup.unfold()  # the saved plain weights hold the averaged shared expert
    six, nine = trained_weights(run, 6), trained_weights(run, 9)
    for name, value in soup.state_dict().items():
        expected = (six[name] + nine[name]) / 2 if name in six else tiny_moe().state_dict()[name]
        torch.testing.assert_close(value, expected, msg=name)
    assert metrics["chosen"] == metrics["candidates"] == ["checkpoint-6", "checkpoint-9"]
    assert (metrics["selected_on"], metrics["split"], metrics["utterances"]) == (None, "dev", 9)
    assert list(metrics["candidate_wer"]) == ["checkpoint-9"]


def test_greedy_soup_holds_what_was_chosen_and_is_no_worse(run, greedy):
    assert greedy["candidates"] == list(greedy["candidate_wer"]) == ["checkpoint-3", "checkpoint-6", "checkpoint-9"]
    assert greedy["selected_on"] == "dev" and set(greedy["chosen"]) <= set(greedy["candidates"])
    assert greedy["wer"] <= min(greedy["candidate_wer"].values())
    assert greedy["candidate_wer"][greedy["chosen"][0]] == min(greedy["candidate_wer"].values())
    soup, processor = load_moe_whisper(str(run / "soup" / "model"))
    weights = [trained_weights(run, int(name.split("-")[1])) for name in greedy["chosen"]]
    for name in weights[0]:
        torch.testing.assert_close(
            soup.state_dict()[name], sum(part[name] for part in weights) / len(weights), msg=name
        )
    corpus = sample_rows(load_corpus(run / "corpus", "dev"), DECODING["max_samples"], 42)
    texts = transcribe(soup, processor, corpus, max_new_tokens=6, batch_size=5, num_beams=1)
    assert score(texts, corpus["text"], num_bootstrap=0)["cer"] == greedy["wer"]
    assert len(set(greedy["candidate_wer"].values())) > 1  # there was a choice


def test_average_weighs_experts_by_their_mean_gates(run, average):
    assert sum(average["weights"]) == pytest.approx(1, abs=1e-3) and len(set(average["weights"])) == EXPERTS
    moe, processor = load_moe_whisper(str(run / "joint" / "model"))
    train = sample_rows(load_corpus(run / "corpus", "train"), DECODING["max_samples"], 42)
    clips = waveforms(train)
    gates = [
        moe.route(log_mel(processor.feature_extractor, [clips[i] for i in batch]))
        for batch in duration_batches(train["duration"], DECODING["batch_size"])
    ]
    assert average["weights"] == pytest.approx(torch.cat(gates).mean(0).tolist(), abs=1e-5)
    stock = WhisperForConditionalGeneration.from_pretrained(run / "average" / "model")
    for name, value in merge_experts(moe, average["weights"]).state_dict().items():
        assert torch.equal(stock.state_dict()[name], value), name
    assert list(average["rows"]) == ["zero_shot", "moe", "average"] and average["sample"]["utterances"] == 9
    assert {(line["a"], line["b"]) for line in average["differences"]} == {
        ("zero_shot", "moe"),
        ("zero_shot", "average"),
        ("moe", "average"),
    }
    saved = WhisperProcessor.from_pretrained(run / "average" / "model").tokenizer
    assert saved.normalize("The colour") == tiny_processor().tokenizer.normalize("The colour") == "the color"


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        ({"weights": "uniform"}, [1 / 3] * 3),
        ({"weights": "0.2,0.3,0.5"}, [0.2, 0.3, 0.5]),
        ({"method": "expert", "expert": 2}, [0, 0, 1]),
    ],
)
def test_weights_as_asked(run, tmp_path, flags, weights):
    metrics = merge_moe_whisper.main(command(merge_moe_whisper, run, tmp_path / "merged", **MERGE, **flags))
    assert metrics["weights"] == pytest.approx(weights)
    moe, _ = load_moe_whisper(str(run / "joint" / "model"))
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "merged" / "model")
    expected = (moe.merge_expert(2) if "expert" in flags else merge_experts(moe, weights)).state_dict()
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_soup_of_experts_is_no_worse_than_the_best_expert(run, by_characters, tmp_path, capsys):
    metrics = merge_moe_whisper.main(command(merge_moe_whisper, run, tmp_path / "soup", **MERGE, method="soup"))
    assert "selected and scored on the split dev" in capsys.readouterr().err and metrics["selected_on"] == "dev"
    assert metrics["rows"]["soup"]["cer"] <= min(metrics["expert_wer"])
    assert len(set(metrics["expert_wer"])) > 1
    assert [weight > 0 for weight in metrics["weights"]] == [expert in metrics["chosen"] for expert in range(EXPERTS)]


def test_distilled_whisper_is_stock_and_has_learnt(run, distilled):
    assert distilled["steps"] == 6
    assert list(distilled["rows"]) == ["zero_shot", "moe", "student_before", "student"]
    assert ("student_before", "student") in {(line["a"], line["b"]) for line in distilled["differences"]}
    before = load_file(run / "average" / "model" / "model.safetensors")
    after = load_file(run / "distilled" / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert {name for name, value in before.items() if torch.equal(after[name], value)} == {
        "model.encoder.embed_positions.weight"
    }
    WhisperForConditionalGeneration.from_pretrained(run / "distilled" / "model")
    history = json.loads((run / "distilled" / "history.json").read_text())
    assert all("distillation_kl" in entry for entry in history if "loss" in entry)


def test_an_interrupted_distillation_continues_with_the_same_bits(run, distilled, monkeypatch):
    flags = {**DISTIL, "save_strategy": "steps", "save_steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(distil_moe_whisper, "save_history", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            distil_moe_whisper.main(command(distil_moe_whisper, run, "again", **flags))
    (run / ".again.partial" / "checkpoints" / "checkpoint-6" / "complete").unlink()
    metrics = distil_moe_whisper.main([*command(distil_moe_whisper, run, "again", **flags), "--resume"])
    assert {name: row["wer"] for name, row in metrics["rows"].items()} == {
        name: row["wer"] for name, row in distilled["rows"].items()
    }
    one, other = (load_file(run / name / "model" / "model.safetensors") for name in ("distilled", "again"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_export_of_a_merge_is_checked(run, average):
    metrics = export_ctranslate2.main(
        command(export_ctranslate2, run, "export", quantization="float32", max_new_tokens=6)
    )
    assert metrics["check"]["clips"] == metrics["check"]["equal"] == 4
    assert metrics["check"]["wer_between"] == 0 and metrics["check"]["wer_original"] == metrics["check"]["wer_export"]
    exported = import_whisper(run / "export" / "model")[0].state_dict()
    for name, value in load_file(run / "average" / "model" / "model.safetensors").items():
        assert torch.equal(exported[name], value), name


def test_export_in_a_dynamic_context_is_checked_and_transcribed(run, tmp_path, capsys):
    flags = {"quantization": "float32", "audio_context": "dynamic", "max_new_tokens": 6}
    metrics = export_ctranslate2.main(
        command(export_ctranslate2, run, tmp_path / "export", model=run / "joint/model", expert=1, **flags)
    )
    mixture = load_moe_whisper(str(run / "joint" / "model"))[0]
    assert (
        metrics["min_audio_context"] == mixture.min_audio_context and "was not trained" not in capsys.readouterr().err
    )
    assert metrics["check"]["equal"] == metrics["check"]["clips"] > 1
    found = transcribe_recipe.main(
        [
            "--model",
            str(tmp_path / "export" / "model"),
            "--engine=ctranslate2",
            "--corpus",
            str(run / "corpus"),
            "--output_jsonl",
            str(tmp_path / "texts.jsonl"),
            "--max_new_tokens=6",
            "--num_beams=1",
        ]
    )
    lines = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    corpus = load_corpus(run / "corpus", "dev")
    model = merge_experts(mixture, [0.0, 1.0, 0.0])
    model.set_audio_context(mixture.audio_context, mixture.min_audio_context)
    texts = [
        one.text
        for one in Transcriber(model, tiny_processor(), max_new_tokens=6, num_beams=1).transcribe_corpus(corpus)
    ]
    assert [line["orthographic_text"] for line in lines] == texts
    assert set(found["seconds_by_part"]) == {"audio", "features", "encoder", "decoder"}


def test_export_of_a_voice(run, tmp_path):
    base, processor = load_whisper(str(save_tiny_whisper(tmp_path / "whisper")))
    for voice in (random_lora(base, "anna", 1), no_change(base, "chris"), with_examples(base, "dan", "red cat")):
        save_voice(voice, tmp_path / "voices" / voice.name)
    flags = {"model": tmp_path / "whisper", "quantization": "float32", "audio_context": "dynamic"}

    def export(voice: str, **more) -> dict:
        words = command(export_ctranslate2, run, tmp_path / f"export_{voice}", **flags, **more)
        return export_ctranslate2.main([*words, f"--voice={tmp_path / 'voices' / voice}"])

    metrics = export("anna", max_new_tokens=6)
    assert metrics["check"]["equal"] == metrics["check"]["clips"] > 1
    corpus = load_corpus(run / "corpus", "dev")
    options = {"max_new_tokens": 6, "num_beams": 1}
    exported = Transcriber.from_pretrained(tmp_path / "export_anna" / "model", engine="ctranslate2", **options)
    base.set_audio_context("dynamic", 1000)
    voices = load_voices(base, [tmp_path / "voices" / "anna"])
    original = Transcriber(base, processor, voices=voices, **options)
    texts = [one.text for one in exported.transcribe_corpus(corpus)]
    assert texts == [one.text for one in original.transcribe_corpus(corpus)]
    assert texts != [one.text for one in Transcriber(base, processor, **options).transcribe_corpus(corpus)]
    for voice, more, message in (
        ("chris", {}, "chris changes nothing; leave the voice out"),
        ("dan", {}, "dan puts examples before each recording"),
        ("", {}, "holds 3 voices, such as anna; give one of them"),
        ("anna", {"expert": 1}, "weighs the experts itself; leave --expert out"),
    ):
        with pytest.raises(UserError, match=message):
            export(voice, **more)


def test_an_export_below_the_context_of_an_untrained_model_is_warned_of(run, tmp_path, capsys):
    save_tiny_whisper(tmp_path / "stock")
    flags = {"model": tmp_path / "stock", "corpus": None, "audio_context": "dynamic", "min_audio_context": 300}
    metrics = export_ctranslate2.main(command(export_ctranslate2, run, tmp_path / "export", **flags))
    assert metrics["min_audio_context"] == 300
    assert "below --min_audio_context 600; got 300" in capsys.readouterr().err


def test_export_of_an_expert(run, tmp_path, capsys):
    metrics = export_ctranslate2.main(
        command(
            export_ctranslate2,
            run,
            tmp_path / "export",
            quantization="float32",
            model=run / "joint" / "model",
            expert=1,
            corpus=None,
        )
    )
    assert metrics["check"] is None and "the export is not checked; give --corpus" in capsys.readouterr().err
    moe, _ = load_moe_whisper(str(run / "joint" / "model"))
    exported = import_whisper(tmp_path / "export" / "model")[0].state_dict()
    for name, value in moe.merge_expert(1).state_dict().items():
        torch.testing.assert_close(exported[name], value, msg=name)


@pytest.mark.parametrize(
    ("recipe", "output", "flags"),
    [
        (average_checkpoints, "soup", DECODING),
        (merge_moe_whisper, "average", MERGE),
        (distil_moe_whisper, "distilled", DISTIL),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_resume_skips_what_is_complete(run, greedy, distilled, monkeypatch, recipe, output, flags):
    metrics = json.loads((run / output / "stage.json").read_text())["metrics"]
    monkeypatch.setattr(recipe, "load_corpus", None, raising=False)  # calling it again would fail
    monkeypatch.setattr(recipe, "load_moe_whisper", None, raising=False)
    assert recipe.main([*command(recipe, run, output, **flags), "--resume"]) == metrics


ERRORS = [
    (average_checkpoints, {"candidates": "{run}/average"}, "a soup needs at least 2 complete checkpoints, .* holds 0"),
    (
        average_checkpoints,
        {"candidates": "{run}/corpus"},
        "holds no model; .* must be the output folder of a training",
    ),
    (average_checkpoints, {"last": 1}, "--last must be at least 2, got 1"),
    (average_checkpoints, {"selection_split": "test"}, "has no split 'test'"),
    (average_checkpoints, {"method": "best"}, "invalid choice: 'best'"),
    (merge_moe_whisper, {"model": "{run}/average/model"}, "is not a checkpoint of MoeWhisper"),
    (merge_moe_whisper, {"model": "{run}/nowhere"}, "there is no folder"),
    (merge_moe_whisper, {"method": "expert"}, "--method expert needs --expert from 0 to 2, got None"),
    (merge_moe_whisper, {"method": "expert", "expert": 3}, "--method expert needs --expert from 0 to 2, got 3"),
    (merge_moe_whisper, {"expert": 1}, "--expert goes with --method expert, got --method average"),
    (
        merge_moe_whisper,
        {"weights": "0.5,0.5"},
        "weights must be 3 numbers of at least 0 that add up to 1, .* got 0.5, 0.5",
    ),
    (
        merge_moe_whisper,
        {"weights": "gates"},
        "--weights must be usage, uniform or one number per expert, .* got 'gates'",
    ),
    (distil_moe_whisper, {"kl_weight": 2}, r"kl_weight must lie in \[0, 1\], got 2"),
    (distil_moe_whisper, {"model": "{run}/nowhere"}, "there is no folder"),
    (distil_moe_whisper, {"kl_wait": 1}, "did you mean --kl_weight"),
    (export_ctranslate2, {"model": "{run}/joint/model"}, "mixes 3 experts: give --expert 0 to 2, got None"),
    (export_ctranslate2, {"model": "{run}/joint/model", "expert": 3}, "mixes 3 experts: give --expert 0 to 2, got 3"),
    (export_ctranslate2, {"expert": 0}, "has no experts; leave --expert out"),
    (export_ctranslate2, {"model": "{run}/corpus"}, "is not a checkpoint that can be loaded"),
    (export_ctranslate2, {"quantization": "int4"}, "invalid choice: 'int4'"),
]


@pytest.mark.parametrize(("recipe", "flags", "message"), ERRORS)
def test_mistakes_are_named_and_leave_no_result(run, average, tmp_path, recipe, flags, message):
    flags = {flag: str(value).format(run=run) for flag, value in flags.items()}
    with pytest.raises(UserError, match=message):
        recipe.main(command(recipe, run, tmp_path / "output", **flags))
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("recipe", [average_checkpoints, merge_moe_whisper, distil_moe_whisper])
def test_what_scores_stops_at_an_unreadable_row_before_the_work(run, average, tmp_path, recipe):
    rows = load_corpus(run / "corpus", "dev")["id"][:]
    corpus = damaged_copy(run / "corpus", tmp_path / "damaged", rows[:1])
    flags = {"corpus": corpus, "max_samples": len(rows)}
    with pytest.raises(UserError, match=f"1 of the {len(rows)} recordings to score .*{rows[0]} .*take their rows out"):
        recipe.main(command(recipe, run, tmp_path / "output", **flags))
    assert not (tmp_path / "output").exists()


def test_a_student_of_another_vocabulary_is_refused(run, tmp_path):
    model = tiny_whisper()
    model.resize_token_embeddings(len(tiny_processor().tokenizer) + 8)
    save_tiny_whisper(tmp_path / "whisper")
    model.save_pretrained(tmp_path / "whisper")
    with pytest.raises(UserError, match="must write the same tokens, but their vocab_size is"):
        distil_moe_whisper.main(
            command(distil_moe_whisper, run, tmp_path / "output", **{**DISTIL, "model": tmp_path / "whisper"})
        )
