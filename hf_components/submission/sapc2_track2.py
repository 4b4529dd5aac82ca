"""The model of a submission to track 2 of the SAP challenge (SAPC2): audio in chunks of 100 ms, text as it is spoken.

The organisers' program imports `Model` from `model.py` in the root of the zip. Everything else is in the folder of
this file: `main.py`, and a Whisper in `model`.

Whisper is no streaming model, so it transcribes all audio so far again and again, every `partial_seconds`. Shown are
only words on which two transcripts in a row agree (local agreement: Liu et al. 2020, arXiv 2005.11185; Machacek et al.
2023, arXiv 2307.14743). The next transcript starts with them, so a word that was shown stays. The encoder gets the
audio so far with silence up to `context_seconds` instead of 30 s, which saves most of its time.
"""

import time

import numpy as np
import torch
from torch import nn

from .main import LONGEST, SAMPLING_RATE, SHORTEST, cut, load_model

QUIET = 1e-3  # root mean square of a chunk; until one is louder, nobody speaks, and a Whisper would invent words
TOKENS, TOKENS_PER_SECOND = 8, 10  # limit of a transcript's length, so that a loop on half a word ends soon
WORD = "\u0120"  # begins a token that begins a word


class Model:
    """One recording at a time: `reset`, `accept_chunk` for each chunk, `input_finished`."""

    def __init__(self):
        self.model, self.processor = load_model()
        self.settings = self.model.config.submission
        self.positions = self.model.get_encoder().embed_positions.weight
        self.prompt = prompt_of(self.model, self.processor.tokenizer)
        self.show = ignore
        self.reset()

    def set_partial_callback(self, callback) -> None:
        """Set the function that gets the text so far whenever it grows."""
        self.show = callback

    def reset(self) -> None:
        """Start a new recording."""
        self.waiting: list[np.ndarray] = []  # chunks that were not yet put into `audio`
        self.audio = np.zeros(0, np.float32)
        self.transcribed = 0  # samples of `audio` that the last transcript is of
        self.stable: list[int] = []  # tokens that were shown and stay
        self.latest: list[int] = []  # tokens of the last transcript
        self.before = ""  # text of audio before `audio`, in recordings longer than 30 s
        self.shown = ""
        self.spoken = False
        self.seconds = 0.0  # that the last transcript took

    def accept_chunk(self, audio_chunk: np.ndarray) -> str:
        """Take the next chunk of the recording, and return the text shown so far.

        Args:
            audio_chunk: float32 (samples,) at 16 kHz, in [-1, 1].
        """
        chunk = np.asarray(audio_chunk, np.float32)
        self.waiting.append(chunk)
        self.spoken = self.spoken or float(np.sqrt(np.mean(np.square(chunk)))) > QUIET
        new = len(self.audio) - self.transcribed + sum(map(len, self.waiting))
        # A slow machine transcribes less often, so that the audio does not pile up.
        if self.spoken and new >= SAMPLING_RATE * max(self.settings["partial_seconds"], 2 * self.seconds):
            self._listen()
        return self.shown

    def input_finished(self) -> str:
        """The text of the whole recording."""
        self._take()
        self.stable = self._write(self.audio)
        return self._text()

    def _listen(self) -> None:
        """Transcribe all audio so far, and show the words that agree with the transcript before it."""
        start = time.monotonic()
        self._take()
        tokens = self._write(self.audio)
        self.stable = agreed(self.latest, tokens, self.stable, self.processor.tokenizer)
        self.latest = tokens
        self.transcribed = len(self.audio)
        self.seconds = time.monotonic() - start
        if (text := self._text()) != self.shown:
            self.shown = text
            self.show(text)

    def _take(self) -> None:
        """Move the waiting chunks to the audio; what no longer fits into 30 s is finished, up to a quiet place."""
        self.audio = np.concatenate([self.audio, *self.waiting])
        self.waiting = []
        while len(self.audio) > LONGEST:
            piece = next(cut(self.audio))
            self.stable = []  # some of these words may be after the cut
            self.stable = self._write(piece)
            self.before = self._text()
            self.stable = []
            self.latest = []
            self.audio = self.audio[len(piece) :]
            self.transcribed = 0

    def _text(self) -> str:
        text = self.processor.tokenizer.decode(self.stable, skip_special_tokens=True)
        return f"{self.before} {text.strip()}".strip()

    @torch.inference_mode()
    def _write(self, audio: np.ndarray) -> list[int]:
        """Tokens of at most 30 s of audio; they begin with the stable ones."""
        hop = 2 * self.processor.feature_extractor.hop_length  # samples per position of the encoder
        samples = max(len(audio), int(SAMPLING_RATE * self.settings["context_seconds"]), SHORTEST)
        positions = min(-(-samples // hop), len(self.positions))
        features = self.processor.feature_extractor(
            audio, sampling_rate=SAMPLING_RATE, max_length=positions * hop, return_tensors="pt"
        ).input_features
        self._set_context(positions)
        encoded = self.model.get_encoder()(features.to(self.model.device, self.model.dtype))
        limit = TOKENS + int(TOKENS_PER_SECOND * len(audio) / SAMPLING_RATE)
        return greedy(self.model, encoded, self.prompt, self.stable, min(limit, self.settings["max_new_tokens"]))

    def _set_context(self, positions: int) -> None:
        """Let the encoder take fewer positions than the 1500 of 30 s; transformers checks their number."""
        encoder = self.model.get_encoder()
        if encoder.embed_positions.num_embeddings != positions:
            encoder.embed_positions = nn.Embedding.from_pretrained(self.positions[:positions])
            encoder.config.max_source_positions = positions


def ignore(text: str) -> None:
    """The callback before one is set."""


def prompt_of(model, tokenizer) -> list[int]:
    """Tokens before the text: start, language and task of a multilingual model, and no timestamps."""
    settings = model.generation_config
    if getattr(settings, "is_multilingual", False):
        tokenizer.set_prefix_tokens(language=settings.language or "en", task="transcribe", predict_timestamps=False)
    return list(tokenizer.prefix_tokens)


def greedy(model, encoded, prompt: list[int], begun: list[int], limit: int) -> list[int]:
    """The most probable tokens one by one, after those of `begun`, until the end of the text or `limit` tokens.

    Args:
        encoded: encoder outputs of one clip, `(1, positions, d_model)`.
        prompt, begun: tokens before the text, and its first tokens.
        limit: greatest number of tokens of the text.
    """
    settings = model.generation_config
    end = model.config.eos_token_id
    tokens = list(begun)
    inputs = torch.tensor([prompt + tokens], device=model.device)
    cache = None
    while len(tokens) < limit:
        output = model(encoder_outputs=encoded, decoder_input_ids=inputs, past_key_values=cache, use_cache=True)
        scores = output.logits[0, -1]
        scores[settings.suppress_tokens or []] = -torch.inf
        if not tokens:
            scores[settings.begin_suppress_tokens or []] = -torch.inf
        token = int(scores.argmax())
        if token >= end:  # the end, or a special token behind it: in a Whisper none belongs to the text
            break
        tokens.append(token)
        inputs = torch.tensor([[token]], device=model.device)
        cache = output.past_key_values
    return tokens


def agreed(earlier: list[int], later: list[int], stable: list[int], tokenizer) -> list[int]:
    """The whole words at the beginning of two transcripts that are the same in both; at least the stable ones."""
    same = 0
    while same < min(len(earlier), len(later)) and earlier[same] == later[same]:
        same += 1
    names = tokenizer.convert_ids_to_tokens(later)
    while same > len(stable) and (same == len(later) or not names[same].startswith(WORD)):
        same -= 1  # the next token may continue this word, and the last word may have been cut off
    return stable + later[len(stable) : same]
