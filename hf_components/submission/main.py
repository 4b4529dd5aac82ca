"""Transcribe the utterances of a competition, offline, with the model in the folder `model` beside this file.

    python main.py

It reads `data/utterance_metadata.jsonl`, `data/submission_format.jsonl` and the audio in `data/`. It writes
`submission/submission.jsonl`: every id of the format once, in the same order, with an empty text if the audio cannot
be read. An error in a row or a recording affects only its own text, and is reported on standard error. Both folders
are in the working directory if it holds these data, else beside this file. The program needs torch, transformers (4.57
or 5), soundfile and numpy, and no network. With a GPU the model runs in float16, else in float32.
"""

import json
import os
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import numpy as np
import soundfile
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

HERE = Path(__file__).resolve().parent
METADATA, FORMAT = "utterance_metadata.jsonl", "submission_format.jsonl"
SAMPLING_RATE = 16_000
LONGEST = 30 * SAMPLING_RATE
SHORTEST = SAMPLING_RATE // 5  # samples of one piece; shorter ones are padded with silence
BLOCK = 1 << 20  # frames per read; a wrong length in the header must not decide how much memory is allocated
UNKNOWN_LENGTH = (1 << 63) - 1  # libsndfile's frame count for a stream without a length in its header
QUIET = SAMPLING_RATE // 5  # samples of the quiet window in which a long recording is cut
BATCH_SIZE = {"cuda": 64, "cpu": 8}  # pieces
BATCHES_AHEAD = 4  # batches that are read while the model works
LOG_EVERY, MOST_COMPLAINTS = 30, 100  # seconds, lines; competitions truncate long logs


def main() -> None:
    """Transcribe every utterance of the format, see the top of this file."""
    root = find_root()
    data = root / "data"
    start = time.monotonic()
    ids = list(read_rows(data / FORMAT))
    metadata = read_rows(data / METADATA)
    model, processor = load_model()
    loaded = time.monotonic()
    log(
        f"{len(ids)} utterances in {data}; {type(model).__name__} on {model.device} in {model.dtype}, "
        f"transformers {transformers.__version__}, torch {torch.__version__}"
    )
    complain = Complaints()
    clips = find_clips(ids, metadata, data, complain)
    texts = dict.fromkeys(ids, "") | transcribe(model, processor, clips, complain)
    write_submission(root / "submission" / "submission.jsonl", texts, model.config.submission["field"])
    log(
        "finished "
        + json.dumps(
            {
                "utterances": len(ids),
                "unreadable": len(complain.ids),
                "audio_seconds": round(sum(clip[2] for clip in clips), 1),
                "loading_seconds": round(loaded - start, 2),
                "transcribing_seconds": round(time.monotonic() - loaded, 2),
            }
        )
    )


def find_root() -> Path:
    """The working directory if it holds `data/utterance_metadata.jsonl`, else the folder of this file."""
    for root in (Path.cwd(), HERE):
        if (root / "data" / METADATA).is_file():
            return root
    sys.exit(f"error: there is no data/{METADATA} in the working directory {Path.cwd()}, nor in {HERE}")


def read_rows(file: Path) -> dict[str, dict]:
    """Rows by id, in the order of the file."""
    rows = {}
    with file.open("rb") as lines:  # bytes: a line in another encoding is an error of this line only
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                    rows[row["utterance_id"]] = row
                except (ValueError, KeyError, TypeError) as error:
                    log(f"{file}, line {number}, is not JSON with an utterance_id and is left out: {error!r}")
    return rows


