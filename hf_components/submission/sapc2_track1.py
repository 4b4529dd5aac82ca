"""The model of a submission to track 1 of the SAP challenge (SAPC2): one recording at a time, to text.

The organisers' program imports `Model` from `model.py` in the root of the zip. Everything else is in the folder of
this file: `main.py`, and the weights in `model`.
"""

from .main import cut, decode, load_model, log, read_audio


class Model:
    """The model in the folder `model`, loaded once."""

    def __init__(self):
        self.model, self.processor = load_model()

    def predict(self, wav_path: str) -> str:
        """Text of a recording of any length, "" if it cannot be read: one bad file must not cost all others.

        Args:
            wav_path: path of a sound file of any rate and any number of channels.
        """
        try:
            pieces = list(cut(read_audio(wav_path)))
        except Exception as error:
            log(f"{wav_path} cannot be read and has an empty text: {error!r}")
            return ""
        return " ".join(decode(self.model, self.processor, [piece])[0].strip() for piece in pieces).strip()
