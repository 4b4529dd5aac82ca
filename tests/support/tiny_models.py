"""Tiny speech recognisers with real processors, saved as checkpoints: built in code, offline. More of those with an
encoder and a decoder are in `tiny_encoder_decoders.py`, language models in `tiny_audio_llms.py`."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CanaryConfig,
    CanaryForConditionalGeneration,
    CanaryProcessor,
    CohereAsrConfig,
    CohereAsrFeatureExtractor,
    CohereAsrForConditionalGeneration,
    CohereAsrProcessor,
    GraniteSpeech5CTCConfig,
    GraniteSpeech5FeatureExtractor,
    GraniteSpeech5ForCTC,
    GraniteSpeech5Processor,
    HubertConfig,
    HubertForCTC,
    LasrCTCConfig,
    LasrFeatureExtractor,
    LasrForCTC,
    LasrProcessor,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    Nemotron3_5AsrConfig,
    Nemotron3_5AsrForRNNT,
    Nemotron3_5AsrProcessor,
    NemotronAsrStreamingConfig,
    NemotronAsrStreamingFeatureExtractor,
    NemotronAsrStreamingForRNNT,
    NemotronAsrStreamingProcessor,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetForRNNT,
    ParakeetForTDT,
    ParakeetProcessor,
    ParakeetRNNTConfig,
    ParakeetTDTConfig,
    PreTrainedTokenizerFast,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertProcessor,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)
from transformers.models.lasr.tokenization_lasr import LasrTokenizer
from transformers.models.parakeet.tokenization_parakeet import ParakeetTokenizer

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
CONV = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
CANARY_PROMPT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'text' %}<|startofcontext|>"
    "<|{{ c['source_language'] }}|><|{{ c['target_language'] }}|>{% endif %}{% endfor %}{% endfor %}"
)
QWEN_PROMPT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}{% for c in m['content'] %}{% if c['type'] == 'audio' %}"
    "<|audio_start|><|audio_pad|><|audio_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% if not loop.last %}<|im_end|>{% endif %}{% endfor %}"
)


def save_wav2vec2(folder: Path, norm: str = "layer", kind: str = "wav2vec2") -> Path:
    """Normalised over layers it is given an attention mask, over groups (as wav2vec2-base) none."""
    torch.manual_seed(0)
    config, model = {"wav2vec2": (Wav2Vec2Config, Wav2Vec2ForCTC), "hubert": (HubertConfig, HubertForCTC)}[kind]
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer")
    processor = Wav2Vec2Processor(extractor, _letters(folder))
    size = {**SIZE, **CONV, "vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
    return _save(
        folder, model(config(**size, feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")), processor
    )


def save_wav2vec2_bert(folder: Path) -> Path:
    torch.manual_seed(0)
    processor = Wav2Vec2BertProcessor(SeamlessM4TFeatureExtractor(), _letters(folder))
    tokenizer = processor.tokenizer
    config = Wav2Vec2BertConfig(**SIZE, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    return _save(folder, Wav2Vec2BertForCTC(config), processor)


def save_parakeet(folder: Path, kind: str = "ctc") -> Path:
    torch.manual_seed(0)
    tokenizer = ParakeetTokenizer(tokenizer_object=_pieces(["<pad>", "<blank>"]), pad_token="<pad>", unk_token="<pad>")
    blank = tokenizer.convert_tokens_to_ids("<pad>" if kind == "ctc" else "<blank>")
    encoder = _conformer(80)
    if kind == "ctc":
        config = ParakeetCTCConfig(vocab_size=len(tokenizer), pad_token_id=blank, encoder_config=encoder)
        model = ParakeetForCTC(config)
    else:
        config = ParakeetTDTConfig(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            blank_token_id=blank,
            decoder_hidden_size=16,
            num_decoder_layers=1,
            encoder_config=encoder,
        )
        model = ParakeetForTDT(config)
        model.joint.head.bias.data[len(tokenizer)] = -10.0  # of duration 0, which untrained would hold it at one frame
        model.generation_config.decoder_start_token_id = blank
        model.generation_config.suppress_tokens = [len(tokenizer) + i for i in range(len(config.durations))]
    return _save(
        folder, model, ParakeetProcessor(ParakeetFeatureExtractor(feature_size=80), tokenizer, decoder_type=kind)
    )


def save_granite5(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = ParakeetTokenizer(tokenizer_object=_pieces(["<pad>"]), pad_token="<pad>", unk_token="<pad>")
    size = {**SIZE, "vocab_size": len(tokenizer), "initializer_range": 0.7}
    config = GraniteSpeech5CTCConfig(vocab_size=len(tokenizer), encoder_config=size, pad_token_id=0)
    return _save(
        folder, GraniteSpeech5ForCTC(config), GraniteSpeech5Processor(GraniteSpeech5FeatureExtractor(), tokenizer)
    )


def save_lasr(folder: Path) -> Path:
    torch.manual_seed(0)
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = LasrTokenizer(vocab=[(piece, -1.0) for piece in pieces], pad_token="<pad>", extra_ids=0)
    config = LasrCTCConfig(vocab_size=len(pieces), encoder_config=_conformer(128), pad_token_id=0)
    return _save(folder, LasrForCTC(config), LasrProcessor(LasrFeatureExtractor(), tokenizer))


def save_transducer(folder: Path, kind: str = "parakeet") -> Path:
    """RNN-T: Parakeet's, or the streaming Nemotrons, of which the newer one is told a language."""
    torch.manual_seed(0)
    tokenizer = ParakeetTokenizer(tokenizer_object=_pieces(["<pad>", "<blank>"]), pad_token="<pad>", unk_token="<pad>")
    make_config, make_model, extractor, processor, blank = {
        "parakeet": (ParakeetRNNTConfig, ParakeetForRNNT, ParakeetFeatureExtractor, ParakeetProcessor, 2.6),
        "nemotron": (
            NemotronAsrStreamingConfig,
            NemotronAsrStreamingForRNNT,
            NemotronAsrStreamingFeatureExtractor,
            NemotronAsrStreamingProcessor,
            1.8,
        ),
        "nemotron 3.5": (
            Nemotron3_5AsrConfig,
            Nemotron3_5AsrForRNNT,
            NemotronAsrStreamingFeatureExtractor,
            Nemotron3_5AsrProcessor,
            1.5,
        ),
    }[kind]
    small = {"prompt_intermediate_size": 16, "initializer_range": 0.3} if kind == "nemotron 3.5" else {}
    model = make_model(
        make_config(
            vocab_size=len(tokenizer),
            pad_token_id=0,
            blank_token_id=1,
            decoder_hidden_size=16,
            num_decoder_layers=1,
            encoder_config=_conformer(80),
            **small,
        )
    )
    model.joint.head.bias.data[1] = blank  # of the blank, which untrained it would hardly write
    model.generation_config.decoder_start_token_id = 1
    options = {"decoder_type": "rnnt"} if kind == "parakeet" else {}
    return _save(folder, model, processor(extractor(feature_size=80), tokenizer, **options))


