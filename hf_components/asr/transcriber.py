"""`Transcriber`: one interface to every speech recogniser.

from hf_components.asr.transcriber import Transcriber
transcriber = Transcriber.from_pretrained("openai/whisper-small", adapter="runs/lora")
print(transcriber.transcribe("audio.wav"))
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr.families import family_of, load_asr
from hf_components.asr.recordings import Files, Recordings, Rows
from hf_components.checkpoints import merge_adapter
from hf_components.runtime import Progress, UserError
from hf_components.speech import SAMPLING_RATE, AudioError, cut_at_quiet, decode, duration_batches, seconds_batches
from hf_components.whisper import MoeWhisperForConditionalGeneration
from hf_components.whisper.audio_context import DynamicContextGenerationMixin
from hf_components.whisper.configuration_moe_whisper import MIXTURES

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Transcript:
    """The result for one recording. If it could not be read, `text` is "" and `problem` gives the reason."""

    id: str
    text: str
    seconds: float
    problem: str | None = None


class Transcriber:
    """A speech recogniser of any family of `hf_components.asr.families`, ready to transcribe.

    Recordings are transcribed in batches with a limit on seconds of audio, the longest first. Recordings that are too
    long for the model are cut at quiet places. If a recording cannot be read, only its own text is missing. Processes
    started by `accelerate launch` share the work.

    Args:
        model: model in evaluation mode, on its device.
        processor: processor of the same checkpoint.
        language: code such as "en", for models with a prompt in each request; a Whisper gets its prompt when loaded.
        batch_seconds: seconds of audio per batch, padding included (30 s for each clip of a stock Whisper).
        batch_size: recordings per batch of any length, instead of `batch_seconds`.
        max_new_tokens: limit of tokens for one piece of audio, for decoders that write token by token.
        num_beams: width of the beam search; 1 is greedy. By default what the checkpoint says, which is 5 for a
            Whisper that says nothing, and greedy for other models.
        num_workers: processes that decode audio in advance; with 0 the main process does it between batches.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        language: str | None = None,
        batch_seconds: float = 240.0,
        batch_size: int | None = None,
        max_new_tokens: int = 225,
        num_beams: int | None = None,
        num_workers: int = 0,
    ):
        self.family = family_of(model)
        self.model = model
        self.processor = processor
        self.language = language
        self.batch_seconds = batch_seconds
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.num_beams = num_beams
        self.num_workers = num_workers

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        language: str | None = None,
        *,
        adapter: str | Path | Sequence[str | Path] = (),
        dtype: str = "auto",
        device: str | torch.device | None = None,
        audio_context: str | None = None,
        mixture: str | None = None,
        **options,
    ) -> "Transcriber":
        """Load a checkpoint.

        Args:
            name_or_path: folder or Hub id of a model that a family supports.
            language: code such as "en", for models that have it in their prompt; by default the language saved in the
                checkpoint, else "en".
            adapter: folder or Hub id of a PEFT LoRA of this model, or several, which are merged one after the other.
            dtype: float32, float16, bfloat16 or auto: bfloat16 on a GPU that supports it, float16 on other GPUs,
                float32 elsewhere.
            device: device of the model; by default that of this process.
            audio_context: audio context of a Whisper, instead of its own: "full" for 30 s, "dynamic" for the length of
                the clips.
            mixture: how a MoE-Whisper uses its experts, instead of its own way: see `MoeWhisperConfig`.
            options: other arguments of the class.
        Raises:
            UserError: there is no such checkpoint or adapter, no family supports it, the adapter belongs to another
                model, or the model has no audio context or mixture to choose.
        """
        device = torch.device(device) if device is not None else PartialState().device
        model, processor = load_asr(str(name_or_path), language, choose_dtype(dtype, device))
        if audio_context is not None:
            if not isinstance(model, DynamicContextGenerationMixin):
                raise UserError(f"audio_context is for a Whisper, and {name_or_path} is not one; leave it out")
            model.set_audio_context(audio_context, model.min_audio_context)
        if mixture is not None:
            if not isinstance(model, MoeWhisperForConditionalGeneration):
                raise UserError(f"mixture is for a MoE-Whisper, and {name_or_path} is not one; leave it out")
            if mixture not in MIXTURES:
                raise UserError(f"mixture must be {', '.join(MIXTURES)}, got {mixture!r}")
            model.config.mixture = mixture
        for folder in [adapter] if isinstance(adapter, (str, Path)) else adapter:
            model = merge_adapter(model, str(folder))
        return cls(model.to(device).eval(), processor, language=language, **options)

    def transcribe(self, path: str | Path) -> str:
        """The text of one audio file. Raises AudioError if it cannot be read."""
        return self._transcribe({0: decode(path)})[0]

    def transcribe_files(self, paths: Sequence[str | Path]) -> list[Transcript]:
        """Transcripts of audio files, in their order; every process returns all of them."""
        found = {transcript.id: transcript for transcript in self._collect(Files({str(path): path for path in paths}))}
        return [found[str(path)] for path in paths]

    def transcribe_corpus(
        self,
        corpus: datasets.Dataset,
        *,
        expert_weights: torch.Tensor | None = None,
        description: str = "transcribing",
    ) -> list[Transcript]:
        """Transcripts of rows of a prepared corpus, in their order; every process returns all of them.

        Args:
            expert_weights: weights that replace the router of a MoE-Whisper, `(utterances, experts)`.
            description: title of the progress bar.
        """
        return self._collect(Rows(corpus), expert_weights, description)

    def stream(
        self,
        recordings: Recordings,
        expert_weights: torch.Tensor | None = None,
        description: str = "transcribing",
    ) -> Iterator[list[Transcript]]:
        """This process's share of the transcripts, batch by batch, in no particular order."""
        state = PartialState()
        ids = recordings.ids
        seconds, unreadable = _durations(recordings, disable=not state.is_main_process)
        readable = list(seconds)
        batches = [[readable[i] for i in batch] for batch in self._batches([seconds[i] for i in readable])]
        batches = batches[state.process_index :: state.num_processes]
        if state.is_main_process and unreadable:
            yield [Transcript(ids[i], "", 0.0, problem) for i, problem in unreadable.items()]
        loader = torch.utils.data.DataLoader(
            _Batches(recordings, batches),
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=list,  # keeps arrays as they are
            generator=torch.Generator(),  # else the loader would change the random state of a training in progress
        )
        with Progress(
            total=round(sum(seconds[i] for batch in batches for i in batch)),
            desc=description,
            unit="s of audio",
            disable=not state.is_main_process,
        ) as progress:
            for batch, clips in zip(batches, loader, strict=True):
                problems = {
                    i: f"{clip.reason}: {clip.detail}"
                    for i, clip in zip(batch, clips, strict=True)
                    if isinstance(clip, AudioError)
                }
                decoded = {i: clip for i, clip in zip(batch, clips, strict=True) if i not in problems}
                texts = self._transcribe(decoded, expert_weights)
                yield [Transcript(ids[i], texts.get(i, ""), seconds[i], problems.get(i)) for i in batch]
                progress.update(round(sum(seconds[i] for i in batch)))

    def _collect(self, recordings: Recordings, *options) -> list[Transcript]:
        found = [transcript for batch in self.stream(recordings, *options) for transcript in batch]
        if PartialState().num_processes > 1:
            found = gather_object(found)
        by_id = {transcript.id: transcript for transcript in found}
        return [by_id[name] for name in recordings.ids]

    def _heard_seconds(self, seconds: float) -> float:
        return self.family.heard_seconds(self.model, min(seconds, self.family.longest_seconds))

    def _batches(self, seconds: Sequence[float]) -> list[list[int]]:
        if self.batch_size is not None:
            return duration_batches(seconds, self.batch_size)
        return seconds_batches([max(one, self._heard_seconds(one)) for one in seconds], self.batch_seconds)

    def _transcribe(
        self, clips: Mapping[int, np.ndarray], expert_weights: torch.Tensor | None = None
    ) -> dict[int, str]:
        """Texts of clips by row; a clip that is too long is cut, and the texts of its pieces are joined."""
        pieces = [
            (key, piece)
            for key, clip in clips.items()
            for piece in cut_at_quiet(clip, self.family.longest_seconds, SAMPLING_RATE)
        ]
        written = [""] * len(pieces)
        for batch in self._batches([len(piece) / SAMPLING_RATE for _, piece in pieces]):
            rows = [pieces[i][0] for i in batch]
            weights = None if expert_weights is None else expert_weights[rows]
            for i, text in zip(batch, self._decode([pieces[i][1] for i in batch], weights), strict=True):
                written[i] = text.strip()
        texts: dict[int, list[str]] = {key: [] for key in clips}
        for (key, _), text in zip(pieces, written, strict=True):
            texts[key] += [text] if text else []
        return {key: " ".join(parts) for key, parts in texts.items()}

    def _bound(self) -> str:
        name = "batch_seconds" if self.batch_size is None else "batch_size"
        return f"{name}, now {getattr(self, name):g}"

    @torch.inference_mode()
    def _decode(self, clips: list[np.ndarray], expert_weights: torch.Tensor | None) -> list[str]:
        inputs = self.family.inputs(self.processor, clips, language=self.language)
        routing = {} if expert_weights is None else {"expert_weights": expert_weights}
        try:
            return self.family.decode(
                self.model,
                self.processor,
                inputs,
                max_new_tokens=self.max_new_tokens,
                num_beams=self.num_beams,
                **routing,
            )
        except torch.OutOfMemoryError as error:
            where = f"the memory of {self.model.device}"
            raise UserError(
                f"a batch of {len(clips)} clips does not fit into {where}: lower {self._bound()}"
            ) from error


