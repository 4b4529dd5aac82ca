"""The benchmark in its smallest form: requests share most of their tokens, which are computed once or every time."""

import pytest
from tiny_llm import save_tiny_llm

from benchmarks import transcript_correction

pytestmark = pytest.mark.integration


def test_transcript_correction(tmp_path):
    found = transcript_correction.main(
        ["--llm", str(save_tiny_llm(tmp_path)), "--transcripts", "4", "--batch_size", "2", "--repeats", "1"]
    )
    alone, kept, batched = (found[name]["flops"] for name in found)
    assert alone > 1.5 * kept
    assert batched == pytest.approx(kept, rel=0.3)  # but for padding
