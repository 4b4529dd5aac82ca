"""Fine-tuning on corrected transcripts, in-process, on a tiny wav2vec2, tones and a scripted LLM."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from every_model import EVERY
from paths import CONFIGS
from safetensors.torch import load_file
from tiny_ctc import save_tiny_wav2vec2
from tiny_llm import save_tiny_llm
from tiny_recordings import recordings, scripted_corrector

from hf_components.asr.transcriber import Transcriber
from hf_components.correction.finetuning import gold, rounds
from hf_components.correction.finetuning.improvement import improve, measure
from hf_components.correction.finetuning.samples import Sample
from hf_components.runtime import ID, TEXT
from hf_components.runtime.errors import UserError
from recipes import finetune_wav2vec2_lora

pytestmark = pytest.mark.integration

CONFIG = str(CONFIGS / "finetune_wav2vec2_lora" / "quick.yaml")
FLAGS = {
    "gold": "llm",
    "llm_choices": 0,
    "num_epochs": 2,
    "report_to": "none",
    "logging_steps": 1,
    "use_cpu": True,
    "learning_rate": 1e-2,
    "num_bootstrap": 50,
    "batch_seconds": 4,
    "batch_size": 2,
    "eval_ratio": 0.4,
    "plot": False,
    "merge": True,
}
TIMES = re.compile(r"seconds|environment")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    recordings(folder / "audio")
    save_tiny_wav2vec2(folder / "base")
    return folder


def command(sources: Path, output: Path, *words: str, **flags) -> list[str]:
    flags = {"audio_dir": sources / "audio", "model": sources / "base", "output_dir": output, **FLAGS, **flags}
    return ["--config", CONFIG, *words, *(f"--{name}={value}" for name, value in flags.items() if value is not None)]


@pytest.fixture(scope="module")
def corrector(tmp_path_factory):
    """Mends most transcripts, by a letter."""
    return scripted_corrector(
        tmp_path_factory.mktemp("llm"), lambda text: text[:-1] if len(text) % 3 else text, batch_size=2
    )


@pytest.fixture
def llm(corrector, monkeypatch) -> list[list[str]]:
    """The batches that the LLM is asked for, apart from the one that warms it up."""
    found, asked = corrector
    asked.clear()
    monkeypatch.setattr(found, "warm_up", lambda: 0.0)
    monkeypatch.setattr(gold, "load_corrector", lambda args, alphabet: found)
    return asked


@pytest.fixture(scope="module")
def whole(sources, corrector, tmp_path_factory) -> tuple[Path, dict]:
    """On an LLM's gold, never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gold, "load_corrector", lambda args, alphabet: corrector[0])
        return out, finetune_wav2vec2_lora.main(command(sources, out, plot=True))


def samples(folder: Path) -> list[Sample]:
    return [Sample(**json.loads(line)) for line in (folder / "samples.jsonl").read_text().splitlines()]


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not TIMES.search(key)}
    return value


def test_no_recording_is_trained_on_and_judged(whole):
    out, result = whole
    rows = samples(out)
    assert len(rows) == 10 and not any(row.held_out and row.trained_on for row in rows)
    assert [sum(row.held_out for row in rows if row.condition == name) for name in ("clean", "noisy")] == [2, 2]
    assert all((row.finetuned is not None) == row.held_out for row in rows)
    assert all(row.trained_on == (row.heard != row.gold and not row.held_out) for row in rows)
    assert result["training"]["recordings"] == sum(row.trained_on for row in rows) > 0
    assert result["rejected"] == {"unreadable audio": 1} and (out / "rejected.jsonl").read_text().count("\n") == 1


