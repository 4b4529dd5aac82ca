"""Sound and corpora: audio files (opened here alone), prepared corpora, samples, splits, segments, batches."""

from hf_components.speech.audio import (
    SAMPLING_RATE,
    AudioError,
    count_mel_frames,
    decode,
    encode_flac,
    encode_wav,
    log_mel,
    read_duration,
    stream,
)
from hf_components.speech.batching import duration_batches, seconds_batches
from hf_components.speech.corpus import LONG, describe_corpus, is_prepared, load_corpus, sample_rows, waveforms
from hf_components.speech.cutting import cut_at_quiet
from hf_components.speech.sampling import Sampling, check_sampling, rank, sample
from hf_components.speech.segmenting import SILENCE, SPEECH, TOO_SHORT, Segmentation, Stretch, segment
from hf_components.speech.splits import (
    ALL,
    DEV,
    TRAIN,
    check_val_ratio,
    hold_out,
    read_split,
    report_split,
    split_speakers,
)

__all__ = [
    "ALL",
    "AudioError",
    "DEV",
    "LONG",
    "SAMPLING_RATE",
    "SILENCE",
    "SPEECH",
    "Sampling",
    "Segmentation",
    "Stretch",
    "TOO_SHORT",
    "TRAIN",
    "check_sampling",
    "check_val_ratio",
    "count_mel_frames",
    "cut_at_quiet",
    "decode",
    "describe_corpus",
    "duration_batches",
    "encode_flac",
    "encode_wav",
    "hold_out",
    "is_prepared",
    "load_corpus",
    "log_mel",
    "rank",
    "read_duration",
    "read_split",
    "report_split",
    "sample",
    "sample_rows",
    "seconds_batches",
    "segment",
    "split_speakers",
    "stream",
    "waveforms",
]
