"""Run a CTranslate2 export that sees clips at their own length; `ctranslate2_short` writes it."""

import importlib.util
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import torch
from transformers import GenerationConfig, WhisperConfig

from hf_components.checkpoints.loading import BEAMS, load_model, load_processor, prompt_language
from hf_components.runtime import UserError
from hf_components.whisper.dynamic_encoder import DynamicContextEncoder
from hf_components.whisper.mel_frames import fit_audio_context
from hf_components.whisper.silence import context_bias, whole_context

EXTRA = 8  # dimensions of a state after those of the model; the first is log n, the others keep sizes multiples of 8
ENCODER = "encoder"  # folder of the encoder, of the settings of the whole model and of the processor


class ExportedWhisper:
    """A Whisper on the CPU: its encoder in PyTorch, its decoder in CTranslate2.

    Attributes:
        config: settings of the whole model.
        processor: processor of the checkpoint that was exported, with the prompt of its language.
        seconds: time spent in "encoder" and "decoder" so far.
    """

    def __init__(self, folder: str | Path, language: str | None = None):
        """Load an export.

        Args:
            folder: folder that `export_whisper` wrote with a dynamic audio context.
            language: language code of a multilingual model; by default the one saved with it.
        Raises:
            UserError: it is no such export, it is damaged, or it does not know the language.
        """
        ctranslate2 = import_ctranslate2("transcribing with an export")
        folder = Path(folder)
        if not is_export(folder):
            raise UserError(
                f"{folder} is no export that engine ctranslate2 runs; recipes/export_ctranslate2.py --audio_context "
                "dynamic writes one to <output_dir>/model"
            )
        self.name_or_path = str(folder)
        self.device = torch.device("cpu")
        self.encoder = load_model(DynamicContextEncoder, str(folder / ENCODER)).to(self.device)
        self.config = self.encoder.config
        self.generation_config = GenerationConfig.from_pretrained(folder / ENCODER)
        self.processor = load_processor(str(folder / ENCODER))
        prompt_language(self, self.processor, language)
        try:
            self.decoder = ctranslate2.models.Whisper(str(folder), device="cpu", intra_threads=torch.get_num_threads())
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{folder} is damaged: {str(error).splitlines()[0]}; export it again") from error
        self.to_storage = ctranslate2.StorageView.from_array
        self.seconds: Counter[str] = Counter()

    def generate(
        self, input_features: torch.Tensor, *, max_new_tokens: int, num_beams: int | None = None
    ) -> list[list[int]]:
        """Tokens of a batch, without the prompt.

        Args:
            input_features: log-mel features of Whisper's extractor up to the end of the longest clip, `(batch,
                num_mel_bins, frames)`, `frames` even and at most 3000.
            max_new_tokens: limit of tokens per text.
            num_beams: width of the beam search, 1 is greedy; by default that of the checkpoint.
        """
        start = time.perf_counter()
        states = self.to_storage(self.encode(input_features).numpy())
        self.seconds["encoder"] += time.perf_counter() - start
        start = time.perf_counter()
        results = self.decoder.generate(
            states,
            [self.processor.tokenizer.prefix_tokens] * len(input_features),
            beam_size=num_beams or self.generation_config.num_beams or BEAMS,
            max_length=min(2 * max_new_tokens, self.config.max_target_positions),  # half is for a text before
        )
        self.seconds["decoder"] += time.perf_counter() - start
        return [result.sequences_ids[0] for result in results]

    @torch.inference_mode()
    def encode(self, input_features: torch.Tensor) -> torch.Tensor:
        """What the decoder attends to: states of audio and silence, `(batch, positions, d_model + EXTRA)`."""
        least = self.config.min_audio_context
        frames = min(2 * self.config.max_source_positions, max(input_features.shape[-1], least + least % 2))
        outputs = self.encoder(fit_audio_context(input_features, frames))
        return with_bias(whole_context(outputs, self.config), self.config).contiguous()


def with_bias(states: torch.Tensor, config: WhisperConfig) -> torch.Tensor:
    """States `(batch, positions, d_model)` with `EXTRA` more dimensions; the first is log n."""
    extended = torch.nn.functional.pad(states, (0, EXTRA))
    bias = context_bias(states, config)
    if bias is not None:
        extended[..., -EXTRA] = bias[0, 0, 0]
    return extended


def is_export(name_or_path: str | Path) -> bool:
    """Whether a folder is one that `ExportedWhisper` loads."""
    folder = Path(name_or_path)
    return (folder / "model.bin").is_file() and (folder / ENCODER).is_dir()


def import_ctranslate2(purpose: str) -> ModuleType:
    """The package. Raises UserError if it is not installed; `purpose` is what it is needed for."""
    if importlib.util.find_spec("ctranslate2") is None:
        raise UserError(f'{purpose} needs CTranslate2: pip install "underheard[export]"')
    import ctranslate2

    return ctranslate2