def test_several_recognisers_vote_and_another_judges(sources, tmp_path):
    voter = str(EVERY["hubert"](tmp_path / "voter"))
    other = str(save_tiny_wav2vec2(tmp_path / "other"))
    judge = str(EVERY["parakeet ctc"](tmp_path / "judge"))
    flags = {
        "gold": "consensus",
        "train_on": "all",
        "truth": tmp_path / "no.jsonl",
        "num_epochs": 1,
        "weigh_gold": True,
    }
    (tmp_path / "no.jsonl").write_text("")
    words = ["--recognisers", voter, other, "--judges", judge]
    result = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", *words, **flags))
    lines = [json.loads(line) for line in (tmp_path / "run" / "gold.jsonl").read_text().splitlines()]
    rows = {row.id: row for row in samples(tmp_path / "run")}
    assert len(lines) == len(rows) == 10
    for line in lines:
        assert list(line["heard"]) == [str(sources / "base"), voter, other]
        assert line["gold"] == rows[line["id"]].gold == " ".join(word for word, _ in line["consensus"])
    assert result["gold"]["recognisers"] == [voter, other] and 0 <= result["gold"]["estimated_wer"] <= 1
    verdict = result["release"]
    assert not verdict["released"] and verdict["by"] == "nobody" and verdict["left_out"] == [judge]  # it hears tones
    with pytest.raises(UserError, match="cannot vote on the gold and judge it too"):
        finetune_wav2vec2_lora.main(
            command(sources, tmp_path / "x", "--recognisers", voter, "--judges", voter, **flags)
        )
    with pytest.raises(UserError, match="a vote of several"):
        finetune_wav2vec2_lora.main(command(sources, tmp_path / "x", **flags))


def test_gold_begins_with_what_an_llm_chooses(sources, tmp_path):
    llm = save_tiny_llm(tmp_path / "llm", template=None)
    (tmp_path / "empty.yaml").write_text("{}")  # without the GGUF file of quick.yaml

    def run(**flags) -> dict:
        words = command(sources, tmp_path / "run", **flags)
        return finetune_wav2vec2_lora.main(["--config", str(tmp_path / "empty.yaml"), *words[2:]])

    flags = {"gold": "stt", "llm_choices": 5, "llm_model": llm, "num_epochs": 1}
    result = run(**flags)
    rows = samples(tmp_path / "run")
    assert any(row.gold != row.heard for row in rows) and {row.source for row in rows} == {"stt"}
    assert f"what {llm} chooses among the texts" in result["gold"]["label"]
    work = tmp_path / "run_work"
    chosen = [json.loads(line) for line in (work / "chosen/transcripts.jsonl").read_text().splitlines()]
    assert [line["orthographic_text"] for line in chosen] == [row.gold for row in rows]
    voter = str(EVERY["hubert"](tmp_path / "voter"))
    flags |= {"gold": "consensus", "train_on": "all", "recognisers": voter}
    run(**flags)
    (line, *_) = [json.loads(line) for line in (tmp_path / "run" / "gold.jsonl").read_text().splitlines()]
    assert line["heard"][str(sources / "base")] == rows[0].gold  # it votes with what was chosen


def test_every_figure_follows_from_the_texts_beside_it(whole):
    out, result = whole
    assert json.loads((out / "evaluation_results.json").read_text()) == result
    rows = samples(out)
    judged = [row for row in rows if row.held_out]
    before, after = [row.heard for row in judged], [row.finetuned for row in judged]
    assert (result["baseline"], result["finetuned"]) == (measure(judged, before), measure(judged, after))
    assert result["improvement"] == improve(judged, before, after, num_bootstrap=50, seed=42)
    assert result["all_recordings"] == measure(rows, [row.heard for row in rows])
    assert result["gold"]["wer_truth"] == measure(rows, [row.gold for row in rows])["wer_truth"]
    assert result["gold"]["corrections"]["transcripts"] == 10 == (out / "corrections.jsonl").read_text().count("\n")


def test_a_forced_start_does_and_prints_everything_again(sources, tmp_path, llm, capsys):
    first = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run"))
    asked = [*llm]
    assert finetune_wav2vec2_lora.main(command(sources, tmp_path / "run")) == first and llm == asked
    capsys.readouterr()
    finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", "--force_restart"))
    assert llm == [*asked, *asked]
    printed = capsys.readouterr()
    for text in (
        "Baseline Metrics of all 10 recordings (gold: the recogniser's text as",
        "Error samples (",
        "Fine-tuned Metrics of the held-out 4 recordings (gold:",
        "SUMMARY: 4 held-out recordings, gold: llm",
        "rejected, see rejected.jsonl: 1 unreadable audio",
    ):
        assert text in printed.out
    assert re.search(r"training [\d,]+ of [\d,]+ parameters", printed.out)
    assert "Estimated training time: ~" in printed.err


