"""Speech and IPA from text by eSpeak NG, through ctypes, from the wheel `espeakng-loader`."""

import _ctypes
import ctypes
import importlib.util
import shutil
import tempfile
from pathlib import Path

import numpy as np

from hf_components.runtime import UserError

# Constants of https://github.com/espeak-ng/espeak-ng/blob/master/src/include/espeak-ng/speak_lib.h
SYNCHRONOUS_RETRIEVAL = 2
DONT_EXIT = 0x8000
POSITION_CHARACTER = 1
UTF8 = 1
IPA = 2
RATE = 1
PITCH = 3
RANGE = 4
WORD_GAP = 7

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class EspeakNg:
    """A synthesiser, used as a context manager. The same sequence of calls gives the same bits in every instance.

    eSpeak NG keeps its state in global variables that no call resets: flutter and phases continue in the next
    utterance. So every instance loads its own copy of the library. The folder of the copy also gives the data a short
    path, since eSpeak NG cuts paths at 160 bytes.
    """

    def __init__(self):
        if importlib.util.find_spec("espeakng_loader") is None:
            raise UserError('the speech synthesiser is not installed: pip install "underheard[demo]"')
        import espeakng_loader

        self._folder = tempfile.TemporaryDirectory(prefix="espeak")
        library = shutil.copy(espeakng_loader.get_library_path(), self._folder.name)
        data = Path(self._folder.name) / "data"
        data.symlink_to(espeakng_loader.get_data_path())
        self._library = ctypes.CDLL(library)
        self._chunks: list[np.ndarray] = []
        self._callback = _Callback(self._collect)  # the library does not keep it alive
        self.sample_rate = self._library.espeak_Initialize(SYNCHRONOUS_RETRIEVAL, 0, str(data).encode(), DONT_EXIT)
        if self.sample_rate <= 0:
            raise UserError(f"eSpeak NG cannot read its data at {data}; set TMPDIR to a folder with a short path")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # for breath noise; the default is the time of day
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> "EspeakNg":
        return self

    def __exit__(self, *_) -> None:
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)
        self._folder.cleanup()

    def synthesise(
        self, text: str, voice: str, rate: int = 175, pitch: int = 50, pitch_range: int = 50, word_gap: int = 0
    ) -> np.ndarray:
        """Speak `text`.

        Args:
            voice: language and, after a plus sign, a variant: "en-us+f3".
            rate: words per minute, 80 to 450.
            pitch, pitch_range: 0 to 100.
            word_gap: additional pause between words, in units of 10 ms at the default rate.
        Returns:
            mono samples at `self.sample_rate` Hz, int16.
        Raises:
            UserError: the voice does not exist.
        """
        self._choose(voice)
        for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range), (WORD_GAP, word_gap)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks = []
        encoded = text.encode() + b"\0"
        self._library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, POSITION_CHARACTER, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate([np.zeros(0, np.int16), *self._chunks])

    def phonemes(self, text: str, voice: str) -> list[str]:
        """What `text` sounds like in IPA, with stress: a string for each clause.

        Args:
            voice: language and, after a plus sign, a variant: "en-us".
        Raises:
            UserError: the voice does not exist.
        """
        self._choose(voice)
        of_clause = self._library.espeak_TextToPhonemes
        of_clause.restype = ctypes.c_char_p
        rest = ctypes.c_char_p(text.replace("\0", " ").encode())
        clauses = []
        while rest.value:  # the call moves it behind the clause, and sets it to NULL after the last
            clauses.append((of_clause(ctypes.byref(rest), UTF8, IPA) or b"").decode())
        return [clause for clause in map(str.strip, clauses) if clause]

    def _choose(self, voice: str) -> None:
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"eSpeak NG has no voice {voice!r}; give one such as en-us, de or fr")

    def _collect(self, samples, count: int, events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0
