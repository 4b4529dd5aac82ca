"""Tiny models of an encoder and a decoder that are given nothing but the audio, and SeamlessM4T: as
`tiny_models.py`."""

import json
from pathlib import Path

import sentencepiece
import tiny_models
import torch
import transformers as tf

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LAYERS = {
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_layers": 1,
    "decoder_ffn_dim": 16,
    "decoder_attention_heads": 2,
}


def save_speech2text(folder: Path) -> Path:
    pieces = _sentencepiece(folder)
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *[pieces.id_to_piece(i) for i in range(4, len(pieces))]]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    tokenizer = tf.Speech2TextTokenizer(str(folder / "vocab.json"), str(folder / "letters.model"))
    config = tf.Speech2TextConfig(**LAYERS, vocab_size=len(vocabulary), d_model=16, conv_channels=16, init_std=0.5)
    return _save(
        folder,
        tf.Speech2TextForConditionalGeneration,
        config,
        tf.Speech2TextProcessor(tf.Speech2TextFeatureExtractor(), tokenizer),
    )


def save_speecht5(folder: Path) -> Path:
    _sentencepiece(folder)
    tokenizer = tf.SpeechT5Tokenizer(str(folder / "letters.model"))
    config = tf.SpeechT5Config(
        **LAYERS,
        **tiny_models.CONV,
        vocab_size=len(tokenizer),
        hidden_size=16,
        feat_extract_norm="layer",
        initializer_range=0.5,
    )
    return _save(
        folder, tf.SpeechT5ForSpeechToText, config, tf.SpeechT5Processor(tf.SpeechT5FeatureExtractor(), tokenizer)
    )


def save_two_put_together(folder: Path) -> Path:
    """A wav2vec2 and a BERT."""
    tokenizer = _tokenizer("<pad>", pad_token="<pad>")
    encoder = tf.Wav2Vec2Config(
        **tiny_models.SIZE, **tiny_models.CONV, feat_extract_norm="layer", do_stable_layer_norm=True
    )
    decoder = tf.BertConfig(
        **tiny_models.SIZE, vocab_size=len(tokenizer), is_decoder=True, add_cross_attention=True, initializer_range=0.5
    )
    config = tf.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return _save(
        folder,
        tf.SpeechEncoderDecoderModel,
        config,
        tf.Wav2Vec2Processor(tf.Wav2Vec2FeatureExtractor(return_attention_mask=True), tokenizer),
        tf.GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1),
    )


def save_moonshine_streaming(folder: Path) -> Path:
    tokenizer = _tokenizer("<unk>", unk_token="<unk>", pad_token="</s>")
    size = {**tiny_models.SIZE, "num_key_value_heads": 2, "initializer_range": 0.5}
    config = tf.MoonshineStreamingConfig(
        encoder_config={**size, "sliding_windows": [[16, 4], [16, 4]]},
        **size,
        vocab_size=len(tokenizer),
        pad_token_id=2,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return _save(
        folder,
        tf.MoonshineStreamingForConditionalGeneration,
        config,
        tf.MoonshineStreamingProcessor(
            tf.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True), tokenizer
        ),
    )


def save_seamless(folder: Path, version: int = 1) -> Path:
    special, languages = ["<pad>", "<unk>", "<s>", "</s>", "▁"], ["__eng__", "__fra__"]
    tokenizer = tf.SeamlessM4TTokenizer(
        vocab={token: i for i, token in enumerate([*special, *LETTERS])}, additional_special_tokens=languages
    )
    make_config, model = {
        1: (tf.SeamlessM4TConfig, tf.SeamlessM4TForSpeechToText),
        2: (tf.SeamlessM4Tv2Config, tf.SeamlessM4Tv2ForSpeechToText),
    }[version]
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = make_config(
        **LAYERS,
        **ids,
        vocab_size=len(tokenizer),
        hidden_size=16,
        speech_encoder_layers=1,
        speech_encoder_attention_heads=2,
        speech_encoder_intermediate_size=16,
        initializer_range=0.5,
    )
    codes = {token.strip("_"): tokenizer.convert_tokens_to_ids(token) for token in languages}
    return _save(
        folder,
        model,
        config,
        tf.SeamlessM4TProcessor(tf.SeamlessM4TFeatureExtractor(), tokenizer),
        tf.GenerationConfig(**ids, text_decoder_lang_to_code_id=codes),
    )


def _save(
    folder: Path,
    make_model: type,
    config: tf.PreTrainedConfig,
    processor: tf.ProcessorMixin,
    generation: tf.GenerationConfig | None = None,
) -> Path:
    torch.manual_seed(0)
    model = make_model(config=config)
    model.generation_config = generation or model.generation_config
    return tiny_models._save(folder, model, processor)


def _tokenizer(first: str, **special: str) -> tf.PreTrainedTokenizerFast:
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tiny_models._pieces([first, "<s>", "</s>"]), bos_token="<s>", eos_token="</s>", **special
    )


def _sentencepiece(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """Letters and spaces, in `letters.model`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "letters.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([LETTERS, " ".join(LETTERS)]),
            model_writer=file,
            model_type="char",
            vocab_size=40,
            hard_vocab_limit=False,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            minloglevel=2,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "letters.model"))
