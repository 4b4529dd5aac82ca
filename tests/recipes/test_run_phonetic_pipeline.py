"""The whole phonetic pipeline on a tiny model and noise: from a manifest with IPA to figures, submission and card."""

import json
from pathlib import Path

import pytest
from make_corpus import children_corpus, write_manifest
from paths import CONFIGS
from tiny_speech import save_tiny_whisper

from hf_components.metrics.ipa_cer.ipa_cer import IpaCer
from hf_components.runtime import UserError
from hf_components.speech import to_ipa
from recipes import pack_submission, run_phonetic_pipeline

pytestmark = pytest.mark.integration

SMALL = [
    "--val_ratio=0.34",
    "--num_train_epochs=1",
    "--full_context_fraction=0",
    "--max_new_tokens=6",
    "--num_bootstrap=20",
    "--stage_options",
    "finetune_asr.report_to=none",
    "finetune_whisper.report_to=none",
    "finetune_whisper.num_train_epochs=1",
    "finetune_whisper.max_new_tokens=6",
    "pack_submission.max_samples=2",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict]:
    """Every second row has IPA, one of them no words."""
    folder = tmp_path_factory.mktemp("phonetic")
    data = children_corpus(folder / "children")
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for row, text in zip(rows[::2], to_ipa([row["orthographic_text"] for row in rows[::2]], "en-us"), strict=True):
        row["phonetic_text"] = text
    del rows[0]["orthographic_text"]
    write_manifest(data / "train.jsonl", rows)
    write_manifest(
        data / "test.jsonl",
        [{name: value for name, value in row.items() if not name.endswith("_text")} for row in rows[:4]],
    )
    save_tiny_whisper(folder / "whisper", positions=256)
    words = ["--config", CONFIGS / "run_phonetic_pipeline" / "quick.yaml", "--data", data]
    words += ["--model", folder / "whisper", "--output_dir", folder / "run", "--manifest", data / "train.jsonl"]
    return folder, run_phonetic_pipeline.main([*map(str, [*words, "--test_manifest", data / "test.jsonl"]), *SMALL])


def test_words_in_ipa_stand_beside_what_was_trained(finished):
    folder, results = finished
    assert list(results["ipa_cer"]) == ["zero_shot", "words", "finetuned"]
    assert results["training"]["family"] == "Whisper CTC" and results["training"]["target"] == "phonetic_text"
    assert 0 < results["training"]["ipa_from_words"] < results["training"]["utterances"] <= 12
    rows = json.loads((folder / "run" / "evaluation" / "evaluation.json").read_text())
    said, heard = ([row[side] for row in rows] for side in ("reference", "predictions"))
    scored = IpaCer(keep_in_memory=True).compute(predictions=[texts["finetuned"] for texts in heard], references=said)
    assert scored["ipa_cer"] == pytest.approx(results["ipa_cer"]["finetuned"], abs=1e-12)
    difference = results["evaluation"]["differences"][1]
    assert (difference["a"], difference["b"]) == ("zero_shot", "finetuned")
    assert difference["cer_b"] == results["ipa_cer"]["finetuned"] and "wer_b" not in difference


def test_the_card_says_what_was_made_from_words(finished):
    folder, results = finished
    card = (folder / "run" / "model" / "README.md").read_text()
    assert f"| `finetuned` | {100 * results['ipa_cer']['finetuned']:.1f} |" in card
    assert "training utterances was made from words by eSpeak NG** (voice `en-us`)" in card
    assert "None" not in card and "\n\n\n" not in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--test_manifest=missing.jsonl"], "missing.jsonl"),
        (["--submission_format=x.jsonl"], "give that too"),
        (["--data={corpus}", "--split_seed=1"], "--split_seed is for a manifest"),
    ],
)
def test_mistakes_are_told_before_training(finished, tmp_path, flags, message):
    folder, _ = finished
    words = ["--data=x", *flags, f"--model={folder / 'whisper'}", f"--output_dir={tmp_path / 'run'}", "--dry_run"]
    with pytest.raises(UserError, match=message):
        run_phonetic_pipeline.main([word.format(corpus=folder / "run" / "corpus") for word in words])


def test_submission_and_zip_write_ipa(finished):
    folder, results = finished
    lines = [json.loads(line) for line in (folder / "run" / "submission.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(set(line) == {"utterance_id", "phonetic_text"} for line in lines)
    tried = results["package"]["verified"]
    assert tried["utterances"] == 2 and tried["different"] == 0 and set(tried["cer"]) == {"before", "packed"}
    with pytest.raises(UserError, match="writes phonetic_text, which is for the track phonetic, not word"):
        pack_submission.main(
            ["--model", str(folder / "run" / "model"), "--output", str(folder / "a.zip"), "--track", "word"]
        )
