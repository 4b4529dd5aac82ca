"""A voice as an example: one of the person's sentences before each recording, and its text before each transcript.

Whisper was trained on 30 s of continuous speech. So it takes what it hears of a voice first, and what was said, into
account for the rest. Nothing is trained.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, WhisperProcessor

from hf_components.asr import PAUSE, Whisper
from hf_components.speech import log_mel
from hf_components.voices.batches import Batches, losses_of_rows
from hf_components.voices.placing import is_mixture

LONGEST_EXAMPLE = 10.0  # seconds; the longest recording that fits behind it has 20


@torch.no_grad()
def losses_in_context(
    model: PreTrainedModel, processor: WhisperProcessor, batches: Batches, sentences: Sequence[int]
) -> np.ndarray:
    """Summed token losses of each sentence after each example, `(examples, sentences)`.

    It is infinite for a sentence after itself, and where both are too long together. A mixture takes the weights of
    its plain model.
    """
    family = Whisper()
    count = len(sentences)
    found = np.full((count, count), np.inf)
    head = batches.labels[sentences[0]][: len(processor.tokenizer.prefix_tokens) - 1]
    end = processor.tokenizer.eos_token_id
    for place, row in enumerate(sentences):
        example = batches.sentences[row]
        said = [*head, *family.tokenize_text(processor, example.text)]
        room = model.config.max_target_positions - len(said) - 2
        others = [other for other in range(count) if other != place and batches.tokens[sentences[other]] <= room]
        if example.seconds > LONGEST_EXAMPLE or not others:
            continue
        waves = [np.concatenate([example.waveform, PAUSE, batches.sentences[sentences[i]].waveform]) for i in others]
        features = batches.fit([log_mel(processor.feature_extractor, [wave])[0] for wave in waves])
        texts = [
            [*family.tokenize_text(processor, batches.sentences[sentences[i]].text, follows=True), end] for i in others
        ]
        longest = max(map(len, texts))
        labels = torch.tensor([said + text + [-100] * (longest - len(text)) for text in texts])
        routing = {}
        if is_mixture(model):
            routing["expert_weights"] = torch.tensor([model.config.plain_weights] * len(others))
        losses = losses_of_rows(model, features, labels, ignored=len(said), **routing)
        found[place, others] = losses.cpu().numpy()
    return found


def best_example(losses: np.ndarray, without: np.ndarray, tokens: np.ndarray) -> int:
    """The example after which the other sentences have the least loss, compared with their loss without any."""
    gains = [
        _gain(losses[example], without, tokens) if np.isfinite(losses[example]).any() else -np.inf
        for example in range(len(losses))
    ]
    return int(np.argmax(gains))


def held_out_in_context(losses: np.ndarray, without: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Loss of each sentence after the example that is best for all sentences but it, `(sentences,)`."""
    found = without.copy()
    for sentence in range(len(without)):
        rest = losses.copy()
        rest[:, sentence] = np.inf
        rest[sentence] = np.inf
        if np.isfinite(rest).any():
            found[sentence] = losses[best_example(rest, without, tokens), sentence]
    return found


def _gain(losses: np.ndarray, without: np.ndarray, tokens: np.ndarray) -> float:
    known = np.isfinite(losses)
    return float((without[known] - losses[known]).sum() / tokens[known].sum())
