"""`recipes/evaluate_asr.py`: transcripts of files and of a model, judged by a corpus or a manifest; mistakes."""

import json
from pathlib import Path

import datasets
import pytest
import soundfile
from paths import CONFIGS
from tiny_speech import save_tiny_whisper, sentence, speaker_folder, tone

from hf_components.asr.transcriber import Transcriber
from hf_components.runtime.errors import UserError
from hf_components.scoring.error_rates import compare, score
from hf_components.scoring.sap import sap_counts
from hf_components.scoring.sap_evaluation import (
    groups_not_scored,
    read_hypotheses,
    sap_ids,
    sap_references,
    write_hypotheses,
)
from hf_components.scoring.transcripts import read_transcripts
from hf_components.speech.corpus import load_corpus
from recipes import evaluate_asr, prepare_corpus

pytestmark = pytest.mark.integration

QUICK = str(CONFIGS / "evaluate_asr" / "quick.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A prepared corpus, a manifest of other utterances, a tiny Whisper, and transcripts of two systems."""
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
    with (folder / "manifest.jsonl").open("w") as lines:
        for i in range(6):
            audio = folder / f"audio_{i % 2}" / f"u{i}.flac"
            audio.parent.mkdir(exist_ok=True)
            soundfile.write(audio, tone(i % 3, i, 0.5), 16_000)
            lines.write(
                json.dumps(
                    {
                        "utterance_id": f"u{i}",
                        "child_id": f"c{i % 3}",
                        "audio_path": f"audio/u{i}.flac",
                        "age_bucket": ("5-7", "8-11")[i % 2],
                        "orthographic_text": sentence(i),
                    }
                )
                + "\n"
            )
    corpus = load_corpus(folder / "corpus", "dev")
    for name, change in (("base", lambda text: "um " + text.replace("o", "u")), ("best", str.upper)):
        (folder / name).mkdir()
        with (folder / name / "predictions.jsonl").open("w") as lines:
            for row in corpus.remove_columns("audio"):
                lines.write(json.dumps({"utterance_id": row["id"], "orthographic_text": change(row["text"])}) + "\n")
    return folder


def command(output: Path, *words: object, **flags: object) -> list[str]:
    return [
        "--config",
        QUICK,
        f"--output_dir={output}",
        *(f"--{name}={value}" for name, value in flags.items()),
        *map(str, words),
    ]


def predictions(run: Path, *names: str) -> list[object]:
    return ["--predictions", *(run / name / "predictions.jsonl" for name in names)]


def test_two_systems_on_a_corpus(run, tmp_path, capsys):
    result = evaluate_asr.main(command(tmp_path / "out", *predictions(run, "base", "best"), corpus=run / "corpus"))
    corpus = load_corpus(run / "corpus", "dev")
    references, speakers = corpus["text"][:], corpus["speaker_id"][:]
    base = [text.replace("o", "u") for text in references]
    expected = score(base, references, corpus["group"][:], speakers, num_bootstrap=200, seed=42)
    found = result["systems"]["base/predictions"]
    assert {name: found[name] for name in expected} == expected and expected["wer"] > 0
    assert (found["missing"], found["unknown"]) == (0, 0)
    assert result["systems"]["best/predictions"]["wer"] == 0 and not result["systems"]["best/predictions"]["worst"]
    (line,) = result["differences"]
    assert line == {
        "a": "base/predictions",
        "b": "best/predictions",
        **compare(base, references, references, speakers, num_bootstrap=200, seed=42),
    }
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == result
    utterances = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert sorted(row["id"] for row in utterances) == sorted(corpus["id"])
    assert (tmp_path / "out" / "wer_per_group.png").exists()
    shown = capsys.readouterr().out
    assert "middle" in shown and "Difference in WER" in shown


def test_a_model_on_a_manifest(run, tmp_path, monkeypatch):
    flags = {"val_manifest": run / "manifest.jsonl", "model": run / "whisper", "max_new_tokens": 6}
    result = evaluate_asr.main(command(tmp_path / "out", "--no_plot", **flags))
    transcriber = Transcriber.from_pretrained(run / "whisper", max_new_tokens=6)
    texts = [transcriber.transcribe(run / f"audio_{i % 2}" / f"u{i}.flac") for i in range(6)]
    found = result["systems"][str(run / "whisper")]
    assert found["cer"] == score(texts, [sentence(i) for i in range(6)], num_bootstrap=0)["cer"]
    assert result["references"] == {"utterances": 6, "speakers": 3, "groups": {"5-7": 3, "8-11": 3}}
    assert not (tmp_path / "out" / "wer_per_group.png").exists()
    monkeypatch.setattr(evaluate_asr, "produce", None)  # calling it again would fail
    assert evaluate_asr.main(command(tmp_path / "out", **flags)) == json.loads(json.dumps(result))
    assert (tmp_path / "out" / "wer_per_group.png").exists()


def test_what_is_missing_or_unknown_is_told(run, tmp_path, capsys):
    lines = (run / "best" / "predictions.jsonl").read_text().splitlines()
    lost = json.loads(lines.pop(0))["utterance_id"]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"utterance_id": "stranger", "orthographic_text": "x"}']))
    result = evaluate_asr.main(command(tmp_path / "out", "--predictions", tmp_path / "a.jsonl", corpus=run / "corpus"))
    assert (result["systems"]["a"]["missing"], result["systems"]["a"]["unknown"]) == (1, 1)
    assert result["systems"]["a"]["deletions"] > 0
    log = capsys.readouterr().err
    assert f"lacks 1 of 12 utterances, which count as empty: {lost}" in log
    assert "1 ids that are not among the references and are left out: stranger" in log


