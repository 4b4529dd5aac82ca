"""Error rates, and comparisons of systems."""

from hf_components.scoring.comparison import distinct_names, evaluate, plot_evaluation, tables
from hf_components.scoring.consensus import (
    NOTHING,
    Alignment,
    align_words,
    disagreement,
    nearest_to_all,
    normalized,
    vote,
)
from hf_components.scoring.error_rates import (
    compare,
    normalizer_of,
    paired_bootstrap,
    score,
    utterance_errors,
    word_error_rate,
)
from hf_components.scoring.sap import RATES, has_markup, sap_counts, score_sap
from hf_components.scoring.sap_evaluation import (
    evaluate_sap,
    groups_not_scored,
    read_hypotheses,
    sap_references,
    sap_tables,
    write_hypotheses,
)
from hf_components.scoring.sap_text import reference_texts
from hf_components.scoring.transcripts import align, read_transcripts, references_of_corpus, references_of_manifest
