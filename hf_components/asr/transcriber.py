"""`Transcriber`: one interface to every speech recogniser.

from hf_components.asr import Transcriber
transcriber = Transcriber.from_pretrained("openai/whisper-small", adapter="runs/lora")
print(transcriber.transcribe("audio.wav"))

With `voice="voices/anna"` it writes what the voice of one person makes of it, see `hf_components.asr.voices`.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin

from hf_components.asr.batching import durations_of, read_ahead
from hf_components.asr.ctc import Ctc
from hf_components.asr.exported_whisper import WhisperInCTranslate2
from hf_components.asr.families import family_of, load_asr
from hf_components.asr.language_model import LanguageModel
from hf_components.asr.nbest import CHOICES, choosing_family
from hf_components.asr.recordings import Files, Recordings, Rows, require_waveform
from hf_components.asr.routing import MODEL_AS_IT_IS, Routing, routing_by
from hf_components.asr.transcript import Heard, Transcript, joined
from hf_components.asr.voiced_decoding import Example, decode_with_voices
from hf_components.asr.voices import Voices, load_voices
from hf_components.asr.words import Word
from hf_components.checkpoints import ExportedWhisper, choose_dtype, is_export, merge_adapter, writes
from hf_components.runtime import Progress, UserError, gathered, share_of
from hf_components.speech import SAMPLING_RATE, AudioError, cut_at_quiet, decode, duration_batches, seconds_batches
from hf_components.whisper import MoeWhisperForConditionalGeneration
from hf_components.whisper.configuration_moe_whisper import MIXTURES
from hf_components.whisper.dynamic_generation import DynamicContextGenerationMixin

ENGINES = ("transformers", "ctranslate2")


@dataclass(eq=False, repr=False)
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
        least_risk: of the beams of a Whisper take the text of least risk, see `hf_components.whisper.least_risk`; else
            the most probable one, as stock transformers does.
        num_workers: processes that decode audio in advance; with 0 the main process does it between batches.
        voices: voices of people over this model. A single one is that of every utterance; with several, each utterance
            names its own.
        word_confidences: also find how sure the model is of each word that it writes; not with voices.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    _: KW_ONLY
    language: str | None = None
    batch_seconds: float = 240.0
    batch_size: int | None = None
    max_new_tokens: int = 225
    num_beams: int | None = None
    least_risk: bool = True
    num_workers: int = 0
    voices: Voices | None = None
    word_confidences: bool = False

    def __post_init__(self):
        if self.word_confidences and self.voices is not None:
            raise UserError("word confidences are those of a model without voices; leave one of them out")
        self.family = WhisperInCTranslate2() if isinstance(self.model, ExportedWhisper) else family_of(self.model)
        self.spent: Counter[str] = Counter()

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
        voice: str | Path | Sequence[str | Path] = (),
        engine: str = "transformers",
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
            voice: name of a person, see `voice_folder`; folder of a voice; folder of several; or several of these.
            engine: "transformers", or "ctranslate2" for a folder that recipes/export_ctranslate2.py wrote with
                `--audio_context dynamic`, which runs on the CPU.
            options: other arguments of the class.
        Raises:
            UserError: there is no such checkpoint, adapter or voice, no family supports it, an adapter or a voice is
                of another model, the model has no audio context or mixture to choose, or the engine cannot run it.
        """
        if engine not in ENGINES:
            raise UserError(f"engine must be {' or '.join(ENGINES)}, got {engine!r}")
        if engine == "ctranslate2":
            fixed = {"adapter": adapter, "audio_context": audio_context, "mixture": mixture, "voice": voice}
            if given := [name for name, value in fixed.items() if value not in (None, (), [])]:
                raise UserError(f"{given[0]} is a part of an export; leave it out, or use engine transformers")
            exported = ExportedWhisper(name_or_path, language)
            return cls(exported, exported.processor, language=language, **options)
        if is_export(name_or_path):
            raise UserError(f"{name_or_path} is an export for CTranslate2; transcribe with engine ctranslate2")
        device = torch.device(device) if device is not None else PartialState().device
        model, processor = load_asr(str(name_or_path), language, choose_dtype(dtype, device))
        if audio_context is not None:
            _set_audio_context(model, audio_context)
        if mixture is not None:
            _set_mixture(model, mixture)
        for folder in _listed(adapter):
            model = merge_adapter(model, str(folder))
        model = model.to(device).eval()
        if folders := _listed(voice):
            options["voices"] = load_voices(model, folders)
        return cls(model, processor, language=language, **options)

    def choose_by(self, language_model: LanguageModel, choices: int = CHOICES) -> None:
        """From now on write what the frames of a CTC model and a language model find most probable together.

        Args:
            choices: number of texts, the most likely by the frames, among which the language model chooses.
        Raises:
            UserError: the model is no CTC model. Others have a language model of their own in their decoder.
        """
        if not isinstance(self.family, Ctc):
            raise UserError(
                f"an LLM chooses among the texts of a CTC model, and this is a {self.family.name} model, whose "
                "decoder knows its language already; leave the LLM out"
            )
        self.family = choosing_family(self.family, language_model, choices)

    @property
    def target(self) -> str:
        """What the model writes: words or IPA."""
        return writes(self.model)

    def transcribe(self, path: str | Path, *, voice: str | None = None) -> str:
        """The text of one audio file, with the voice of that name.

        Raises:
            AudioError: the file cannot be read.
            UserError: this is no path, there is no such voice, or there are several and none is named.
        """
        if not isinstance(path, (str, Path)):
            raise UserError(
                f"transcribe takes the path of one file, got {type(path).__name__}; transcribe_files takes several "
                "paths, and transcribe_waveform takes samples"
            )
        return self.transcribe_waveform(decode(path), voice=voice)

    def transcribe_waveform(self, waveform: np.ndarray, *, voice: str | None = None) -> str:
        """The same as `transcribe`, for a waveform in memory: floats `(samples,)`, mono, 16 kHz, in [-1, 1].

        Raises:
            UserError: it is no such waveform, or as in `transcribe`.
        """
        waveform = require_waveform(waveform)
        return self._transcribe({0: waveform}, self._routing(1, voices=None if voice is None else [voice]))[0]

    def transcribe_files(
        self, paths: Sequence[str | Path], *, voices: Sequence[str] | None = None
    ) -> list[Transcript]:
        """Transcripts of audio files, in their order; every process returns all of them.

        Args:
            voices: name of the voice of each file.
        Raises:
            UserError: there is a single path instead of a list, or as in `transcribe`.
        """
        if isinstance(paths, (str, Path)):
            raise UserError(f"transcribe_files takes a list of paths, got {paths}; transcribe takes a single one")
        names = [str(path) for path in paths]
        of_file = None if voices is None else dict(zip(names, voices, strict=True))
        files = Files(dict(zip(names, paths, strict=True)))
        of_ids = None if of_file is None else [of_file[name] for name in files.ids]
        found = {found.id: found for found in self._collect(files, self._routing(len(files.ids), voices=of_ids))}
        return [found[name] for name in names]

    def transcribe_corpus(
        self,
        corpus: datasets.Dataset,
        *,
        expert_weights: torch.Tensor | None = None,
        voices: Sequence[str] | None = None,
        description: str = "transcribing",
    ) -> list[Transcript]:
        """Transcripts of rows of a prepared corpus, in their order; every process returns all of them.

        Args:
            expert_weights: weights that replace the router of a MoE-Whisper, `(utterances, experts)`.
            voices: name of the voice of each row.
            description: title of the progress bar.
        """
        return self._collect(Rows(corpus), self._routing(len(corpus), expert_weights, voices), description)

    def transcribe_rows(self, rows: datasets.Dataset, voices: Sequence[str] | None = None) -> list[Transcript]:
        """The same as `transcribe_corpus`, by this process alone and without a progress bar."""
        routing = self._routing(len(rows), voices=voices)
        recordings = Rows(rows)
        clips = {i: recordings.read(i) for i in range(len(rows))}
        seconds = {i: len(clip) / SAMPLING_RATE for i, clip in clips.items()}
        texts: dict[int, str] = {}
        for batch in self._batches(list(seconds.values())):
            texts |= self._transcribe({i: clips[i] for i in batch}, routing)
        return [Transcript(recordings.ids[i], texts[i], seconds[i]) for i in clips]

    def stream(
        self, recordings: Recordings, routing: Routing | None = None, description: str = "transcribing"
    ) -> Iterator[list[Transcript]]:
        """This process's share of the transcripts, batch by batch, in no particular order.

        Args:
            routing: the experts or the voice of each recording; by default the router's choice, or the only voice.
            description: title of the progress bar.
        Raises:
            UserError: several voices are loaded and none is named, or a batch does not fit into memory.
        """
        state = PartialState()
        routing = routing or self._routing(len(recordings.ids))
        ids = recordings.ids
        seconds, unreadable = durations_of(recordings, disable=not state.is_main_process)
        readable = list(seconds)
        batches = [[readable[i] for i in batch] for batch in self._batches([seconds[i] for i in readable])]
        batches = share_of(batches)
        if state.is_main_process and unreadable:
            yield [Transcript(ids[i], "", 0.0, problem) for i, problem in unreadable.items()]
        with Progress(
            total=round(sum(seconds[i] for batch in batches for i in batch)),
            desc=description,
            unit="s of audio",
            disable=not state.is_main_process,
        ) as progress:
            start = time.perf_counter()
            for batch, clips in zip(batches, read_ahead(recordings, batches, self.num_workers), strict=True):
                self.spent["audio"] += time.perf_counter() - start
                read = dict(zip(batch, clips, strict=True))
                heard = self._hear({i: clip for i, clip in read.items() if isinstance(clip, np.ndarray)}, routing)
                yield [
                    Transcript(ids[i], heard[i].text, seconds[i], words=heard[i].words)
                    if i in heard
                    else Transcript(ids[i], "", seconds[i], clip.problem)
                    for i, clip in read.items()
                ]
                progress.update(round(sum(seconds[i] for i in batch)))
                start = time.perf_counter()

    def seconds_by_part(self) -> dict[str, float]:
        """Seconds that this process waited for "audio", computed "features", and ran the "model" so far.

        Of an export for CTranslate2 "encoder" and "decoder" are known, in place of "model".
        """
        spent = Counter(self.spent)
        if isinstance(self.model, ExportedWhisper):
            del spent["model"]
            spent |= self.model.seconds
        return {part: round(seconds, 2) for part, seconds in spent.items()}

    def _collect(
        self, recordings: Recordings, routing: Routing, description: str = "transcribing"
    ) -> list[Transcript]:
        found = [transcript for batch in self.stream(recordings, routing, description) for transcript in batch]
        by_id = {transcript.id: transcript for transcript in gathered(found)}
        return [by_id[name] for name in recordings.ids]

    def _routing(
        self, count: int, expert_weights: torch.Tensor | None = None, voices: Sequence[str] | None = None
    ) -> Routing:
        return routing_by(self.voices, count, expert_weights, voices)

    def _longest_piece(self, key: int, routing: Routing) -> float:
        """Seconds of a piece of a recording; an example of the voice takes its part of the model's window."""
        example = 0.0 if routing.voices is None else self.voices.longest_example(routing.voices[key])
        return self.family.longest_seconds - example

    def _heard_seconds(self, seconds: float) -> float:
        return self.family.heard_seconds(self.model, min(seconds, self.family.longest_seconds))

    def _batches(self, seconds: Sequence[float]) -> list[list[int]]:
        if self.batch_size is not None:
            return duration_batches(seconds, self.batch_size)
        return seconds_batches([max(one, self._heard_seconds(one)) for one in seconds], self.batch_seconds)

    def _transcribe(self, clips: Mapping[int, np.ndarray], routing: Routing = MODEL_AS_IT_IS) -> dict[int, str]:
        return {key: heard.text for key, heard in self._hear(clips, routing).items()}

    def _hear(self, clips: Mapping[int, np.ndarray], routing: Routing = MODEL_AS_IT_IS) -> dict[int, Heard]:
        """Texts of clips by row; a clip that is too long is cut, and the texts of its pieces are joined."""
        pieces = [
            (key, piece)
            for key, clip in clips.items()
            for piece in cut_at_quiet(clip, self._longest_piece(key, routing), SAMPLING_RATE)
        ]
        found: dict[int, Heard] = {}
        for batch in self._batches([len(piece) / SAMPLING_RATE for _, piece in pieces]):
            keys, sounds = map(list, zip(*(pieces[i] for i in batch), strict=True))
            texts = [text.strip() for text in self._decode(sounds, routing.of(keys))]
            found |= dict(zip(batch, map(Heard, texts, self._words(sounds, texts)), strict=True))
        parts: dict[int, list[Heard]] = {key: [] for key in clips}
        samples: dict[int, list[int]] = {key: [] for key in clips}
        for i, (key, piece) in enumerate(pieces):
            parts[key].append(found[i])
            samples[key].append(len(piece))
        return {key: joined(parts[key], samples[key]) for key in clips}

    @torch.inference_mode()
    def _words(self, clips: list[np.ndarray], texts: list[str]) -> list[list[Word] | None]:
        """The words of texts, if they are asked for; a clip without text has none."""
        if not self.word_confidences:
            return [None] * len(texts)
        spoken = [i for i, text in enumerate(texts) if text]
        asked = [clips[i] for i in spoken], [texts[i] for i in spoken]
        found = self.family.words(self.model, self.processor, *asked, language=self.language) if spoken else []
        words = dict(zip(spoken, found, strict=True))
        return [words.get(i, []) for i in range(len(texts))]

    @torch.inference_mode()
    def _decode(self, clips: list[np.ndarray], routing: Routing) -> list[str]:
        if routing.voices is None:
            return self._decode_by(self.model, clips, routing.expert_weights)
        return decode_with_voices(
            self.voices,
            self.model,
            clips,
            routing.voices,
            decode=self._decode_by,
            batches=self._batches,
            language=self.language,
        )

    def _decode_by(
        self,
        model: PreTrainedModel,
        clips: list[np.ndarray],
        expert_weights: torch.Tensor | None,
        examples: Sequence[Example | None] = (),
    ) -> list[str]:
        options = {} if expert_weights is None else {"expert_weights": expert_weights}
        if isinstance(model, DynamicContextGenerationMixin):
            options["least_risk"] = self.least_risk
        if any(examples):
            clips = [np.concatenate([sound, clip]) for (sound, _), clip in zip(examples, clips, strict=True)]
            options["said"] = [self.family.tokenize_text(self.processor, text) for _, text in examples]
        start = time.perf_counter()
        inputs = self.family.inputs(self.processor, clips, language=self.language)
        ready = time.perf_counter()
        self.spent["features"] += ready - start
        try:
            return self.family.decode(
                model, self.processor, inputs, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams, **options
            )
        except torch.OutOfMemoryError as error:
            bound = "batch_seconds" if self.batch_size is None else "batch_size"
            raise UserError(
                f"a batch of {len(clips)} clips does not fit into the memory of {self.model.device}: lower {bound}, "
                f"now {getattr(self, bound):g}"
            ) from error
        finally:
            self.spent["model"] += time.perf_counter() - ready