def test_resume_keeps_what_is_complete_and_sees_new_transcripts(run, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text((run / "base" / "predictions.jsonl").read_text())
    words = command(tmp_path / "out", "--predictions", tmp_path / "a.jsonl", "--resume", corpus=run / "corpus")
    first = evaluate_asr.main(words)
    assert evaluate_asr.main(words) == first and "is complete, skipped" in capsys.readouterr().err
    (tmp_path / "a.jsonl").write_text((run / "best" / "predictions.jsonl").read_text())
    assert evaluate_asr.main(words)["systems"]["a"]["wer"] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to score: give --predictions, --model, or both"),
        (
            ["--predictions", "{run}/base/predictions.jsonl", "--val_manifest", "{run}/manifest.jsonl"],
            "give either --corpus or",
        ),
        (["--predictions", "{run}/nowhere.jsonl"], "cannot read .*nowhere.jsonl"),
        (["--predictions", "{run}/manifest.jsonl"], "no transcript of any of the 12 utterances"),
        (["--predictions", "{run}/base/predictions.jsonl", "--split", "test"], "has no split 'test'"),
    ],
)
def test_mistakes_are_named_and_leave_no_result(run, tmp_path, words, message):
    words = [word.format(run=run) for word in words]
    with pytest.raises(UserError, match=message):
        evaluate_asr.main(command(tmp_path / "out", *words, corpus=run / "corpus"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--num_bootstrap=-1", "--num_bootstrap must be at least 0, got -1"),
        ("--worst=-1", "--worst must be at least 0, got -1"),
        ("--max_new_tokens=0", "--max_new_tokens must be at least 1, got 0"),
        ("--batch_seconds=nan", "--batch_seconds must be above 0, got nan"),
    ],
)
def test_figures_out_of_range_are_told(run, tmp_path, flag, message):
    with pytest.raises(UserError, match=message):
        evaluate_asr.main(command(tmp_path / "out", *predictions(run, "base"), flag, corpus=run / "corpus"))


def test_a_manifest_and_the_corpus_made_of_it_judge_alike(run, tmp_path):
    rows = [
        json.loads(line) | {"orthographic_text": "(the doggie) runs {laugh: home}"}
        for line in (run / "manifest.jsonl").read_text().splitlines()
    ]
    manifest, judged = run / "marked.jsonl", tmp_path / "judged.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged.write_text(
        "".join(
            json.dumps({"utterance_id": row["utterance_id"], "orthographic_text": "runs laugh home"}) + "\n"
            for row in rows
        )
    )
    prepare_corpus.main(
        [
            "--builder=jsonl_manifest",
            f"--manifest={manifest}",
            f"--output_dir={tmp_path / 'corpus'}",
            "--val_ratio=0",
            "--num_proc=1",
        ]
    )
    by_corpus = evaluate_asr.main(
        command(tmp_path / "a", "--predictions", judged, corpus=tmp_path / "corpus", split="train")
    )
    by_manifest = evaluate_asr.main(command(tmp_path / "b", "--predictions", judged, val_manifest=manifest))
    assert by_corpus["systems"]["judged"]["wer"] == by_manifest["systems"]["judged"]["wer"]


