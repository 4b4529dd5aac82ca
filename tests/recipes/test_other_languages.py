"""The children's pipeline in German and Portuguese, with real multilingual weights and voices of eSpeak NG."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from make_corpus import write_manifest
from paths import CONFIGS, ROOT
from transformers import GenerationConfig, WhisperProcessor

from dataset_scripts.demo_voices import Group, Speaker, accented, speak
from recipes import run_children_pipeline

BASE = ROOT / "models" / "whisper-base"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BASE.is_dir(), reason="make models/whisper-base imports it"),
]
SENTENCES = {
    "de": (
        "Der Hund schläft unter dem Tisch.",
        "Morgen gehen wir in den Wald.",
        "Die Katze trinkt ein wenig Milch.",
        "Kannst du mir bitte helfen?",
        "Im Sommer ist es draußen warm.",
        "Das Mädchen liest ein neues Buch.",
    ),
    "pt": (
        "O cachorro dorme debaixo da mesa.",
        "Amanhã vamos para a floresta.",
        "O gato bebe um pouco de leite.",
        "Você pode me ajudar, por favor?",
        "No verão faz calor lá fora.",
        "A menina lê um livro novo.",
    ),
}


def spoken_manifest(folder: Path, language: str) -> Path:
    """Six sentences of each of four synthetic children."""
    group = Group((language,), (140, 160), (40, 60), (40, 60), (0, 2), (40, 50), accented)
    rows = []
    (folder / "audio").mkdir(parents=True)
    for number in range(4):
        child = Speaker(f"C{number}", "train", "5-7", language, 140 + 5 * number, 40 + 5 * number, 50, 1, 45, 0.5)
        for text, samples, rate in speak(child, group, SENTENCES[language], seed=number):
            name = f"audio/{child.id}_{len(rows)}.wav"
            soundfile.write(folder / name, np.asarray(samples), rate)
            fields = {"utterance_id": f"U{len(rows)}", "child_id": child.id, "audio_path": name, "age_bucket": "5-7"}
            rows.append({**fields, "orthographic_text": text})
    write_manifest(folder / "train.jsonl", rows)
    return folder


@pytest.mark.parametrize("language", SENTENCES)
def test_a_language_other_than_english_goes_all_the_way(tmp_path, language):
    words = [*("--config", str(CONFIGS / "run_children_pipeline" / "quick.yaml")), *("--model", str(BASE))]
    words += ["--data", str(spoken_manifest(tmp_path / "data", language)), "--output_dir", str(tmp_path / "run")]
    words += [f"--language={language}", "--val_ratio=0.25", "--num_train_epochs=2", "--learning_rate=1e-5"]
    words += ["--full_context_fraction=0", "--max_samples=16", "--num_bootstrap=20", "--num_beams=1"]
    results = run_children_pipeline.main(
        [*words, "--stage_options", "finetune_whisper.report_to=none", "pack_submission.max_samples=2"]
    )
    model = tmp_path / "run" / "model"
    processor = WhisperProcessor.from_pretrained(model)
    assert GenerationConfig.from_pretrained(model).language == language
    prompt = processor.tokenizer.convert_ids_to_tokens(processor.tokenizer.prefix_tokens)
    assert f"<|{language}|>" in prompt and "<|transcribe|>" in prompt
    systems = results["evaluation"]["systems"]
    assert {row["normalizer"] for row in systems.values()} == {"unicode"}
    assert systems["zero_shot"]["wer"] < 0.8  # it hears the language, and is scored in it
    assert systems["finetuned_30s"]["wer"] < 0.5  # after four steps; on short audio it still repeats itself
    heard = [json.loads(line) for line in (tmp_path / "run" / "transcripts" / "finetuned.jsonl").open()]
    assert any(not row["orthographic_text"].isascii() for row in heard)  # letters that English lacks
