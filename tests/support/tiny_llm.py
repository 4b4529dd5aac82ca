"""A tiny random Llama with a chat template, saved as a checkpoint, and a way to have it reply what a test wants."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_components.correction.corrector import TranscriptCorrector

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n", "é"]
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def save_tiny_llm(folder: Path, template: str | None = TEMPLATE, **fields) -> Path:
    """`fields` change those of its configuration."""
    torch.manual_seed(0)
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
    letters = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    letters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = template
    config = LlamaConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "initializer_range": 0.5,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
            "max_position_embeddings": 4096,
            **fields,
        }
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def script(corrector: TranscriptCorrector, reply: Callable[[str], str]) -> list[list[str]]:
    """Have the model reply `reply(what stands between the delimiters)` from now on; the list that is returned fills
    with the transcripts of each batch that it is asked for. A reply of "..." never ends."""
    asked, tokenizer = [], corrector.tokenizer

    def generate(input_ids, max_new_tokens, **options):
        requests = [tokenizer.decode(row[row != tokenizer.pad_token_id]) for row in input_ids]
        shown = [text.rpartition("<transcript>\n")[2].partition("\n</transcript>")[0] for text in requests]
        asked.append(shown)
        replies = [
            tokenizer(reply(text), add_special_tokens=False).input_ids + [tokenizer.eos_token_id] for text in shown
        ]
        endless = tokenizer("." * max_new_tokens, add_special_tokens=False).input_ids
        replies = [endless if reply(text) == "..." else row for text, row in zip(shown, replies, strict=True)]
        rows = [(row + [tokenizer.pad_token_id] * max_new_tokens)[:max_new_tokens] for row in replies]
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    corrector.model.generate = generate
    return asked
