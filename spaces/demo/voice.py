"""A personal voice, learned on this machine from sentences that are read aloud one by one.

It needs Underheard itself, as `make demo` has it; a Space that only has the files of the demo shows why it cannot.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from checkpoints import IS_INSTALLED

MISSING = "Learning a voice needs Underheard installed beside this page: clone it and run `make demo`."
SENTENCES = (
    "Please turn on the light in the kitchen.",
    "I would like a glass of water.",
    "Call my sister tomorrow morning.",
    "The weather is better than yesterday.",
    "Can you read the last message to me?",
    "I am going to the garden now.",
)
SEED = 42
SPEAKER = "this speaker"
CHOSEN = {
    "no change": "Nothing that was tried helped, so the recogniser stays as it is. More sentences may help.",
    "weights": "The experts of the recogniser were weighted for this voice.",
    "context": "Some of the sentences now go before each recording, as examples of the voice.",
    "lora": "A small LoRA was trained on the sentences.",
    "vote": "The recogniser, sentences as examples, and a small LoRA now vote on every word.",
}


class Learnt(NamedTuple):
    """A voice in memory: nothing of it is written to disk.

    Args:
        name: checkpoint that it is a voice over.
        voice: the voice.
        remark: what was chosen, and warnings.
    """

    name: str
    voice: Any
    remark: str


@functools.lru_cache(maxsize=1)
def load(name: str) -> tuple:
    """Model and processor of a Whisper. Raises ValueError if it is none."""
    from hf_components.asr import load_asr
    from hf_components.runtime import UserError

    try:
        return load_asr(name)
    except UserError as error:
        raise ValueError(str(error)) from error


def learn(name: str, texts: Sequence[str], waveforms: Sequence[np.ndarray]) -> Learnt:
    """Learn a voice.

    Args:
        texts, waveforms: what was read, and float32 (samples,) at 16 kHz each.
    Raises:
        ValueError: something is wrong with the sentences, or the checkpoint is no Whisper.
    """
    if not IS_INSTALLED:
        raise ValueError(MISSING)
    from hf_components.runtime import UserError
    from hf_components.voices import Sentence, VoiceArguments, check_sentences, check_texts, learn_voice

    model, processor = load(name)
    sentences = [
        Sentence(f"sentence {number}", waveform, text)
        for number, (text, waveform) in enumerate(zip(texts, waveforms, strict=True), start=1)
    ]
    try:
        warnings = check_sentences(SPEAKER, sentences) + check_texts(model, processor, SPEAKER, sentences)
        learned = learn_voice(model, processor, SPEAKER, sentences, VoiceArguments(), SEED)
    except UserError as error:
        raise ValueError(str(error)) from error
    remark = f"**Learned** from {len(sentences)} sentences in {learned.seconds:.0f} s. {CHOSEN[learned.voice.way]}"
    return Learnt(name, learned.voice, "\n\n".join([remark, *(f"Note: {warning}." for warning in warnings)]))


def before_and_after(learnt: Learnt, waveform: np.ndarray) -> tuple[str, str]:
    """Texts of a recording `(samples,)` by the checkpoint as it is, and with the voice."""
    from hf_components.asr import Transcriber, Voices

    model, processor = load(learnt.name)
    voices = Voices(model, {SPEAKER: learnt.voice}, {SPEAKER: "this page"})
    before = Transcriber(model, processor).transcribe_waveform(waveform)
    return before, Transcriber(model, processor, voices=voices).transcribe_waveform(waveform)
