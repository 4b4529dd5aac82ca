"""`TranscriptCorrector`: an instruct model that corrects transcripts in batches, within limits.

from hf_components.correction.corrector import TranscriptCorrector
corrector = TranscriptCorrector.from_pretrained("mistralai/Mistral-7B-Instruct-v0.3")
print(corrector.correct(["i red the hole book"])[0].text)
"""

import copy
import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_components.asr import Recordings
from hf_components.checkpoints import choose_dtype, load_llm
from hf_components.correction import prompt
from hf_components.correction.gate import LIMITS, GateLimits, gate
from hf_components.correction.prompt import Guess
from hf_components.runtime import Progress, UserError

logger = logging.getLogger(__name__)

FAST_TOKENS, TOKENS = 128, 512
PROBES = ("a", "1")  # the common prefix of these two requests is the prefix of all requests
EXAMPLE = "i would like to by sum bred"


@dataclasses.dataclass
class Correction:
    """The result for one transcript.

    Args:
        heard: text of the recogniser, the most likely one of several.
        alternatives: its other texts.
        shown: these texts as the LLM got them, with the confidences of their words.
        proposed: reply of the LLM; None if it was not asked.
        text: final text: the reply if the gate accepted it, else `heard`.
        accepted: whether the gate accepted the reply, which may be unchanged.
        reason: "corrected", "unchanged", or the reason for a rejection.
        seconds: its share of the time of its batch.
    """

    heard: str
    alternatives: list[str]
    shown: list[str]
    proposed: str | None
    text: str
    accepted: bool
    reason: str
    seconds: float