def test_as_the_sap_challenge_scores(run, tmp_path, capsys):
    corpus = load_corpus(run / "corpus", "dev")
    hypotheses = tmp_path / "theirs.csv"
    with hypotheses.open("w") as file:
        file.write("id,raw_hypos\n")
        texts = zip(sap_ids(corpus["id"][:]).values(), corpus["text"], strict=True)
        file.writelines(f'{name},"{text}, (um)"\n' for name, text in texts)
    result = evaluate_asr.main(
        ["--config", QUICK, "--scoring", "sap", "--sap_track", "2", "--corpus", str(run / "corpus"), "--predictions"]
        + [str(run / "base" / "predictions.jsonl"), str(hypotheses)]
        + ["--model", str(run / "whisper"), "--max_new_tokens", "20", "--output_dir", str(tmp_path / "out")]
    )
    assert result["systems"]["theirs"]["cer"] == result["systems"]["theirs"]["wer"] == 0
    assert 0 < result["systems"]["predictions"]["cer"] == score_of(run, corpus)
    assert list(result["systems"]["theirs"])[0] == "cer"
    written = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
    assert written[0] == "id,raw_hypos"
    assert len(written) == 1 + len(corpus)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "SAPC2 challenge, track 2, split `dev`" in card
    assert "`c48d945`" in card
    assert "clipped per utterance" in capsys.readouterr().out


def score_of(run: Path, corpus) -> float:
    texts = read_transcripts(run / "base" / "predictions.jsonl")
    counts = sap_counts([texts[name] for name in corpus["id"]], corpus["references"])
    return float(counts["cer_errors"].sum() / counts["cer_length"].sum())


def test_sap_scoring_needs_a_corpus_with_two_references(run, tmp_path):
    with pytest.raises(UserError, match="needs --corpus"):
        evaluate_asr.main(
            ["--scoring", "sap", "--val_manifest", str(run / "manifest.jsonl"), "--output_dir", str(tmp_path)]
            + ["--predictions", str(run / "base" / "predictions.jsonl")]
        )
    corpus = load_corpus(run / "corpus", "dev")
    with pytest.raises(UserError, match="needs the column references"):
        sap_references(corpus.remove_columns("references"))


def test_a_split_without_an_etiology_of_the_corpus_is_named(caplog):
    rows = datasets.Dataset.from_dict({"group": ["ALS", "Parkinson's"]})
    corpus = datasets.DatasetDict({"train": rows, "dev": rows.select([0])})
    assert groups_not_scored(corpus, "dev") == ["Parkinson's"]
    assert "the split dev has no utterance of Parkinson's" in caplog.text
    assert groups_not_scored(corpus, "train") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,text\na,b\n", "lacks the column raw_hypos; it has id, text"),
        ("id,raw_hypos\na,b\na,c\n", "line 3: the id a is there twice"),
        ("id,raw_hypos\na\n", "line 2: the id a has no text"),
        ("id,raw_hypos\na,hello, world\n", "line 2: there are more fields than columns; put texts with commas"),
        ("id;raw_hypos\na;b\n", "lacks the column id; it has id;raw_hypos"),
        ("", "lacks the column id; it has nothing"),
    ],
)
def test_a_file_that_is_no_csv_of_hypotheses_is_refused(tmp_path, text, message):
    file = tmp_path / "theirs.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_hypotheses(file, ["s/a"])


def test_hypotheses_from_a_spreadsheet(tmp_path):
    file = tmp_path / "theirs.CSV"
    file.write_bytes('\ufeff"id","raw_hypos"\r\n" a ","hello, world"\r\nb ,x\r\n'.encode())
    assert read_hypotheses(file, ["s/a", "s/b"]) == {"s/a": "hello, world", "s/b": "x"}
    file.write_text("id,raw_hypos\na,b\n", encoding="utf-16")
    with pytest.raises(UserError, match="cannot read .* save it as CSV in UTF-8"):
        read_hypotheses(file, ["s/a"])


def test_hypotheses_keep_every_character(tmp_path):
    texts = {"s/a": 'say "a, b"\nnow', "s/b": ""}
    write_hypotheses(tmp_path / "file.csv", texts)
    assert (tmp_path / "file.csv").read_text().splitlines()[0] == "id,raw_hypos"
    assert read_hypotheses(tmp_path / "file.csv", list(texts)) == texts
    assert sap_ids(["s/a", "t/a"]) == {"s/a": "s/a", "t/a": "t/a"}  # one name for two files