class WhisperForCTC(transformers.WhisperPreTrainedModel):
    """The encoder of a Whisper, and a layer that writes a token or a blank for every 20 ms."""

    def __init__(self, config: transformers.WhisperConfig):
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        self.ctc_head = torch.nn.Linear(config.d_model, config.vocab_size)
        self.post_init()

    def forward(self, input_features: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, 1500, vocab_size)` of log-mel features `(batch, num_mel_bins, 3000)`."""
        return self.ctc_head(self.encoder(input_features).last_hidden_state)


def load_model() -> tuple[transformers.PreTrainedModel, transformers.ProcessorMixin]:
    """Model in evaluation mode, in float16 on a GPU or float32 on the CPU, and processor of the folder `model`."""
    transformers.logging.set_verbosity_error()
    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    how = transformers.AutoConfig.from_pretrained(HERE / "model").submission
    kind = WhisperForCTC if how["kind"] == "whisper_ctc" else getattr(transformers, how["class"])
    model = kind.from_pretrained(HERE / "model", dtype=dtype).to(device).eval()
    for part in vars(model.config).values():  # some parts load without attention, and then see padding
        if isinstance(part, transformers.PretrainedConfig) and part._attn_implementation is None:
            part._attn_implementation = model.config._attn_implementation
    if how["kind"] == "whisper_ctc":  # no processor of transformers 4 has such a pair
        extractor = transformers.WhisperFeatureExtractor.from_pretrained(HERE / "model")
        tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(HERE / "model")
        return model, SimpleNamespace(feature_extractor=extractor, tokenizer=tokenizer)
    processor = transformers.AutoProcessor.from_pretrained(HERE / "model")
    processor.tokenizer.padding_side = "left"  # a text follows directly after its prompt
    return model, processor


def find_clips(ids: Iterable[str], metadata: dict[str, dict], data: Path, complain: "Complaints") -> list[tuple]:
    """`(id, file, seconds)` of readable files, the longest first: if memory is too small, it fails at the start."""
    folders = [data, *sorted(path for path in data.glob("audio*") if path.is_dir())]

    def find(utterance_id: str) -> tuple[str, Path, float]:
        file = find_file(metadata.get(utterance_id, {}).get("audio_path"), folders)
        header = soundfile.info(file)
        if header.frames == UNKNOWN_LENGTH:
            raise ValueError(f"{file} was written to a pipe and its header gives no length")
        return utterance_id, file, header.duration

    with ThreadPoolExecutor() as readers:
        found = readers.map(lambda utterance_id: complain.attempt(utterance_id, find, utterance_id), ids)
        return sorted(filter(None, found), key=lambda clip: -clip[2])


def find_file(audio_path: str | None, folders: list[Path]) -> Path:
    """The recording in the first folder that has the whole path, else the only file of its name in these folders.

    Raises:
        ValueError: there is no path.
        FileNotFoundError: no folder has the file, or several have one of its name.
    """
    if not audio_path:
        raise ValueError(f"it has no audio_path in {METADATA}")
    for spelling in dict.fromkeys(spellings(audio_path)):
        whole = [path for folder in folders if (path := folder / spelling).is_file()]
        if whole:
            return whole[0]
    names = []
    for spelling in dict.fromkeys(spellings(audio_path)):
        names = names or [path for folder in folders if (path := folder / Path(spelling).name).is_file()]
    if len(names) != 1:  # the wrong recording would be worse than none
        raise FileNotFoundError(
            f"{audio_path} is not in {', '.join(map(str, folders))}"
            + (f", and its name alone could be any of {', '.join(map(str, names))}" if names else "")
        )
    return names[0]


def spellings(path: str) -> Iterator[str]:
    """The path as given, then with the letters of a Mac or of others, and without backslashes and `%20`."""
    yield path
    for plain in (path, unquote(path).replace("\\", "/")):
        yield from (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))


def transcribe(model, processor, clips: list[tuple], complain: "Complaints") -> dict[str, str]:
    """Text by id, for all clips that could be read.

    Args:
        clips: `(id, file, seconds)` of each, see `find_clips`.
        complain: is told of every clip that cannot be read.
    """
    texts = {}
    start = time.monotonic()
    reported = 0.0
    size = BATCH_SIZE[model.device.type]
    total = sum(number_of_pieces(clip) for clip in clips)
    done = 0
    for batch, waveforms in read_ahead(in_batches(clips, size), complain):
        pieces = [
            (clip[0], piece)
            for clip, waveform in zip(batch, waveforms, strict=True)
            if waveform is not None
            for piece in cut(waveform)
        ]
        for first in range(0, len(pieces), size):
            part = pieces[first : first + size]
            for (utterance_id, _), text in zip(
                part, decode(model, processor, [piece for _, piece in part]), strict=True
            ):
                texts[utterance_id] = f"{texts.get(utterance_id, '')} {text.strip()}".strip()
        done += sum(map(number_of_pieces, batch))
        passed = time.monotonic() - start
        if passed - reported > LOG_EVERY or not reported or done == total:
            reported = passed
            log(f"{100 * done / total:.0f} % in {passed:.0f} s, {passed * (total - done) / done:.0f} s to go")
    return texts


def number_of_pieces(clip: tuple) -> int:
    """Greatest number of pieces of at most 30 s that a clip `(id, file, seconds)` is cut into."""
    return 1 + int(clip[2] * SAMPLING_RATE / LONGEST)


def in_batches(clips: list[tuple], size: int) -> Iterator[list[tuple]]:
    """Neighbouring clips of together at most `size` pieces; a clip of more pieces is a batch of its own."""
    batch: list[tuple] = []
    for clip in clips:
        if batch and sum(map(number_of_pieces, batch)) + number_of_pieces(clip) > size:
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch


def read_ahead(batches: Iterable[list[tuple]], complain: "Complaints") -> Iterator[tuple[list, list]]:
    """Each batch with its waveforms (None if unreadable), read a few batches before they are needed."""
    with ThreadPoolExecutor() as readers:
        waiting: deque = deque()
        for batch in batches:
            waiting.append((batch, [readers.submit(complain.attempt, clip[0], read_audio, clip[1]) for clip in batch]))
            if len(waiting) > BATCHES_AHEAD:
                batch, futures = waiting.popleft()
                yield batch, [future.result() for future in futures]
        for batch, futures in waiting:
            yield batch, [future.result() for future in futures]


def read_audio(file: Path) -> np.ndarray:
    """float32 waveform (samples,) at 16 kHz, mono, at least 0.2 s.

    Raises:
        ValueError: the file is empty, or has samples that are not finite.
        soundfile.LibsndfileError: the file cannot be read.
    """
    with soundfile.SoundFile(file) as audio:
        blocks = [audio.read(BLOCK, dtype="float32", always_2d=True)]
        while len(blocks[-1]) == BLOCK:
            blocks.append(audio.read(BLOCK, dtype="float32", always_2d=True))
        rate = audio.samplerate
    channels = np.concatenate(blocks)
    if not len(channels) or not np.isfinite(channels).all():
        raise ValueError(f"{file} is empty or holds samples that are not finite")
    waveform = channels.mean(axis=1)
    if rate != SAMPLING_RATE:  # band-limited interpolation by Fourier transform
        length = max(1, round(len(waveform) * SAMPLING_RATE / rate))
        waveform = np.fft.irfft(np.fft.rfft(waveform)[: length // 2 + 1], length) * (length / len(waveform))
    return np.pad(waveform, (0, max(0, SHORTEST - len(waveform)))).astype(np.float32)


def cut(waveform: np.ndarray) -> Iterator[np.ndarray]:
    """Cut into pieces of at most 30 s, each at the middle of the quietest 0.2 s of its last 10 s.

    Args:
        waveform: float32 (samples,) at 16 kHz.
    Returns:
        pieces (samples,) that together are the waveform.
    """
    while len(waveform) > LONGEST:
        first = LONGEST * 2 // 3
        energy = np.concatenate([[0.0], np.cumsum(np.square(waveform[first:LONGEST], dtype=np.float64))])
        energy = energy[QUIET:] - energy[:-QUIET]  # of each quiet window
        end = first + len(energy) - 1 - int(energy[::-1].argmin()) + QUIET // 2
        yield waveform[:end]
        waveform = waveform[end:]
    yield waveform


@torch.inference_mode()
def decode(model, processor, pieces: list[np.ndarray]) -> list[str]:
    """Texts of a batch; a batch that does not fit on the GPU is divided.

    Args:
        pieces: float32 waveforms (samples,) at 16 kHz, each of at most 30 s; the same in all functions `decode_…`.
    Raises:
        torch.cuda.OutOfMemoryError: a single piece does not fit.
    """
    try:
        return DECODERS[model.config.submission["kind"]](model, processor, pieces)
    except torch.cuda.OutOfMemoryError:
        if len(pieces) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(pieces) // 2
    return decode(model, processor, pieces[:half]) + decode(model, processor, pieces[half:])


def decode_whisper(model, processor, pieces: list[np.ndarray]) -> list[str]:
    """Texts of pieces (samples,) by a Whisper, which always sees a window of 30 s."""
    inputs = processor.feature_extractor(
        pieces, sampling_rate=SAMPLING_RATE, return_tensors="pt", device=model.device.type
    )
    features = inputs.to(model.device, model.dtype).input_features
    return processor.tokenizer.batch_decode(model.generate(features), skip_special_tokens=True)


def decode_ctc(model, processor, pieces: list[np.ndarray]) -> list[str]:
    """Texts of pieces (samples,) by a model with a token or a blank per frame, greedily."""
    options = {"sampling_rate": SAMPLING_RATE, "return_tensors": "pt", "padding": True}
    extractor = processor.feature_extractor
    if not isinstance(extractor, transformers.Wav2Vec2FeatureExtractor):  # whose own setting is right
        options["return_attention_mask"] = True
    inputs = extractor(pieces, **options).to(model.device, model.dtype)
    blank = model.config.pad_token_id
    if model.can_generate():  # greedy, without padding
        tokens = model.generate(**inputs)
    else:
        tokens = model(**inputs).logits.argmax(-1)
        if "attention_mask" in inputs:  # tokens in the padding are not speech
            real = model._get_feature_vector_attention_mask(tokens.shape[1], inputs.attention_mask).bool()
            tokens[~real] = blank
    return [collapse(processor.tokenizer, frames, blank) for frames in tokens]


def decode_whisper_ctc(model, processor, pieces: list[np.ndarray]) -> list[str]:
    """Texts of pieces (samples,) by a Whisper encoder with CTC; what it writes after the end of one is left out."""
    extractor = processor.feature_extractor
    inputs = extractor(pieces, sampling_rate=SAMPLING_RATE, return_tensors="pt", device=model.device.type)
    tokens = model(inputs.input_features.to(model.device, model.dtype)).argmax(-1)
    # The STFT is centred, so frames after the end still hold samples of the clip. A position is two frames.
    samples = torch.tensor([len(piece) for piece in pieces], device=model.device)
    ends = -(-(samples + extractor.n_fft // 2) // (2 * extractor.hop_length))
    blank = model.config.pad_token_id
    tokens[torch.arange(tokens.shape[1], device=model.device) >= ends[:, None]] = blank
    return [collapse(processor.tokenizer, row, blank) for row in tokens]


def decode_transducer(model, processor, pieces: list[np.ndarray]) -> list[str]:
    """Texts of pieces (samples,) by a transducer, greedily."""
    inputs = processor(audio=pieces, sampling_rate=SAMPLING_RATE, return_tensors="pt", padding=True)
    inputs = inputs.to(model.device, model.dtype)
    output = model.generate(**inputs)
    # Tokens that begin after the end of their clip are not speech.
    begins = output.durations.cumsum(dim=1) - output.durations
    frames = model._get_subsampling_output_length(inputs["attention_mask"].sum(dim=1))
    tokens = output.sequences.masked_fill(begins >= frames[:, None], processor.tokenizer.pad_token_id)
    return processor.batch_decode(tokens, skip_special_tokens=True)


def decode_generated(model, processor, pieces: list[np.ndarray]) -> list[str]:
    """Texts of pieces (samples,) by a model that writes token by token.

    It is an encoder-decoder, or a language model that is asked for a transcript.
    """
    how = model.config.submission
    options = {"sampling_rate": SAMPLING_RATE, "return_tensors": "pt"}
    if how["request"] is None:
        inputs = processor(audio=pieces, padding=True, **options)
    else:
        options["text_kwargs"] = {"padding": True}
        inputs = processor.apply_transcription_request(pieces, **how["request"], processor_kwargs=options)
    inputs = inputs.to(model.device, model.dtype)
    tokens = model.generate(**inputs, max_new_tokens=how["max_new_tokens"], do_sample=False, **how["writing"])
    if "input_ids" in inputs:  # the output begins with it
        tokens = tokens[:, inputs["input_ids"].shape[1] :]
    return processor.decode(tokens, skip_special_tokens=True, **how["reading"])


def collapse(tokenizer, frames: torch.Tensor, blank: int) -> str:
    """The text of a CTC model's best tokens (frames,): first repetitions are merged, then blanks removed.

    A tokenizer that skips special tokens does this in the wrong order and writes "helo" for "hello".
    """
    tokens = [token for token in frames.unique_consecutive().tolist() if token != blank]
    return tokenizer.decode(tokens, group_tokens=False, skip_special_tokens=True)


DECODERS = {
    "whisper": decode_whisper,
    "ctc": decode_ctc,
    "whisper_ctc": decode_whisper_ctc,
    "transducer": decode_transducer,
    "generates": decode_generated,
}


def write_submission(file: Path, texts: dict[str, str], field: str) -> None:
    """Write the complete file, or leave an earlier one unchanged."""
    file.parent.mkdir(exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as lines:
        for utterance_id, text in texts.items():
            lines.write(json.dumps({"utterance_id": utterance_id, field: text}, ensure_ascii=False) + "\n")
    temporary.replace(file)


class Complaints:
    """Logs which utterances get an empty text and why, and counts them."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def attempt(self, utterance_id: str, function: Callable, *arguments) -> Any:
        """The result of the function; None and a complaint if it raises any error."""
        try:
            return function(*arguments)
        except Exception as error:  # files can be broken in many ways, and none may affect the other texts
            self(utterance_id, f"{type(error).__name__}: {error}")

    def __call__(self, utterance_id: str, reason: str) -> None:
        self.ids.append(utterance_id)
        if len(self.ids) <= MOST_COMPLAINTS:
            log(f"{utterance_id} gets an empty text: {reason}")
        elif len(self.ids) == MOST_COMPLAINTS + 1:
            log("further ones are only counted")


def log(message: str) -> None:
    """Write the start of a message to standard error, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {message[:300]}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