class TranscriptCorrector:
    """An instruct model that gets the texts of a recogniser, and a gate that checks its replies.

    Decoding is greedy. The part that all requests share (instructions and examples) is computed once and kept.

    Args:
        model: model in evaluation mode, on its device.
        tokenizer: tokenizer with a chat template.
        alphabet: characters that the recogniser can write, including the space; None if it can write any character.
        limits: limits of the gate.
        batch_size: transcripts per batch.
        fast_mode: allow 128 tokens per transcript, else 512. Longer transcripts keep the recogniser's text.
        name: name of the model for the records of `correct_to_file`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        alphabet: frozenset[str] | None = None,
        limits: GateLimits = LIMITS,
        batch_size: int = 16,
        fast_mode: bool = True,
        name: str = "",
    ):
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.tokenizer = tokenizer
        self.alphabet = alphabet
        self.limits = limits
        self.batch_size = batch_size
        self.max_tokens = FAST_TOKENS if fast_mode else TOKENS
        self.name = name
        # A new configuration, because those of checkpoints have settings for sampling and penalties for repetition.
        ends = model.generation_config.eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        self._ends = set(ends) if isinstance(ends, list) else {ends}
        self._padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=self._padding)
        self._shared: list[int] = []
        self._cache: DynamicCache | None = None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        gguf_file: str | None = None,
        quantization: str = "auto",
        dtype: str = "auto",
        device: str | torch.device | None = None,
        **options,
    ) -> "TranscriptCorrector":
        """Load an instruct model.

        Args:
            name: folder or Hub id.
            gguf_file: name of the file in it, for a checkpoint in GGUF format.
            quantization: 4bit, none, or auto: 4bit on CUDA if bitsandbytes is installed.
            dtype: float32, float16, bfloat16 or auto: half precision on a GPU, float32 elsewhere.
            device: device of the model; by default that of this process.
            options: other arguments of the class.
        Raises:
            UserError: the model cannot be loaded, or is not an instruct model; the message says what to do.
        """
        device = torch.device(device) if device is not None else PartialState().device
        model, tokenizer = load_llm(str(name), gguf_file, quantization, choose_dtype(dtype, device), device)
        return cls(model, tokenizer, name=str(name) if gguf_file is None else f"{name}/{gguf_file}", **options)

    def warm_up(self) -> float:
        """Correct an example, so that one-time computations do not count for the first transcript. Returns seconds."""
        start = time.perf_counter()
        self.correct([EXAMPLE])
        return time.perf_counter() - start

    def correct(self, texts: Sequence[str | Sequence[str | Guess]]) -> list[Correction]:
        """Correct transcripts.

        Args:
            texts: per recording the text of the recogniser, or a list of guesses, the most likely first. Those may
                say how probable their words are, see `hf_components.correction.prompt.Guess`.
        Returns:
            corrections in the same order.
        Raises:
            UserError: a batch does not fit into the memory.
        """
        found = {i: correction for batch in self.stream(texts, range(len(texts))) for i, correction in batch}
        return [found[i] for i in range(len(texts))]

    def stream(
        self, texts: Sequence[str | Sequence[str | Guess]], indices: Sequence[int], progress: bool = False
    ) -> Iterator[list[tuple[int, Correction]]]:
        """Correct the texts at `indices`: pairs of index and correction, batch by batch, the longest first."""
        recordings = {i: prompt.as_guesses(texts[i]) for i in indices}
        lines = {i: [prompt.shown(guess) for guess in recordings[i]] for i in indices}
        lengths = {i: self._tokens(lines[i]) for i in indices}
        idle = {
            i: _not_asked(
                recordings[i],
                lines[i],
                f"too long: {length} tokens, at most {self.max_tokens} are allowed" if length else "nothing heard",
            )
            for i, length in lengths.items()
            if not 0 < length <= self.max_tokens
        }
        if idle:
            yield list(idle.items())
        order = sorted(lengths.keys() - idle.keys(), key=lambda i: (-lengths[i], i))
        with Progress(total=len(order), desc="correcting", unit="transcript", disable=not progress) as bar:
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                started = time.perf_counter()
                # The gate would reject a longer reply.
                longest = math.ceil(self.limits.max_length_ratio * max(lengths[i] for i in batch)) + 8
                replies = self._replies(batch, [lines[i] for i in batch], min(longest, self.max_tokens))
                seconds = round((time.perf_counter() - started) / len(batch), 3)
                yield [
                    (i, self.decide(recordings[i], lines[i], *reply, seconds))
                    for i, reply in zip(batch, replies, strict=True)
                ]
                bar.update(len(batch))

    def decide(
        self, guesses: Sequence[Guess], lines: list[str], reply: str, finished: bool, seconds: float
    ) -> Correction:
        """The correction for a reply, which must pass the gate for at least one of the guesses.

        Where confidences of words are known, what passes for the first guess is taken, stretch by stretch.

        Args:
            lines: the guesses as they were shown.
            finished: whether the LLM ended the reply itself.
        """
        heard, *others = [guess.text for guess in guesses]
        if not finished:
            return Correction(heard, others, lines, reply, heard, False, "cut off: the reply did not end", seconds)
        partly = guesses[0].confidences is not None
        proposed = prompt.without_numbers(reply) if partly else reply
        verdicts = [
            gate(text, proposed, self.alphabet, self.limits, partly=partly)
            for text in ([heard] if partly else [heard, *others])
            if text.strip()
        ]
        best = next((verdict for verdict in verdicts if verdict.accepted), verdicts[0])
        if not best.accepted:
            return Correction(heard, others, lines, reply, heard, False, best.reason, seconds)
        reason = "unchanged" if best.text == heard else "corrected"
        return Correction(heard, others, lines, reply, best.text, True, reason, seconds)

    def hear(self, recordings: Recordings) -> None:
        """Give the recordings, in the order of the texts, to an LLM that hears; this one does not."""

    def _replies(
        self, indices: Sequence[int], lines: Sequence[list[str]], max_new_tokens: int
    ) -> list[tuple[str, bool]]:
        """Replies to a batch of texts, and whether each one ended within `max_new_tokens`."""
        return self._ask([self._request(own) for own in lines], max_new_tokens)

    def _tokens(self, lines: Sequence[str]) -> int:
        """Number of tokens of the longest text in the request, without the confidences of its words."""
        texts = [prompt.without_numbers(line) for line in lines]
        return max(len(self.tokenizer(text, add_special_tokens=False).input_ids) for text in texts)

    def _request(self, lines: Sequence[str]) -> list[int]:
        # Switches off reasoning in models that have it by default; other templates ignore it.
        return self.tokenizer.apply_chat_template(
            prompt.conversation(lines), add_generation_prompt=True, enable_thinking=False
        )["input_ids"]

    @torch.inference_mode()
    def _ask(self, requests: list[list[int]], max_new_tokens: int) -> list[tuple[str, bool]]:
        """Greedy replies, and whether each one ended within `max_new_tokens`."""
        shared = len(os.path.commonprefix([*(self._request([text]) for text in PROBES), *requests]))
        width = max(map(len, requests))
        # The padding is between the shared part, where the cache ends, and the rest.
        rows = [(request, width - len(request)) for request in requests]
        tokens = torch.tensor([request[:shared] + [self._padding] * gap + request[shared:] for request, gap in rows])
        mask = torch.tensor([[1] * shared + [0] * gap + [1] * (len(request) - shared) for request, gap in rows])
        try:
            cache = copy.deepcopy(self._prefix_cache(requests[0][:shared]))
            cache.batch_repeat_interleave(len(requests))
            written = self.model.generate(
                input_ids=tokens.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                past_key_values=cache,
                max_new_tokens=max_new_tokens,
            )[:, width:]
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"a batch of {len(requests)} transcripts does not fit into the memory of {self.model.device}: "
                f"lower --llm_batch_size, now {self.batch_size}"
            ) from error
        return [self._read(row) for row in written.tolist()]

    def _prefix_cache(self, shared: list[int]) -> DynamicCache:
        if self._cache is None or shared != self._shared:
            cache = DynamicCache(config=self.model.config)
            self.model(
                input_ids=torch.tensor([shared], device=self.model.device), past_key_values=cache, logits_to_keep=1
            )
            self._shared = shared
            self._cache = cache
        return self._cache

    def _read(self, row: list[int]) -> tuple[str, bool]:
        end = next((i for i, token in enumerate(row) if token in self._ends), None)
        return self.tokenizer.decode(row[:end], skip_special_tokens=True).strip(), end is not None


def _not_asked(guesses: Sequence[Guess], lines: list[str], reason: str) -> Correction:
    heard, *others = [guess.text for guess in guesses]
    return Correction(heard, others, lines, None, heard, False, reason, 0.0)
