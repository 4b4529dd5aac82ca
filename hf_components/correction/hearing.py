"""`HearingCorrector`: a language model that hears corrects transcripts; the recording is in its request."""

from collections.abc import Sequence

import soxr
import torch
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr import Recordings
from hf_components.correction import prompt
from hf_components.correction.corrector import TranscriptCorrector
from hf_components.runtime import UserError
from hf_components.speech import SAMPLING_RATE


class HearingCorrector(TranscriptCorrector):
    """The same as `TranscriptCorrector`, for a model whose processor takes texts and audio.

    `hear` gives it the recordings. Requests are computed whole, since the recording is before the texts.

    Args:
        processor: processor with a chat template.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, **options):
        super().__init__(model, processor.tokenizer, **options)
        if not processor.chat_template:
            raise UserError(
                f"{self.name} has no chat template, so it cannot be asked for a correction; choose a "
                "model that follows instructions"
            )
        self.processor = processor
        self.recordings: Recordings | None = None
        processor.tokenizer.padding_side = "left"  # it writes on at the end

    def hear(self, recordings: Recordings) -> None:
        self.recordings = recordings

    @torch.inference_mode()
    def _replies(
        self, indices: Sequence[int], lines: Sequence[list[str]], max_new_tokens: int
    ) -> list[tuple[str, bool]]:
        requests = [
            self.processor.apply_chat_template(with_audio(own), tokenize=False, add_generation_prompt=True)
            for own in lines
        ]
        rate = self.processor.feature_extractor.sampling_rate
        clips = [soxr.resample(self.recordings.read(i), SAMPLING_RATE, rate) for i in indices]
        inputs = self.processor(text=requests, audio=clips, text_kwargs={"padding": True}, return_tensors="pt")
        placed = inputs.to(self.model.device, self.model.dtype)  # integers keep their type
        written = self.model.generate(**placed, max_new_tokens=max_new_tokens)[:, inputs["input_ids"].shape[1] :]
        return [self._read(row) for row in written.tolist()]


def with_audio(lines: Sequence[str]) -> list[dict]:
    """The turns of the request, with a place for the recording before the texts of the last one."""
    *before, last = prompt.conversation(lines)
    content = [{"type": "audio", "audio": ""}, {"type": "text", "text": f"{prompt.HEARD}\n\n{last['content']}"}]
    return [*before, {**last, "content": content}]