def save_moonshine(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_pieces(["<unk>", "<s>", "</s>"]),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
    )
    start, end = tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    config = MoonshineConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        decoder_start_token_id=start,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        initializer_range=0.5,
    )
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    return _save(folder, MoonshineForConditionalGeneration(config), Wav2Vec2Processor(extractor, tokenizer))


def save_canary(folder: Path) -> Path:
    torch.manual_seed(0)
    special = ["<pad>", "<|endoftext|>", "<|startoftranscript|>", "<|startofcontext|>", "<|en|>", "<|de|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_pieces(special),
        pad_token="<pad>",
        eos_token="<|endoftext|>",
        bos_token="<|startoftranscript|>",
    )
    pad, end, bos, start = tokenizer.convert_tokens_to_ids(special[:4])
    decoder = {
        **SIZE,
        "vocab_size": len(tokenizer),
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.5,
        "pad_token_id": pad,
        "eos_token_id": end,
        "bos_token_id": bos,
    }
    config = CanaryConfig(
        encoder_config=_conformer(80),
        decoder_config=decoder,
        vocab_size=len(tokenizer),
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=bos,
        decoder_start_token_id=start,
        initializer_range=0.5,
    )
    return _save(
        folder,
        CanaryForConditionalGeneration(config),
        CanaryProcessor(ParakeetFeatureExtractor(feature_size=80), tokenizer, chat_template=CANARY_PROMPT),
    )


def save_cohere(folder: Path) -> Path:
    torch.manual_seed(0)
    special = [
        "<pad>",
        "<|endoftext|>",
        "▁",
        "<|startofcontext|>",
        "<|startoftranscript|>",
        "<|emo:undefined|>",
        "<|en|>",
        "<|de|>",
        "<|pnc|>",
        "<|nopnc|>",
        "<|noitn|>",
        "<|notimestamp|>",
        "<|nodiarize|>",
    ]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_pieces(special), pad_token="<pad>", eos_token="<|endoftext|>"
    )
    pad, end, start = tokenizer.convert_tokens_to_ids(special[:3])
    config = CohereAsrConfig(
        **SIZE,
        encoder_config=_conformer(80),
        vocab_size=len(tokenizer),
        pad_token_id=pad,
        eos_token_id=end,
        bos_token_id=start,
        decoder_start_token_id=start,
        initializer_range=0.5,
    )
    return _save(
        folder,
        CohereAsrForConditionalGeneration(config),
        CohereAsrProcessor(CohereAsrFeatureExtractor(feature_size=80), tokenizer),
    )


def save_qwen3_asr(folder: Path) -> Path:
    torch.manual_seed(0)
    audio = {"audio_token": "<|audio_pad|>", "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<asr_text>", *audio.values()]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_pieces(special),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=audio,
    )
    text = {**SIZE, "vocab_size": len(tokenizer), "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.5}
    encoder = {
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "d_model": 16,
        "output_dim": 16,
        "downsample_hidden_size": 4,
        "initializer_range": 0.5,
    }
    config = Qwen3ASRConfig(
        audio_config=encoder,
        text_config=text,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
        eos_token_id=tokenizer.eos_token_id,
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
    )
    return _save(
        folder,
        Qwen3ASRForConditionalGeneration(config),
        Qwen3ASRProcessor(Qwen3ASRFeatureExtractor(), tokenizer, chat_template=QWEN_PROMPT),
    )


def _save(folder: Path, model, processor) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _letters(folder: Path) -> Wav2Vec2CTCTokenizer:
    """Upper case only, as facebook/wav2vec2-base-960h."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(["<pad>", "<unk>", "|", *LETTERS])})
    )
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None)


def _pieces(special: list[str]) -> Tokenizer:
    """Lower-case letters without merges, and these special tokens in front."""
    alphabet = "Ġabcdefghijklmnopqrstuvwxyz"
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _conformer(mel_bins: int) -> dict:
    return {
        **SIZE,
        "num_mel_bins": mel_bins,
        "subsampling_conv_channels": 8,
        "conv_kernel_size": 9,
        "initializer_range": 0.3,
    }
