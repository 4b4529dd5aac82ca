"""The comparison of faster-whisper with transformers in its smallest form."""

import pytest
from make_corpus import children_corpus
from paths import ROOT

from recipes import prepare_corpus

pytest.importorskip("faster_whisper", reason="pip install faster-whisper")

from benchmarks import serving

pytestmark = pytest.mark.slow

WHISPER = ROOT / "models" / "whisper-tiny.en"


def test_both_transcribe_the_same_clips_and_are_judged(tmp_path, capsys):
    if not WHISPER.exists():
        pytest.skip(f"there is no {WHISPER}; recipes/import_whisper.py makes it")
    prepare_corpus.main(
        [
            "--builder=jsonl_manifest",
            "--val_ratio=0.5",
            "--data_dir",
            str(children_corpus(tmp_path / "source", children=4)),
            "--output_dir",
            str(tmp_path / "corpus"),
        ]
    )
    found = serving.main(
        [
            "--model",
            str(WHISPER),
            "--corpus",
            str(tmp_path / "corpus"),
            "--clips=1",
            "--repeats=1",
            "--quantizations=float32",
            "--max_new_tokens=5",
        ]
    )
    assert list(found) == [
        "transformers, 30 s, clip by clip",
        "transformers, 30 s, batches of 8",
        "faster-whisper, float32",
    ]
    assert all(way["seconds"] > 0 and way["wer"] > 0 for way in found.values())  # noise has no words to get right
    assert "WER (%)" in capsys.readouterr().out
