"""Learn acoustic units from a corpus of any length, and write the units of its segments."""

from hf_components.units.learning.features import FeatureStream, load_encoder, pad_waveforms
from hf_components.units.learning.kmeans import MiniBatchKMeans, assign, kmeans_plus_plus
from hf_components.units.learning.learner import SAMPLE, SAMPLE_PER_UNIT, finished, learn_centroids
from hf_components.units.learning.phone_labels import (
    Phones,
    in_order,
    open_textgrid,
    phone_of,
    read_eaf,
    read_phone_labels,
    recording_key,
)
from hf_components.units.learning.plan import plan_steps
from hf_components.units.learning.quality import label_free_figures, phone_agreement, plot_sweep
from hf_components.units.learning.segments import load_segments
from hf_components.units.learning.usage import plot_usage, usage_table
from hf_components.units.learning.writing import BPE_SPLIT, join_units, write_units
