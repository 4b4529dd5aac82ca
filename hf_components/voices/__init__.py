"""Voices: what a handful of one person's sentences changes about a recogniser.

The file of a voice is in `hf_components.checkpoints`, and transcribing with it in `hf_components.asr`.
"""

from hf_components.voices.arguments import VoiceArguments
from hf_components.voices.checks import check_sentences, check_texts
from hf_components.voices.evaluation import collect, draw_jobs, run_job
from hf_components.voices.learning import learn_voice
from hf_components.voices.release import release_voice, release_voices
from hf_components.voices.sentences import Sentence, is_folder_of_one, sentences_of_folder, sentences_of_rows
from hf_components.voices.untranscribed import guess_texts
