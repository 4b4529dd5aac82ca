"""A new CTC head over the encoder of a recogniser, see `--head ctc` of finetune_asr."""

import torch
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr.ctc import Ctc
from hf_components.asr.ctc_from_scratch import character_processor
from hf_components.asr.families import family_of
from hf_components.runtime import UserError
from hf_components.whisper import DynamicContextWhisper, WhisperForCTC


def with_ctc_head(
    model: PreTrainedModel, processor: ProcessorMixin, texts: list[str]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The encoder of a model with a new, untrained CTC head, and the processor for it.

    Args:
        model, processor: a Whisper, or a CTC model whose head is the linear layer `lm_head`, such as wav2vec2.
        texts: transcripts of the training data, whose characters become the vocabulary.
    Raises:
        UserError: the model is neither, or the texts have no characters.
    """
    is_ctc = isinstance(family_of(model), Ctc) and isinstance(getattr(model, "lm_head", None), torch.nn.Linear)
    if not (is_ctc or isinstance(model, DynamicContextWhisper)):
        kind = type(model).__name__
        raise UserError(
            f"--head ctc goes on the encoder of a plain Whisper, or of a CTC model such as wav2vec2; "
            f"{model.name_or_path} is a {kind}"
        )
    made = character_processor(texts, processor.feature_extractor)
    tokenizer = made.tokenizer
    if not is_ctc:
        window = 2 * model.config.max_source_positions
        context = {"min_audio_context": window if model.audio_context == "full" else model.min_audio_context}
        headed = WhisperForCTC.from_whisper(model, len(tokenizer), tokenizer.pad_token_id, **context)
        headed.name_or_path = headed.config.name_or_path = model.name_or_path  # checkpoints name their start
        return headed, made
    old = model.lm_head
    model.lm_head = torch.nn.Linear(old.in_features, len(tokenizer), device=old.weight.device, dtype=old.weight.dtype)
    torch.nn.init.normal_(model.lm_head.weight, std=model.config.initializer_range)
    torch.nn.init.zeros_(model.lm_head.bias)
    model.config.vocab_size = len(tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    processor.tokenizer = tokenizer
    return model, processor
