"""Tiny language models that hear, of every kind that is served, as those of `tiny_models.py`."""

import base64
import json
import re
from pathlib import Path

import tiny_models
import torch
import transformers as tf

TEXT = {**tiny_models.SIZE, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.5}
WHISPER_ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_mel_bins": 80,
    "initializer_range": 0.5,
}
PROMPT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'audio' %}<|audio|>{% elif c['type'] == 'text' %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
)
AUDIO = {"audio_token": "<|audio|>", "chat_template": PROMPT}
SURROUNDED = {**AUDIO, "audio_bos_token": "<|start|>", "audio_eos_token": "<|end|>"}
MISTRAL_TOKENS = re.findall(
    r"\S+",
    """
    <unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS]
    [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]
    [ARGS] [CALL_ID] [THINK] [/THINK] [AUDIO] [BEGIN_AUDIO] [TRANSCRIBE] [STREAMING_PAD]""",
)


def save_fun_asr(folder: Path) -> Path:
    encoder = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_timestamp_prediction_layers": 1,
        "initializer_range": 0.5,
    }
    adaptor = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "projector_hidden_size": 16,
    }
    tokenizer = _tokenizer()
    config = tf.FunAsrNanoConfig(
        audio_config=encoder,
        adaptor_config=adaptor,
        text_config=_text(tokenizer),
        audio_token_id=3,
        initializer_range=0.5,
    )
    return _save(
        folder,
        tf.FunAsrNanoForConditionalGeneration,
        config,
        tf.FunAsrNanoProcessor(tf.FunAsrNanoFeatureExtractor(), tokenizer, **AUDIO),
    )


def save_glm_asr(folder: Path) -> Path:
    tokenizer = _tokenizer()
    config = tf.GlmAsrConfig(
        audio_config={**WHISPER_ENCODER, "intermediate_size": 64}, text_config=_text(tokenizer), audio_token_id=3
    )
    return _save(
        folder,
        tf.GlmAsrForConditionalGeneration,
        config,
        tf.GlmAsrProcessor(tf.WhisperFeatureExtractor(feature_size=80), tokenizer, **AUDIO),
    )


def save_audio_flamingo(folder: Path) -> Path:
    tokenizer = _tokenizer()
    config = tf.AudioFlamingo3Config(
        audio_config={**WHISPER_ENCODER, "intermediate_size": 16},
        audio_token_id=3,
        text_config=_text(tokenizer, model_type="qwen2"),
    )
    return _save(
        folder,
        tf.AudioFlamingo3ForConditionalGeneration,
        config,
        tf.AudioFlamingo3Processor(tf.WhisperFeatureExtractor(feature_size=80), tokenizer, **AUDIO),
    )


def save_granite_speech(folder: Path, plus: bool = False) -> Path:
    tokenizer = _tokenizer()
    tokenizer.chat_template = PROMPT
    kinds = {
        False: (tf.GraniteSpeechConfig, tf.GraniteSpeechForConditionalGeneration),
        True: (tf.GraniteSpeechPlusConfig, tf.GraniteSpeechPlusForConditionalGeneration),
    }
    encoder = {
        "input_dim": 160,
        "num_layers": 2,
        "hidden_dim": 16,
        "feedforward_mult": 1,
        "num_heads": 2,
        "output_dim": 8,
        "context_size": 20,
        "max_pos_emb": 20,
    }
    projector = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "encoder_hidden_size": 16,
        "initializer_range": 0.5,
    }
    make_config, model = kinds[plus]
    config = make_config(
        encoder_config=encoder,
        projector_config=projector,
        audio_token_index=3,
        has_lora_adapter=False,
        text_config=_text(tokenizer, model_type="granite"),
        initializer_range=0.3,
    )
    return _save(
        folder,
        model,
        config,
        tf.GraniteSpeechProcessor(tf.GraniteSpeechFeatureExtractor(), tokenizer, audio_token="<|audio|>"),
    )


def save_vibevoice_asr(folder: Path) -> Path:
    tokenizer = _tokenizer("<|start|>", "<|end|>")
    hears = {
        "num_filters": 1,
        "depths": [1] * 7,
        "hidden_size": 8,
        "layer_scale_init_value": 0.5,
        "initializer_range": 0.5,
    }
    config = tf.VibeVoiceAsrConfig(
        acoustic_tokenizer_encoder_config=hears,
        semantic_tokenizer_encoder_config=hears,
        audio_token_id=3,
        audio_bos_token_id=4,
        audio_eos_token_id=5,
        text_config=_text(tokenizer, model_type="qwen2"),
    )
    return _save(
        folder,
        tf.VibeVoiceAsrForConditionalGeneration,
        config,
        tf.VibeVoiceAsrProcessor(tf.VibeVoiceAcousticTokenizerFeatureExtractor(), tokenizer, **SURROUNDED),
    )


def save_moss(folder: Path) -> Path:
    tokenizer = _tokenizer("<|start|>", "<|end|>")
    config = tf.MossTranscribeDiarizeConfig(
        audio_config={**WHISPER_ENCODER, "intermediate_size": 16}, text_config=_text(tokenizer), audio_token_id=3
    )
    return _save(
        folder,
        tf.MossTranscribeDiarizeForConditionalGeneration,
        config,
        tf.MossTranscribeDiarizeProcessor(tf.MossTranscribeDiarizeFeatureExtractor(), tokenizer, **SURROUNDED),
    )