def _set_audio_context(model: PreTrainedModel, audio_context: str) -> None:
    if not isinstance(model, DynamicContextGenerationMixin):
        raise UserError(
            f"audio_context is for a Whisper, and {model.name_or_path} is not one; leave audio_context out"
        )
    model.set_audio_context(audio_context, model.min_audio_context)


def _set_mixture(model: PreTrainedModel, mixture: str) -> None:
    if not isinstance(model, MoeWhisperForConditionalGeneration):
        raise UserError(f"mixture is for a MoE-Whisper, and {model.name_or_path} is not one; leave mixture out")
    if mixture not in MIXTURES:
        raise UserError(f"mixture must be {', '.join(MIXTURES)}, got {mixture!r}")
    model.config.mixture = mixture


def _listed(given: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [given] if isinstance(given, (str, Path)) else given


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
        model: model of a family of `hf_components.asr`, or an `ExportedWhisper`; if it is in training mode, it returns
            to it afterwards.
        corpus: rows of a prepared corpus, audio not decoded.
        batch_size: utterances per batch and process.
        expert_weights: weights that replace the router of a MoE-Whisper, `(utterances, experts)`.
        description: title of the progress bar.
        options: `language`, `max_new_tokens`, `num_beams` of `Transcriber`.
    Raises:
        AudioError: a row cannot be decoded.
        UserError: no family supports the model, or it cannot decode with these settings.
    """
    was_training = isinstance(model, torch.nn.Module) and model.training
    if was_training:
        model.eval()
    transcriber = Transcriber(model, processor, batch_size=batch_size, **options)
    found = transcriber.transcribe_corpus(corpus, expert_weights=expert_weights, description=description)
    if was_training:
        model.train()
    if broken := next((transcript for transcript in found if transcript.problem is not None), None):
        raise AudioError(f"{broken.id}: {broken.problem}")
    return [transcript.text for transcript in found]
