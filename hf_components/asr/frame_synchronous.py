"""Language models that write one token per audio frame, most of them padding: Kyutai's speech-to-text, Voxtral
Realtime. They never look ahead, so a clip has the same text alone and in a batch, up to its own end."""

import torch
from transformers import AutoModelForSpeechSeq2Seq

from hf_components.asr.family import Family, check_greedy, heard, place, rate_of


class Kyutai(Family):
    """Its text comes later than the audio, so its processor extends the audio with silence."""

    name = "Kyutai"
    model_classes = {"kyutai_speech_to_text": AutoModelForSpeechSeq2Seq}
    has_beams = False

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        clips = heard(processor, waveforms)
        return dict(processor(audio=clips, sampling_rate=rate_of(processor), return_tensors="pt"))

    def decode(self, model, processor, inputs, *, max_new_tokens=None, num_beams=1):
        """The same as in `Family`; the audio limits the length of a text."""
        check_greedy(self.name, num_beams)
        inputs = place(inputs, model)
        frames = inputs["padding_mask"].sum(dim=-1) // model.config.frame_size
        tokens = model.generate(**inputs, do_sample=False)
        lengths = 1 + frames  # the first token comes before the audio
        return _read(processor, tokens, lengths, model.config.pad_token_id)


class VoxtralRealtime(Family):
    """The prompt has one token for each frame of audio before the first text."""

    name = "Voxtral Realtime"
    model_classes = {"voxtral_realtime": AutoModelForSpeechSeq2Seq}
    has_beams = False

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        clips = [processor([clip], return_tensors="pt") for clip in heard(processor, waveforms)]
        features = [clip["input_features"][0].T for clip in clips]  # (frames, mels)
        return {
            "input_ids": torch.cat([clip["input_ids"] for clip in clips]),
            "input_features": torch.nn.utils.rnn.pad_sequence(features, batch_first=True).mT,
            "num_delay_tokens": clips[0]["num_delay_tokens"],
            "frames": torch.tensor([len(clip) for clip in features]),
        }

    def decode(self, model, processor, inputs, *, max_new_tokens=None, num_beams=1):
        """The same as in `Kyutai`."""
        check_greedy(self.name, num_beams)
        inputs = place(inputs, model)
        frames = inputs.pop("frames")
        prompt = inputs["input_ids"].shape[1]
        tokens = model.generate(**inputs, do_sample=False)
        lengths = -(-frames // model.config.audio_length_per_tok) - prompt
        return _read(processor, tokens[:, prompt:], lengths, processor.tokenizer.pad_token_id)


def _read(processor, tokens: torch.Tensor, lengths: torch.Tensor, padding: int) -> list[str]:
    """Texts of the first `lengths (batch,)` tokens in each row of `tokens (batch, steps)`."""
    after = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    return processor.batch_decode(tokens.masked_fill(after, padding), skip_special_tokens=True)