def save_nemotron_transcribe(folder: Path) -> Path:
    tokenizer = _tokenizer()
    hears = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_mel_bins": 80}
    speakers = {
        "audio_config": {**hears, "num_hidden_layers": 1},
        "streaming_config": {"num_speakers": 4},
        "head_config": {"hidden_size": 16, "audio_hidden_size": 16, "num_speakers": 4},
    }
    text = {**_text(tokenizer, model_type="nemotron_h"), "layers_block_type": ["attention", "mlp"]}
    del text["num_hidden_layers"]
    config = tf.Nemotron3_5TranscribeConfig(
        audio_config={
            "asr_config": {**hears, "num_hidden_layers": 2, "subsampling_conv_channels": 8, "initializer_range": 0.3},
            "diarization_config": speakers,
        },
        text_config=text,
        word_timestamp_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 8,
            "blank_token_id": 7,
        },
        audio_token_id=3,
    )
    return _save(
        folder,
        tf.Nemotron3_5TranscribeForConditionalGeneration,
        config,
        tf.Nemotron3_5TranscribeProcessor(tf.NemotronAsrStreamingFeatureExtractor(), tokenizer, _tokenizer(), **AUDIO),
    )


def save_kyutai(folder: Path) -> Path:
    tokenizer, books = _tokenizer(), {"num_codebooks": 4, "codebook_vocab_size": 17}
    codec = {
        "num_filters": 2,
        "hidden_size": 16,
        "codebook_dim": 8,
        "codebook_size": 16,
        "num_quantizers": 4,
        "vector_quantization_hidden_dimension": 8,
        "num_hidden_layers": 1,
        "intermediate_size": 16,
        "head_dim": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "upsample_groups": 16,
    }
    config = tf.KyutaiSpeechToTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=16,
        **books,
        audio_bos_token_id=16,
        audio_pad_token_id=len(tokenizer) + 4 * 17,
        codec_config=codec,
        pad_token_id=0,
        bos_token_id=1,
        sliding_window=20,
        initializer_range=0.5,
    )
    return _save(
        folder,
        tf.KyutaiSpeechToTextForConditionalGeneration,
        config,
        tf.KyutaiSpeechToTextProcessor(tf.KyutaiSpeechToTextFeatureExtractor(audio_delay_seconds=0.5), tokenizer),
    )


def save_voxtral(folder: Path) -> Path:
    tokenizer = _tekken(folder, chunk_length_s=30.0)
    config = tf.VoxtralConfig(
        audio_config={**WHISPER_ENCODER, "intermediate_size": 64}, audio_token_id=24, text_config=_mistral(tokenizer)
    )
    return _save(
        folder,
        tf.VoxtralForConditionalGeneration,
        config,
        tf.VoxtralProcessor(tf.WhisperFeatureExtractor(feature_size=80), tokenizer),
    )


def save_voxtral_realtime(folder: Path) -> Path:
    tokenizer = _tekken(
        folder,
        transcription_format="streaming",
        transcription_delay_ms=480.0,
        streaming_look_ahead_ms=2.5,
        streaming_look_back_ms=52.5,
        streaming_n_left_pad_tokens=4,
    )
    config = tf.VoxtralRealtimeConfig(
        audio_config={**WHISPER_ENCODER, "intermediate_size": 64, "head_dim": 8}, text_config=_mistral(tokenizer)
    )
    return _save(
        folder,
        tf.VoxtralRealtimeForConditionalGeneration,
        config,
        tf.VoxtralRealtimeProcessor(tf.VoxtralRealtimeFeatureExtractor(feature_size=80), tokenizer),
    )


def _save(folder: Path, model: type, config: tf.PreTrainedConfig, processor: tf.ProcessorMixin) -> Path:
    torch.manual_seed(0)
    return tiny_models._save(folder, model(config), processor)


def _tokenizer(*special: str) -> tf.PreTrainedTokenizerFast:
    pieces = tiny_models._pieces(["<pad>", "<|im_start|>", "<|im_end|>", "<|audio|>", *special])
    return tf.PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="<pad>", eos_token="<|im_end|>")


def _text(tokenizer: tf.PreTrainedTokenizerFast, **kind: str) -> dict:
    return {**TEXT, **kind, "vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _tekken(folder: Path, **audio) -> tf.PreTrainedTokenizerBase:
    """The bytes and mistral-common's special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    special = [{"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(MISTRAL_TOKENS)]
    encoding = {"num_mel_bins": 80, "hop_length": 160, "window_size": 400}
    (folder / "tekken.json").write_text(
        json.dumps(
            {
                "config": {
                    "pattern": r"\S+|\s+",
                    "version": "v13",
                    "num_vocab_tokens": 256,
                    "default_num_special_tokens": len(special),
                    "default_vocab_size": 256 + len(special),
                },
                "vocab": [
                    {"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode(), "token_str": None}
                    for i in range(256)
                ],
                "special_tokens": special,
                "audio": {"sampling_rate": 16_000, "frame_rate": 12.5, "audio_encoding_config": encoding, **audio},
            }
        )
    )
    return tf.MistralCommonBackend(str(folder / "tekken.json"))


def _mistral(tokenizer: tf.PreTrainedTokenizerBase) -> dict:
    return {**TEXT, "vocab_size": len(tokenizer), "pad_token_id": 11, "bos_token_id": 1, "eos_token_id": 2}
