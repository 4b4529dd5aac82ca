"""A causal language model tells how probable texts are, and so chooses among what a recogniser may have heard.

It writes nothing, so it adds no word that nobody heard, and needs no instructions: any causal model will do.
"""

from collections.abc import Sequence

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_components.checkpoints import choose_dtype, load_llm

TOKENS_PER_BATCH = 2048


class LanguageModel:
    """A causal language model that reads texts.

    Args:
        model: model in evaluation mode, on its device.
        tokenizer: its tokenizer.
        name: name or folder, for records of what was heard with it.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = ""):
        self.model = model
        self.tokenizer = tokenizer
        self.name = name

    @classmethod
    def from_pretrained(
        cls, name: str, gguf_file: str | None = None, *, quantization: str = "auto", dtype: str = "auto"
    ) -> "LanguageModel":
        """Load a model on the device of this process; for the arguments see `TranscriptCorrector.from_pretrained`.

        Raises:
            UserError: the model cannot be loaded; the message says what to do.
        """
        device = PartialState().device
        model, tokenizer = load_llm(
            name, gguf_file, quantization, choose_dtype(dtype, device), device, must_chat=False
        )
        return cls(model, tokenizer, name if gguf_file is None else f"{name}/{gguf_file}")

    @torch.inference_mode()
    def log_probs(self, texts: Sequence[str]) -> list[float]:
        """Natural logarithms of the probabilities of whole texts, each by itself.

        A text in capitals is read in lower case, since language models seldom see others.
        """
        found = [0.0] * len(texts)
        rows = [self._tokens(text) for text in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        while order:
            count = max(1, TOKENS_PER_BATCH // len(rows[order[-1]]))
            batch, order = order[-count:], order[:-count]
            for i, log_prob in zip(batch, self._read([rows[i] for i in batch]), strict=True):
                found[i] = log_prob
        return found

    def _tokens(self, text: str) -> list[int]:
        """A text between the tokens with which texts begin and end."""
        text = text.lower() if text.isupper() else text
        end = self.tokenizer.eos_token_id
        begin = end if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id
        return [begin, *self.tokenizer(text, add_special_tokens=False).input_ids, end]

    def _read(self, rows: Sequence[Sequence[int]]) -> list[float]:
        lengths = torch.tensor([len(row) for row in rows], device=self.model.device)
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        tokens = tokens.to(self.model.device)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        logits = self.model(input_ids=tokens, attention_mask=real.long()).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), tokens[:, 1:], reduction="none")
        return (-(losses * real[:, 1:]).sum(dim=1)).tolist()