def test_adapter_merged_model_and_card(whole, sources):
    out, result = whole
    clip = sources / "audio" / "clean" / "0.wav"
    adapted = Transcriber.from_pretrained(sources / "base", adapter=out / "lora_adapters")
    merged = Transcriber.from_pretrained(out / "model")
    assert adapted.transcribe(clip) == merged.transcribe(clip)
    judged = {row.id: row.finetuned for row in samples(out) if row.held_out}
    (name, text) = judged.popitem()
    assert merged.transcribe(sources / "audio" / name) == text
    cards = {name: (out / name / "README.md").read_text() for name in ("lora_adapters", "model")}
    wer = 100 * result["finetuned"]["wer_truth"]
    assert all(f"{wer:.1f}" in card and "plots/loss.png" in card and "None" not in card for card in cards.values())
    assert "PeftModel" in cards["lora_adapters"] and "pipeline(" in cards["model"]
    assert "favours that recogniser" in cards["model"] and "\n\n\n" not in cards["model"]
    assert {"history.json", "loss.png"} <= {path.name for path in (out / "logs").iterdir()}


@pytest.mark.parametrize("family", ["w2v-bert", "moonshine", "qwen3-asr"])
def test_any_family_goes_all_the_way(sources, tmp_path, family):
    flags = {"model": EVERY[family](tmp_path / "base"), "gold": "manifest", "nbest": 1, "train_on": "all"}
    flags |= {"num_epochs": 1, "num_bootstrap": 10}
    result = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", **flags))
    assert result["training"]["steps"] > 0 and result["finetuned"]["samples"] == result["baseline"]["samples"]
    for name in ("lora_adapters", "model"):
        card = (tmp_path / "run" / name / "README.md").read_text()
        assert "None" not in card and "\n\n\n" not in card
        assert ("AutoModelForCTC" in card) == (name == "lora_adapters" and family == "w2v-bert")
    adapted = Transcriber.from_pretrained(flags["model"], adapter=tmp_path / "run" / "lora_adapters")
    merged = Transcriber.from_pretrained(tmp_path / "run" / "model")
    file = next((sources / "audio").rglob("*.wav"))
    assert adapted.transcribe(file) == merged.transcribe(file)


PHASES = {
    "corpus": ("recipes.finetune_wav2vec2_lora.write_corpus", 1),
    "baseline": ("hf_components.asr.transcriber.Transcriber._decode", 2),
    "gold": ("hf_components.correction.corrector.TranscriptCorrector.decide", 5),
    "training": ("hf_components.training.time_estimate.TimeEstimate.on_step_end", 3),
    "after training": ("hf_components.training.finetuning.save_lora", 1),
    "publication": ("hf_components.correction.finetuning.release.write_card", 1),
}


