"""Recognisers that are no transformers model: PocketSphinx, whose errors are unlike those of a network."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from accelerate import PartialState

from hf_components.asr.recordings import Recordings
from hf_components.asr.transcriber import Transcriber
from hf_components.asr.transcript import Transcript
from hf_components.asr.words import Word
from hf_components.runtime import Progress, UserError, packaged_weights, share_of
from hf_components.speech import SAMPLING_RATE, WORDS, AudioError

POCKETSPHINX = "pocketsphinx"
FRAMES_PER_SECOND = 100
# On 15 clean clips the text is as good as with the defaults, in half the time; on noise it is five times as fast.
FAST = {"fwdflat": False, "maxhmmpf": 3000, "maxwpf": 20}
NOT_SAID = ("<", "[", "+")  # first characters of silences and noises


class PocketSphinx:
    """PocketSphinx with the English models of its wheel: poor, but independent, with times and confidences.

    It has what `transcribe_to_file` asks of a `Transcriber`.

    Raises:
        UserError: the package is not installed.
    """

    name = POCKETSPHINX
    target = WORDS

    @cached_property
    def decoder(self):
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise UserError("the recogniser pocketsphinx is not installed: pip install 'underheard[demo]'") from error
        packaged_weights("pocketsphinx", "model/en-us")
        return Decoder(samprate=SAMPLING_RATE, loglevel="FATAL", **FAST)

    def stream(self, recordings: Recordings, description: str = "pocketsphinx") -> Iterator[list[Transcript]]:
        """This process's share of the transcripts, each as soon as it is there."""
        state = PartialState()
        mine = share_of(range(len(recordings.ids)))
        for i in Progress(mine, desc=description, unit="recording", disable=not state.is_main_process):
            try:
                clip = recordings.read(i)
            except AudioError as error:
                yield [Transcript(recordings.ids[i], "", 0.0, error.problem)]
                continue
            words = self.words(clip)
            text = " ".join(word.text for word in words)
            yield [Transcript(recordings.ids[i], text, len(clip) / SAMPLING_RATE, words=words)]

    def seconds_by_part(self) -> dict[str, float]:
        """Nothing: its parts are not told apart."""
        return {}

    def words(self, waveform: np.ndarray) -> list[Word]:
        """The words of float32 `(samples,)` at 16 kHz."""
        pcm = (np.clip(waveform, -1, 1) * np.iinfo(np.int16).max).astype("<i2")
        self.decoder.start_utt()
        self.decoder.process_raw(pcm.tobytes(), full_utt=True)
        self.decoder.end_utt()
        return [
            Word(
                segment.word.partition("(")[0],  # "to(2)" is "to" in its second pronunciation
                float(np.clip(segment.prob, 0, 1)),
                segment.start_frame / FRAMES_PER_SECOND,
                (segment.end_frame + 1) / FRAMES_PER_SECOND,
            )
            for segment in self.decoder.seg() or ()
            if not segment.word.startswith(NOT_SAID)
        ]


Recogniser = Transcriber | PocketSphinx


def load_recogniser(name: str | Path, **options) -> Recogniser:
    """A recogniser by its name: "pocketsphinx", or what `Transcriber.from_pretrained` takes, with its options."""
    return PocketSphinx() if str(name) == POCKETSPHINX else Transcriber.from_pretrained(name, **options)
