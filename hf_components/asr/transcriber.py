"""`Transcriber`: any speech recogniser behind one door.

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
from hf_components.whisper.audio_context import DynamicContextMixin

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class Transcript:
    """What became of one recording of so many seconds: `text`, or "" and in `problem` why it could not be read."""

    id: str
    text: str
    seconds: float
    problem: str | None = None


class Transcriber:
    """A speech recogniser of any family of `hf_components.asr.families`, ready to transcribe.

    Recordings are transcribed in batches bounded by seconds of audio, the longest first; those longer than the model
    takes are cut at quiet places. A recording that cannot be read costs its own text only. Processes started by
    `accelerate launch` share the work.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same checkpoint.
        language: code such as "en", for models that are prompted with each request; a Whisper is when it is loaded.
        batch_seconds: of audio per batch, padding included (30 s for each clip of a stock Whisper).
        batch_size: recordings per batch, whatever their length, instead of `batch_seconds`.
        max_new_tokens: bound on the text of one piece of audio, where the decoder itself would not stop.
        num_beams: 1 is greedy.
        num_workers: processes that decode audio ahead of the model; 0 does it in between.
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
        num_beams: int = 1,
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
        **options,
    ) -> "Transcriber":
        """Load a checkpoint.

        Args:
            name_or_path: folder or Hub id of any model that a family serves.
            language: code such as "en", for models that are prompted with it; by default the one that the checkpoint
                was saved with, else "en".
            adapter: folder or Hub id of a PEFT LoRA of this model, or several, merged into it one after the other.
            dtype: float32, float16, bfloat16 or auto: on a GPU bfloat16 where it computes in it, else float16; float32
                elsewhere.
            device: this process's by default.
            audio_context: of a Whisper, instead of its own: "full" for 30 s, "dynamic" for the clips' length.
            options: as of the class.
        Raises:
            UserError: there is no such checkpoint or adapter, no family serves it, the adapter is of another model, or
                the model has no audio context to choose.
        """
        device = torch.device(device) if device is not None else PartialState().device
        model, processor = load_asr(str(name_or_path), language, choose_dtype(dtype, device))
        if audio_context is not None:
            if not isinstance(model, DynamicContextMixin):
                raise UserError(f"audio_context can be chosen for a Whisper, and {name_or_path} is none; leave it out")
            model.set_audio_context(audio_context, model.min_audio_context)
        for folder in [adapter] if isinstance(adapter, (str, Path)) else adapter:
            model = merge_adapter(model, str(folder))
        return cls(model.to(device).eval(), processor, language=language, **options)

    def transcribe(self, path: str | Path) -> str:
        """The text of one audio file.

        Raises:
            AudioError: it cannot be read.
        """
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
            expert_weights: `(utterances, experts)`, overrides the router of a MoE-Whisper.
            description: title of the progress bar.
        """
        return self._collect(Rows(corpus), expert_weights, description)

    def stream(
        self,
        recordings: Recordings,
        expert_weights: torch.Tensor | None = None,
        description: str = "transcribing",
    ) -> Iterator[list[Transcript]]:
        """Transcripts batch by batch, in no order: this process's share of them."""
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
            collate_fn=list,  # arrays stay arrays
            generator=torch.Generator(),  # the loader draws a seed; training in progress must not notice
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
        """Texts of clips by row; one that is too long is cut, and the texts of its pieces joined."""
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
            raise UserError(
                f"a batch of {len(clips)} clips does not fit into the memory of {self.model.device}: lower "
                f"{self._bound()}"
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
    """Texts of a corpus that a model in memory writes, in the order of its rows; every process returns all of them.

    Args:
        model: of any family of `hf_components.asr`; one in training goes on training afterwards.
        corpus: rows of a prepared corpus, audio not decoded.
        batch_size: utterances per batch and process.
        expert_weights: `(utterances, experts)`, overrides the router of a MoE-Whisper.
        description: title of the progress bar.
        options: `language`, `max_new_tokens`, `num_beams` of `Transcriber`.
    Raises:
        AudioError: a row cannot be decoded.
        UserError: no family serves the model, or it cannot decode with these settings.
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
    """Type of the weights by name; "auto" as `Transcriber.from_pretrained` says."""
    if name == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if name not in DTYPES:
        raise UserError(f"dtype must be auto, {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def _durations(recordings: Recordings, disable: bool) -> tuple[dict[int, float], dict[int, str]]:
    """Seconds by index of what has a readable header, and what is wrong with the rest."""
    seconds = {}
    unreadable = {}
    for i in Progress(range(len(recordings.ids)), desc="measuring", unit="recording", disable=disable):
        try:
            seconds[i] = recordings.seconds(i)
        except AudioError as error:
            unreadable[i] = f"{error.reason}: {error.detail}"
    return seconds, unreadable


class _Batches(torch.utils.data.Dataset):
    """Decoded waveforms of each batch, with an `AudioError` in place of each that cannot be decoded."""

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
