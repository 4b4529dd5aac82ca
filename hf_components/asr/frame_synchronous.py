"""Language models that write a token for each frame that they hear, most of them padding: Kyutai's speech-to-text,
Voxtral Realtime. They hear nothing ahead, so that a clip in a batch is written as alone, up to its own end."""

import torch
from transformers import AutoModelForSpeechSeq2Seq

from hf_components.asr.family import Family, check_greedy, heard, place, rate_of


class Kyutai(Family):
    """Its text lags behind the audio, which its processor extends by silence for that."""

    name = "Kyutai"
    model_classes = {"kyutai_speech_to_text": AutoModelForSpeechSeq2Seq}

    def inputs(self, processor, waveforms, *, language=None, full_context=False):
        return dict(
            processor(audio=heard(processor, waveforms), sampling_rate=rate_of(processor), return_tensors="pt")
        )

    def decode(self, model, processor, inputs, *, max_new_tokens=None, num_beams=1):
        """As every family; the length of a text is bound by that of the audio."""
        check_greedy(self.name, num_beams)
        inputs = place(inputs, model)
        frames = inputs["padding_mask"].sum(dim=-1) // model.config.frame_size
        tokens = model.generate(**inputs, do_sample=False)
        return _read(
            processor, tokens, 1 + frames, model.config.pad_token_id
        )  # the first token comes before the audio


class VoxtralRealtime(Family):
    """Prompted with as many tokens as it hears before it writes."""

    name = "Voxtral Realtime"
    model_classes = {"voxtral_realtime": AutoModelForSpeechSeq2Seq}

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
        """As of `Kyutai`."""
        check_greedy(self.name, num_beams)
        inputs = place(inputs, model)
        frames = inputs.pop("frames")
        prompt = inputs["input_ids"].shape[1]
        tokens = model.generate(**inputs, do_sample=False)
        lengths = -(-frames // model.config.audio_length_per_tok) - prompt
        return _read(processor, tokens[:, prompt:], lengths, processor.tokenizer.pad_token_id)


def _read(processor, tokens: torch.Tensor, lengths: torch.Tensor, padding: int) -> list[str]:
    """Texts of `tokens (batch, steps)`, of each row the first `lengths (batch,)`."""
    after = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    return processor.batch_decode(tokens.masked_fill(after, padding), skip_special_tokens=True)
