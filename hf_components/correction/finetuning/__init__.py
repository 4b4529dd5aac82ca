"""Fine-tuning a wav2vec2 on corrected transcripts: gold texts, choice of training data, measured improvement."""

from hf_components.correction.finetuning.arguments import ASKED, FinetuningFlags, GoldArguments, work_of
from hf_components.correction.finetuning.gold import write_gold
from hf_components.correction.finetuning.improvement import describe, summary
from hf_components.correction.finetuning.release import (
    ADAPTER,
    BASE,
    FINETUNED,
    MODEL,
    RESULTS,
    add_to_finetuned,
    keep_unreleased,
    publish_finetuned,
    release_wav2vec2,
)
from hf_components.correction.finetuning.results import results_of
from hf_components.correction.finetuning.rounds import Rounds, best_of
