"""Audio and corpora: audio files, prepared corpora, samples, splits, segments, batches."""

from hf_components.speech.audio import (
    SAMPLING_RATE,
    SOUND_SUFFIXES,
    AudioError,
    change_speed,
    count_mel_frames,
    decode,
    encode_flac,
    encode_wav,
    encode_wav_file,
    log_mel,
    read_duration,
    stream,
)
from hf_components.speech.batching import duration_batches, seconds_batches
from hf_components.speech.copies import bare_name, copies_by_name, copies_by_sound, sound_print
from hf_components.speech.corpus import (
    content_digest,
    is_prepared,
    load_corpus,
    require_splits,
    sample_rows,
    summarise_corpus,
    waveforms,
)
from hf_components.speech.cutting import cut_at_quiet
from hf_components.speech.espeak_ng import EspeakNg
from hf_components.speech.folds import SELECTION
from hf_components.speech.languages import language_code, language_flag
from hf_components.speech.plain_text import has_words, plain_text
from hf_components.speech.readable import leave_out_unreadable, require_readable, unreadable_explained, unreadable_flag
from hf_components.speech.sampling import SAMPLING, Sampling, at_most_rows, check_sampling, rank, sample
from hf_components.speech.segmenting import SILENCE, SPEECH, TOO_SHORT, Segmentation, Stretch, cut_at, segment
from hf_components.speech.speakers import UNKNOWN, count_speakers, describe_dev, is_known, known_speakers, say_speakers
from hf_components.speech.splits import (
    ALL,
    DEV,
    LARGE_DEVIATION,
    LONG,
    TRAIN,
    check_val_ratio,
    connected,
    hold_out,
    read_split,
    report_split,
    split_recordings,
    split_speakers,
)
from hf_components.speech.targets import TARGETS, WORDS, TargetArguments, count_from_words, to_ipa