def transcribe(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    corpus: datasets.Dataset,
    *,
    batch_size: int = 16,
    expert_weights: torch.Tensor | None = None,
    description: str = "transcribing",
    **options,
) -> list[str]:
    """Transcribe a corpus with a model in memory: texts in the order of its rows. Every process returns all of them.

    Args:
        model: model of a family of `hf_components.asr`; if it is in training mode, it returns to it afterwards.
        corpus: rows of a prepared corpus, audio not decoded.
        batch_size: utterances per batch and process.
        expert_weights: weights that replace the router of a MoE-Whisper, `(utterances, experts)`.
        description: title of the progress bar.
        options: `language`, `max_new_tokens`, `num_beams` of `Transcriber`.
    Raises:
        AudioError: a row cannot be decoded.
        UserError: no family supports the model, or it cannot decode with these settings.
    """
    was_training = model.training
    model.eval()
    transcriber = Transcriber(model, processor, batch_size=batch_size, **options)
    found = transcriber.transcribe_corpus(corpus, expert_weights=expert_weights, description=description)
    model.train(was_training)
    if broken := next((transcript for transcript in found if transcript.problem is not None), None):
        reason, _, detail = broken.problem.partition(": ")
        raise AudioError(broken.id, reason, detail)
    return [transcript.text for transcript in found]


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Type of the weights by name; for "auto" see `Transcriber.from_pretrained`."""
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name not in DTYPES:
        raise UserError(f"dtype must be auto, {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def _durations(recordings: Recordings, disable: bool) -> tuple[dict[int, float], dict[int, str]]:
    """Seconds by index for recordings with a readable header, and the problem by index for the others."""
    seconds = {}
    unreadable = {}
    for i in Progress(range(len(recordings.ids)), desc="measuring", unit="recording", disable=disable):
        try:
            seconds[i] = recordings.seconds(i)
        except AudioError as error:
            unreadable[i] = f"{error.reason}: {error.detail}"
    return seconds, unreadable


class _Batches(torch.utils.data.Dataset):
    """Waveforms of each batch; a recording that cannot be decoded is represented by its `AudioError`."""

    def __init__(self, recordings: Recordings, batches: list[list[int]]):
        self.recordings = recordings
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[np.ndarray | AudioError]:
        clips = []
        for i in self.batches[index]:
            try:
                clips.append(self.recordings.read(i))
            except AudioError as error:
                clips.append(error)
        return clips
