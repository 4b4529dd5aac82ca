"""The comparisons of an export with faster-whisper and transformers in their smallest form."""

import json

import pytest
from make_corpus import children_corpus
from paths import ROOT

from recipes import prepare_corpus

pytest.importorskip("faster_whisper", reason="pip install faster-whisper")

from benchmarks import one_fast_file, serving

pytestmark = pytest.mark.slow

WHISPER = ROOT / "models" / "whisper-tiny.en"


@pytest.fixture
def corpus(tmp_path):
    if not WHISPER.exists():
        pytest.skip(f"there is no {WHISPER}; recipes/import_whisper.py makes it")
    source = children_corpus(tmp_path / "source", children=4)
    words = ["--builder=jsonl_manifest", "--val_ratio=0.5", "--data_dir", str(source)]
    prepare_corpus.main([*words, "--output_dir", str(tmp_path / "corpus")])
    return tmp_path / "corpus"


def test_all_transcribe_the_same_files_and_are_scored(corpus, capsys):
    words = ["--clips=1", "--timed_clips=1", "--repeats=1", "--quantization=float32", "--max_new_tokens=5"]
    found = serving.main(["--model", str(WHISPER), "--data", str(corpus), "--batches", *words])
    assert set(found["milliseconds_per_clip"]) == {
        "transformers, 30 s, batches",
        "transformers, own length, batches",
        "faster-whisper, 30 s, float32",
        "CTranslate2, 30 s, batches, float32",
        "our export, own length, float32",
    }
    assert set(found["wer"]) == {"faster-whisper, 30 s, float32", "our export, own length, float32"}
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert found["speedup_over_faster_whisper"] > 0 and found["min_audio_context"] == 600


def test_a_system_beside_its_export_and_its_base(corpus, capsys):
    words = ["--clips=1", "--quantization=float32", "--max_new_tokens=5"]
    found = one_fast_file.main(["--systems", str(WHISPER), "--base", str(WHISPER), "--data", str(corpus), *words])
    assert len(found) == 3
    assert all(
        row["cpu_ms"] > 0 and row["first_text_ms"] > 0 and row["peak_mb"] > 100 and row["megabytes"] > 10
        for row in found.values()
    )
    assert "peak MB" in capsys.readouterr().out
