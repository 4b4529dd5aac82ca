"""Fine-tuning a wav2vec2 on corrected transcripts: gold texts, choice of training data, measured improvement."""

from hf_components.correction.finetuning.consensus import write_gold
from hf_components.correction.finetuning.gold import (
    ASKED,
    GoldArguments,
    choose_for_training,
    estimates,
    find_gold,
    make_samples,
    training_rows,
)
from hf_components.correction.finetuning.improvement import describe, examples, improve, measure, summary
from hf_components.correction.finetuning.judging import judge
from hf_components.correction.finetuning.release import (
    ADAPTER,
    BASE,
    FINETUNED,
    MODEL,
    RESULTS,
    TITLE,
    add_to_finetuned,
    keep_unreleased,
    publish_finetuned,
    release_wav2vec2,
)
from hf_components.correction.finetuning.run import (
    Wav2Vec2Arguments,
    Wav2Vec2TrainingArguments,
    guess_rows,
    hear_all,
    transcribe_rows,
    work_of,
)
