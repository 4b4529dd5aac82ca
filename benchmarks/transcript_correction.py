"""Correction of transcripts in batches or one by one, with the shared start of requests computed once or each time.

OMP_NUM_THREADS=1 python benchmarks/transcript_correction.py --llm models/smollm2 \\
    --gguf_file SmolLM2-135M-Instruct.Q4_1.gguf

The transcripts are sentences of the demo corpus, without capitals and punctuation, in the order they are drawn.
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.side_by_side import Work, compare
from dataset_scripts.demo_sentences import word_sentences
from hf_components.correction import TranscriptCorrector


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", required=True, help="instruct model: folder or Hub id")
    parser.add_argument("--gguf_file", help="file in it")
    parser.add_argument("--transcripts", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args(argv)

    corrector = TranscriptCorrector.from_pretrained(args.llm, gguf_file=args.gguf_file, batch_size=args.batch_size)
    corrector.warm_up()
    heard = list(itertools.islice(word_sentences("Dev", np.random.default_rng(0), 12), args.transcripts))

    def one_by_one(kept: bool) -> None:
        for text in heard:
            if not kept:
                corrector._shared = []  # empty, so that it is computed again
            corrector.correct([text])

    works = {
        "one by one": Work(lambda: one_by_one(kept=False), args.transcripts),
        "one by one, shared prefix kept": Work(lambda: one_by_one(kept=True), args.transcripts),
        f"batches of {args.batch_size}, shared prefix kept": Work(lambda: corrector.correct(heard), args.transcripts),
    }
    width = corrector.model.config.hidden_size
    inner = corrector.model.config.intermediate_size
    return compare(
        works,
        repeats=args.repeats,
        unit="transcript",
        profiled=args.profile,
        products=[(1, width, inner), (args.batch_size, width, inner)],
    )


if __name__ == "__main__":
    main()
