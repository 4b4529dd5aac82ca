"""A small untrained wav2vec2 for CTC, and processors whose vocabulary is letters."""

import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import (
    FeatureExtractionMixin,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from hf_components.runtime import UserError, flag
from hf_components.speech import SAMPLING_RATE, plain_text

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "|")  # the first is the blank, the last separates words
LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"
POSITION_GROUPS = 4  # groups of the convolution that encodes positions


@dataclass
class NetworkArguments:
    """Size of a wav2vec2: convolutions with one frame per 20 ms, then transformer layers."""

    hidden_size: int = flag("width of the transformer layers", default=144, min=1)
    num_hidden_layers: int = flag("transformer layers", default=4, min=1)
    num_attention_heads: int = flag("attention heads per layer", default=4, min=1)
    conv_dim: list[int] = flag("width of each convolution", default=[64, 128, 144], min=1)
    conv_kernel: list[int] = flag("kernel of each convolution", default=[40, 8, 4], min=1)
    conv_stride: list[int] = flag(
        "stride of each convolution; a large first one saves time", default=[20, 4, 4], min=1
    )

    def __post_init__(self):
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            sizes = f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)}"
            raise UserError(f"conv_dim, conv_kernel and conv_stride must have the same number of values, got {sizes}")
        if self.hidden_size % self.num_attention_heads or self.hidden_size % POSITION_GROUPS:
            raise UserError(
                f"hidden_size must be a multiple of num_attention_heads and of {POSITION_GROUPS}, got "
                f"{self.hidden_size} and {self.num_attention_heads}"
            )


def build_wav2vec2(args: NetworkArguments) -> tuple[Wav2Vec2ForCTC, Wav2Vec2Processor]:
    """A model with random weights and layer normalisation like wav2vec2-large, and wav2vec2-base-960h's vocabulary."""
    processor = letter_processor()
    config = Wav2Vec2Config(
        vocab_size=len(processor.tokenizer),
        pad_token_id=processor.tokenizer.pad_token_id,
        hidden_size=args.hidden_size,
        num_hidden_layers=args.num_hidden_layers,
        num_attention_heads=args.num_attention_heads,
        intermediate_size=4 * args.hidden_size,
        conv_dim=args.conv_dim,
        conv_kernel=args.conv_kernel,
        conv_stride=args.conv_stride,
        num_feat_extract_layers=len(args.conv_dim),
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=POSITION_GROUPS,
        # Minutes of training are too few to overfit, and with dropout the model writes only blanks for longer.
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        mask_time_prob=0.0,
    )
    return Wav2Vec2ForCTC(config), processor


def letter_processor() -> Wav2Vec2Processor:
    """A processor with normalised waveforms, an attention mask, and upper-case letters."""
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, return_attention_mask=True)
    return Wav2Vec2Processor(extractor, _tokenizer(LETTERS))


def character_processor(texts: Iterable[str], extractor: FeatureExtractionMixin) -> Wav2Vec2Processor:
    """A processor with these features, and with the lower-case characters of the texts as its vocabulary.

    Punctuation and symbols are left out, but for the apostrophe.

    Raises:
        UserError: no character is left.
    """
    counts = Counter(character for text in texts for character in plain_text(text).lower())
    kept = sorted(
        character
        for character in counts
        if character == "'" or unicodedata.category(character)[0] in "LMN"  # letters, their marks, numbers
    )
    if not kept:
        raise UserError("the transcripts have no letters to make a vocabulary of")
    return Wav2Vec2Processor(extractor, _tokenizer(kept))


def _tokenizer(characters: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *characters])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocabulary), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(str(file))
