"""What voices gain over speakers: draws, systems, figures that are checked from outside."""

import json

import pytest
from tiny_speech import save_tiny_whisper, speaker_folder

from hf_components.runtime.errors import UserError
from hf_components.speech.corpus import load_corpus
from hf_components.voices import context
from hf_components.voices.evaluation import draw_jobs
from recipes import evaluate_voices, prepare_corpus

pytestmark = pytest.mark.integration

FAST = ["--voice_rank=2", "--voice_marks=2", "--voice_learning_rate=0.01", "--voice_scales=1", "--max_folds=2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus")
    out = place / "corpus"
    prepare_corpus.main([f"--data_dir={speaker_folder(place / 'speakers')}", f"--output_dir={out}", "--num_proc=1"])
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("model"))


def evaluate(model, corpus, out, *words) -> dict:
    given = [f"--model={model}", f"--corpus={corpus}", f"--output_dir={out}", "--max_new_tokens=6"]
    return evaluate_voices.main([*given, "--num_bootstrap=20", *FAST, *words])


def test_figures_that_are_checked_from_outside(model, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(context, "UNHEARD", 100.0)  # a tiny model understands no voice
    result = evaluate(model, corpus, tmp_path / "out", "--sentences", "2", "1")
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    for name in ("wer_before", "wer_after", "interval", "made_worse", "seconds_per_voice", "bytes_per_voice"):
        assert written[name] == result[name]
    assert set(result["curve"]) == {"1", "2"}
    figures = result["curve"]["2"]
    ways = ("context", "lora", "vote")
    assert {"before", *ways, *(f"control {way}" for way in ways), "chosen"} == set(figures["wer"])
    assert sum(figures["ways"].values()) == figures["draws"]
    assert 0 <= result["made_worse"] <= 1 and result["bytes_per_voice"] < 10**6
    assert result["curve"]["1"]["wer"]["chosen"] == result["curve"]["1"]["wer"]["before"]  # nothing to choose by
    assert (tmp_path / "out" / "learning_curve.png").exists()


def test_an_interrupted_evaluation_goes_on(model, corpus, tmp_path, monkeypatch):
    whole = evaluate(model, corpus, tmp_path / "whole", "--sentences=2")
    run, done = evaluate_voices.run_job, []

    def stop(*args):
        if done:
            raise KeyboardInterrupt
        done.append(args[0])
        run(*args)

    monkeypatch.setattr(evaluate_voices, "run_job", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, corpus, tmp_path / "out", "--sentences=2")
    seen = []
    monkeypatch.setattr(evaluate_voices, "run_job", lambda *args: (seen.append(args[0]), run(*args)))
    again = evaluate(model, corpus, tmp_path / "out", "--sentences=2")
    assert done[0] in seen
    without = ("seconds_per_voice", "curve")
    assert {k: v for k, v in again.items() if k not in without} == {k: v for k, v in whole.items() if k not in without}


def test_test_sentences_are_no_enrolment_and_larger_draws_contain_smaller(corpus):
    rows = load_corpus(corpus, "dev")
    jobs = draw_jobs(rows, [2, 1], draws=2, seed=3)
    speakers = rows["speaker_id"][:]
    for job in jobs:
        assert not set(job.test) & set(job.enrolment)
        assert {speakers[row] for row in job.enrolment + job.test} == {job.speaker}
        assert job.speaker not in {speakers[row] for row in job.others} and len(job.others) == job.sentences
    pairs = {(job.speaker, job.draw, job.sentences): job for job in jobs}
    for (speaker, draw, count), job in pairs.items():
        if count == 1:
            assert job.enrolment == pairs[speaker, draw, 2].enrolment[:1]
            assert job.test == pairs[speaker, draw, 2].test
    assert jobs == draw_jobs(rows, [2, 1], draws=2, seed=3)


def test_too_few_sentences_are_named(corpus):
    with pytest.raises(UserError, match="no speaker has more than 50 sentences; lower --sentences"):
        draw_jobs(load_corpus(corpus, "dev"), [50], draws=1, seed=0)