@pytest.mark.parametrize("phase", PHASES)
def test_stopped_in_any_phase_it_goes_on_and_asks_nothing_twice(sources, whole, tmp_path, llm, monkeypatch, phase):
    where, times = PHASES[phase]
    module, _, name = where.rpartition(".")
    owner = eval_path(module)
    function, calls = getattr(owner, name), []

    def stop(*args, **kwargs):
        calls.append(None)
        if len(calls) == times:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            finetune_wav2vec2_lora.main(command(sources, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    result = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run"))
    assert timeless(result) == timeless(whole[1])
    trained, expected = (
        load_file(out / "lora_adapters" / "adapter_model.safetensors") for out in (tmp_path / "run", whole[0])
    )
    assert all(torch.equal(value, expected[key]) for key, value in trained.items())
    asked = [text for batch in llm for text in batch]
    # The batch in which it was stopped was not recorded yet.
    assert len(asked) - len(set(asked)) <= (2 if phase == "gold" else 0)


@pytest.fixture
def voters(sources, tmp_path) -> list[str]:
    """A model and a file of another tool."""
    rows = [json.loads(line) for line in (sources / "audio" / "truth.jsonl").read_text().splitlines()]
    file = tmp_path / "tool.jsonl"
    file.write_text("".join(json.dumps({ID: row["file"], TEXT: row["text"]}) + "\n" for row in rows))
    return ["--recognisers", str(EVERY["hubert"](tmp_path / "voter")), str(file)]


def decide(monkeypatch, *released: bool) -> list[list[str]]:
    """Have the judges say so, in turn; the list fills with the texts that had to be beaten."""
    said, beaten = iter(released), []

    def judge(samples, heard, judges, **drawn):
        beaten.append(list(heard))
        return {"released": next(said), "by": "truth", "reason": "so it is said", "difference": 0.1}

    monkeypatch.setattr(rounds, "judge", judge)
    return beaten


def test_rounds_end_with_the_first_that_is_not_better(sources, tmp_path, voters, monkeypatch):
    flags = {"gold": "consensus", "train_on": "all", "rounds": 4, "num_epochs": 1}
    # In the second and third round the first decision is about the base, the second about the round before.
    beaten = decide(monkeypatch, True, True, True, True, False)
    result = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", *voters, **flags))
    work = tmp_path / "run_work"
    heard = [
        [json.loads(line)[TEXT] for line in (work / name / "transcripts.jsonl").read_text().splitlines()]
        for name in ("finetuned", "finetuned_2", "heard_2", "heard_3")
    ]
    assert [row["gain"]["released"] for row in result["rounds"]] == [True, True, False]
    assert not (work / "training_4").exists() and result["training"]["seconds"] > 0
    base = [row.heard for row in samples(tmp_path / "run") if row.held_out]
    assert beaten == [base, base, heard[0], base, heard[1]]
    adapters = [
        (folder / "adapter_model.safetensors").read_bytes()
        for folder in (work / "training_2" / "adapter", work / "training" / "adapter", tmp_path / "run/lora_adapters")
    ]
    assert adapters[0] == adapters[2] != adapters[1]  # that of the last better one
    lines = [json.loads(line) for line in (tmp_path / "run" / "gold.jsonl").read_text().splitlines()]
    assert [next(iter(line["heard"].values())) for line in lines] == heard[2]
    decide(monkeypatch, False)
    other = finetune_wav2vec2_lora.main(command(sources, tmp_path / "other", *voters, **flags))
    assert len(other["rounds"]) == 1 and not (tmp_path / "other_work" / "heard_2").exists()


LATER = {  # phase: what it calls, the phase before it, and the call in which it is stopped
    "heard_2": ("hf_components.asr.transcriber.Transcriber._decode", "finetuned", 2),
    "gold_2": ("hf_components.correction.corrector.TranscriptCorrector.decide", "heard_2", 2),
    "training_2": ("hf_components.training.time_estimate.TimeEstimate.on_step_end", "gold_2", 2),
    "finetuned_2": ("hf_components.asr.transcriber.Transcriber._decode", "training_2", 1),
}


@pytest.mark.parametrize("phase", LATER)
def test_a_second_round_goes_on_where_it_was_stopped(sources, tmp_path, voters, llm, monkeypatch, phase):
    flags = {"gold": "llm", "train_on": "all", "rounds": 2, "num_epochs": 1}
    where, before, times = LATER[phase]
    module, _, name = where.rpartition(".")
    owner, calls = eval_path(module), []
    function = getattr(owner, name)

    def stop(*args, **kwargs):
        if not (tmp_path / "run_work" / phase).exists() and (tmp_path / "run_work" / before).exists():
            calls.append(None)
        if len(calls) == times:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    decide(monkeypatch, *[True] * 9)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(KeyboardInterrupt):
            finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", *voters, **flags))
    result = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", *voters, **flags))
    asked = [text for batch in llm for text in batch]
    assert len(asked) - len(set(asked)) <= (2 if phase == "gold_2" else 0)  # the batch in which it was stopped
    llm.clear()
    whole = finetune_wav2vec2_lora.main(command(sources, tmp_path / "whole", *voters, **flags))
    assert timeless(result) == timeless(whole) and len(whole["rounds"]) == 2


def eval_path(path: str):
    """The module or class of that name."""
    __import__(path if path in sys.modules else path.rpartition(".")[0])
    found = sys.modules.get(path)
    return found if found is not None else getattr(sys.modules[path.rpartition(".")[0]], path.rpartition(".")[2])


def test_other_training_keeps_transcripts_and_corrections(sources, tmp_path, llm):
    first = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run"))
    llm.clear()
    other = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", "--no_lora", merge=False))
    assert llm == [] and other["all_recordings"] == first["all_recordings"]
    assert other["method"] == "full" and not (tmp_path / "run" / "lora_adapters").exists()
    base, tuned = (
        load_file(folder / "model.safetensors") for folder in (sources / "base", tmp_path / "run" / "model")
    )
    moved = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert moved and not any("feature_extractor" in name for name in moved)


def test_weights_half_way_to_the_base(sources, tmp_path):
    flags = {"gold": "manifest", "train_on": "all", "num_epochs": 1, "merge": False}

    def trained(name: str, file: str, *words: str, **more) -> dict[str, torch.Tensor]:
        finetune_wav2vec2_lora.main(command(sources, tmp_path / name, *words, **flags, **more))
        return load_file(tmp_path / name / file)

    lora = [trained(f"lora{s}", "lora_adapters/adapter_model.safetensors", base_share=s) for s in (0.0, 0.25)]
    for name, whole in lora[0].items():
        assert torch.allclose(lora[1][name], whole if "lora_A" in name else 0.75 * whole)
    full = [trained(f"full{s}", "model/model.safetensors", "--no_lora", base_share=s) for s in (0.0, 0.25)]
    base = load_file(sources / "base" / "model.safetensors")
    assert all(torch.allclose(full[1][name], 0.75 * full[0][name] + 0.25 * base[name], atol=1e-6) for name in base)
    assert any(not torch.equal(full[0][name], base[name]) for name in base)


def test_merging_and_plots_asked_for_later_keep_the_trained_adapter(sources, whole, tmp_path, llm, monkeypatch):
    run = tmp_path / "run"
    first = finetune_wav2vec2_lora.main(command(sources, run, merge=False))
    shutil.rmtree(tmp_path / "run_work")  # the finished folder is enough
    adapter = (run / "lora_adapters" / "adapter_model.safetensors").read_bytes()
    assert not (run / "model").exists() and not list(run.rglob("*.png"))
    monkeypatch.setattr(finetune_wav2vec2_lora, "produce", None)  # calling it again would fail
    for _ in range(2):
        assert finetune_wav2vec2_lora.main(command(sources, run, merge=True, plot=True)) == first
    assert (run / "lora_adapters" / "adapter_model.safetensors").read_bytes() == adapter
    merged, expected = (load_file(out / "model" / "model.safetensors") for out in (run, whole[0]))
    assert merged.keys() == expected.keys() and all(torch.equal(merged[key], expected[key]) for key in merged)
    places = {path.relative_to(whole[0]) for path in whole[0].rglob("*") if "runs" not in path.parts}
    assert {path.relative_to(run) for path in run.rglob("*") if "runs" not in path.parts} == places
    assert all("plots/loss.png" in (run / name / "README.md").read_text() for name in ("lora_adapters", "model"))
    assert finetune_wav2vec2_lora.main(command(sources, run, merge=False)) == first and (run / "model").exists()


def test_another_run_takes_over_what_was_prepared(sources, tmp_path, llm):
    first = finetune_wav2vec2_lora.main(command(sources, tmp_path / "first"))
    llm.clear()
    more = ("--force_restart", f"--prepared={tmp_path / 'first'}")
    other = finetune_wav2vec2_lora.main(command(sources, tmp_path / "other", *more, train_on="all"))
    assert llm == [] and sorted(path.name for path in (tmp_path / "other_work").iterdir()) == ["finetuned", "training"]
    assert other["baseline"] == first["baseline"] and other["training"]["recordings"] == 6
    assert (tmp_path / "other/corrections.jsonl").read_text() == (tmp_path / "first/corrections.jsonl").read_text()


def test_the_llm_is_shown_the_best_texts_of_each_recording(sources, tmp_path, llm):
    finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", nbest=3, train_on="all"))
    asked = [text for batch in llm for text in batch]
    rows = [json.loads(line) for line in (tmp_path / "run" / "corrections.jsonl").read_text().splitlines()]
    assert all(len(row["alternatives"]) == 2 and row["heard"] not in row["alternatives"] for row in rows)
    assert [row["heard"] for row in rows] == [row.heard for row in samples(tmp_path / "run")]
    assert len(asked) == 10 and all(re.match(r"1\. .+\n2\. .+\n3\. ", text) for text in asked)
    llm.clear()
    again = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", nbest=2, train_on="all"))
    assert (
        all(text.count("\n") == 1 for batch in llm for text in batch)
        and again["gold"]["corrections"]["transcripts"] == 10
    )


def test_evaluation_on_what_was_trained_on_says_so(sources, tmp_path, capsys):
    result = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", "--evaluate_on_train", gold="manifest"))
    assert result["evaluated_on"] == "training_recordings" and result["baseline"] == result["all_recordings"]
    assert result["baseline"]["wer"] == result["baseline"]["wer_truth"]
    assert "SUMMARY: 10 recordings, 10 OF THEM TRAINED ON, gold: manifest" in capsys.readouterr().out
    card = (tmp_path / "run" / "lora_adapters" / "README.md").read_text()
    assert "**Measured on 10 recordings, 10 of which were trained on**" in card


def test_own_text_as_gold_is_labelled_everywhere(sources, tmp_path, capsys):
    result = finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", gold="stt", train_on="agreed"))
    assert result["baseline"]["wer"] == 0 < result["baseline"]["wer_truth"] == result["gold"]["wer_truth"]
    assert capsys.readouterr().out.count("OWN TEXT, uncorrected") == 3
    assert "OWN TEXT, uncorrected" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_mistakes_are_told_at_once(sources, tmp_path):
    with pytest.raises(UserError, match="merges a LoRA"):
        finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", "--no_lora"))
    with pytest.raises(UserError, match="give --train_on all"):
        finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", gold="stt"))
    (tmp_path / "audio").mkdir()
    with pytest.raises(UserError, match="has no truth.jsonl"):
        finetune_wav2vec2_lora.main(command(sources, tmp_path / "run", gold="manifest", audio_dir=tmp_path / "audio"))


FRESH = """
import sys, soundfile, torch
from peft import PeftModel
from transformers import AutoModelForCTC, AutoProcessor, pipeline
base, adapter, merged, clip = sys.argv[1:]
samples, rate = soundfile.read(clip, dtype="float32")
processor = AutoProcessor.from_pretrained(base)
inputs = processor(samples, sampling_rate=rate, return_tensors="pt")
adapted = PeftModel.from_pretrained(AutoModelForCTC.from_pretrained(base), adapter).eval()
plain = AutoModelForCTC.from_pretrained(merged).eval()
with torch.no_grad():
    torch.testing.assert_close(adapted(**inputs).logits, plain(**inputs).logits, atol=1e-4, rtol=1e-4)
recognise = pipeline("automatic-speech-recognition", model=merged, device="cpu")
print("TEXT", recognise({"raw": samples, "sampling_rate": rate})["text"])
assert not any(name.startswith("hf_components") for name in sys.modules)
"""


@pytest.mark.slow
def test_plain_peft_and_transformers_load_it_in_another_process(whole, sources, tmp_path):
    out, clip = whole[0], sources / "audio" / "clean" / "0.wav"
    paths = map(str, (sources / "base", out / "lora_adapters", out / "model", clip))
    done = subprocess.run([sys.executable, "-c", FRESH, *paths], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("TEXT ")[1].split() == Transcriber.from_pretrained(out / "model").transcribe(clip).split()
