"""Fine-tuning a wav2vec2 on corrected transcripts: gold texts, choice of training data, measured improvement."""

from hf_components.correction.finetuning.consensus import write_gold
from hf_components.correction.finetuning.gold import ASKED, GoldArguments, estimates
from hf_components.correction.finetuning.improvement import describe, improve, measure, summary
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
from hf_components.correction.finetuning.rounds import Rounds, best_of
from hf_components.correction.finetuning.run import Wav2Vec2Arguments, Wav2Vec2TrainingArguments, work_of
