"""Speech recognition with any model.

    from hf_components.asr import Transcriber
    print(Transcriber.from_pretrained("openai/whisper-small").transcribe("audio.wav"))

`families` defines inputs and outputs of each kind of model; `Transcriber` works with all of them.
"""

from hf_components.asr.ctc import Ctc, writable
from hf_components.asr.ctc_from_scratch import NetworkArguments, build_wav2vec2
from hf_components.asr.export_check import compare_with_export, texts_of_ctranslate2
from hf_components.asr.families import can_be_packed, family_of, is_audio_llm, load_asr
from hf_components.asr.family import Family, Scores
from hf_components.asr.language_model import LanguageModel
from hf_components.asr.nbest import CHOICES, n_best_family
from hf_components.asr.new_head import with_ctc_head
from hf_components.asr.outside import Recogniser, load_recogniser
from hf_components.asr.packing import estimated_seconds, load_packable, run_package, write_package
from hf_components.asr.recordings import Files, Recordings, Rows
from hf_components.asr.sapc2_packing import KITS, TIME_LIMITS, run_sapc2_package, write_sapc2_package
from hf_components.asr.transcriber import Transcriber, transcribe
from hf_components.asr.transcript import Heard, Transcript
from hf_components.asr.transcripts import (
    check_same_ids,
    read_finished,
    read_submission_format,
    read_words,
    transcribe_to_file,
)
from hf_components.asr.voices import PAUSE, Voices, load_voices, with_slots
from hf_components.asr.whisper import Whisper
from hf_components.asr.words import Word
