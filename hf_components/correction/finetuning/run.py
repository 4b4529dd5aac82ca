"""Arguments of fine-tuning a wav2vec2, and transcription of its recordings before and after."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_components.asr import CtcNBest, Recogniser, Rows, Transcriber, load_recogniser, read_words, transcribe_to_file
from hf_components.correction.finetuning.consensus import Heard
from hf_components.runtime import PlotArguments, ResumeArguments, UserError, flag, run_stage
from hf_components.scoring import read_transcripts
from hf_components.training import BASE_SHARE, CtcTrainingArguments


@dataclass(kw_only=True)
class Wav2Vec2Arguments(ResumeArguments, PlotArguments):
    """Model, data and method of fine-tuning.

    Without the folders clean/ and noisy/, the recordings are split in half by name. `truth` has JSON lines of `file`
    (below `audio_dir`) and `text` for evaluation; the default is `audio_dir/truth.jsonl` if it exists. From `prepared`
    the transcripts and corrections are used again.
    """

    audio_dir: str = flag("folder of recordings, in clean/ and noisy/ or to be split in half by name")
    model: str = flag("recogniser of any family: folder or Hub id", default="facebook/wav2vec2-base-960h")
    truth: str | None = flag("JSON lines of file and text; default: audio_dir/truth.jsonl, if it exists", default=None)
    prepared: str | None = flag("output folder of another run on these recordings, to reuse its texts", default=None)
    use_lora: bool = flag("train a LoRA, written to <output_dir>/lora_adapters", default=True)
    no_lora: bool = flag("train all weights except convolutions, written to <output_dir>/model", default=False)
    merge: bool = flag(
        "also write the model with the merged LoRA to <output_dir>/model", default=False, needs="use_lora"
    )
    base_share: float = flag(BASE_SHARE, default=0.0, min=0, below=1)
    batch_seconds: float = flag("seconds of audio per batch in transcription, with padding", default=240.0, above=0)
    num_bootstrap: int = flag("resamples for each interval of the improvements", default=1000, min=0)

    def __post_init__(self):
        self.use_lora = self.use_lora and not self.no_lora
        if self.merge and not self.use_lora:
            raise UserError("--merge merges a LoRA, but there is none with --no_lora; leave one of them out")


@dataclass
class Wav2Vec2TrainingArguments(CtcTrainingArguments):
    """`CtcTrainingArguments` with defaults and short flags for fine-tuning a wav2vec2."""

    output_dir: str = flag("folder of the result", default="models/finetuned_wav2vec2")
    num_train_epochs: float = flag(
        "epochs of training", default=3, aliases=["--num_epochs"], above=0, needs={"max_steps": -1}
    )
    per_device_train_batch_size: int = flag(
        "recordings per step and device", default=4, aliases=["--batch_size"], min=1
    )
    learning_rate: float = flag("peak learning rate; a LoRA usually takes 3e-4 to 1e-3", default=3e-5, above=0)


def work_of(output_dir: str | Path) -> Path:
    """The folder of the finished phases of a run."""
    return Path(output_dir).with_name(f"{Path(output_dir).name}_work")


def transcribe_rows(
    transcriber: Recogniser, corpus: datasets.Dataset, folder: Path, *, inputs: Iterable[str | Path], resume: bool
) -> list[Heard]:
    """What a recogniser hears of rows of a prepared corpus, in its order. This is a stage, which can be resumed."""
    ids = corpus["id"][:]
    settings = {"ids": ids, **decoding_of(transcriber)}
    run_stage(
        folder,
        lambda work: transcribe_to_file(
            transcriber, Rows(corpus), work / "transcripts.jsonl", order=ids, identity={}, resume=resume
        ),
        config=settings,
        inputs=inputs,
        resume=resume,
    )
    return read_heard(folder / "transcripts.jsonl", ids)


def decoding_of(transcriber: Recogniser) -> dict:
    """The settings of a recogniser that change what it writes."""
    if not isinstance(transcriber, Transcriber):
        return {"decoding": transcriber.name}
    words = {"word_confidences": True} if transcriber.word_confidences else {}
    return {"batch_seconds": transcriber.batch_seconds, "decoding": transcriber.family.name, **words}


def read_heard(file: Path, ids: Sequence[str]) -> list[Heard]:
    """The transcripts of a file, by this project or by another tool, in the order of `ids`.

    Raises:
        UserError: it has no transcript of one of them.
    """
    texts = read_transcripts(file)
    words = read_words(file)
    if lacking := [name for name in ids if name not in texts]:
        raise UserError(
            f"{file} lacks {len(lacking)} of {len(ids)} recordings, such as {lacking[0]}: it needs a line of "
            "utterance_id and orthographic_text for each; a recording in which nothing was heard has an empty text"
        )
    return [Heard(texts[name], words.get(name)) for name in ids]


def hear_all(
    names: Iterable[str], corpus: datasets.Dataset, folder: Path, stem: str, *, batch_seconds: float, resume: bool
) -> dict[str, list[Heard]]:
    """What several recognisers hear of the rows, by name; each is loaded when the one before it is done.

    Args:
        folder: folder with the stage `corpus`; a stage `<stem>_<number>` is added for each recogniser.
    """
    heard = {}
    for number, name in enumerate(names):
        if name.endswith(".jsonl"):
            heard[name] = read_heard(Path(name), corpus["id"][:])
            continue
        transcriber = load_recogniser(name, batch_seconds=batch_seconds, word_confidences=True)
        inputs = [folder / "corpus", name]
        heard[name] = transcribe_rows(transcriber, corpus, folder / f"{stem}_{number}", inputs=inputs, resume=resume)
    return heard


def guess_rows(
    transcriber: Transcriber,
    corpus: datasets.Dataset,
    heard: Sequence[str],
    count: int,
    folder: Path,
    *,
    inputs: Iterable[str | Path],
    resume: bool,
) -> list[list[str]]:
    """The known text of each row, then up to `count` - 1 others by beam search, the most likely first.

    This is a stage like `transcribe_rows`. There are no other texts if the known text is empty, or if the recording is
    so long that it is cut.

    Args:
        transcriber: recogniser; its family is set to `CtcNBest`.
    """
    if count == 1:
        return [[text] for text in heard]
    transcriber.family = CtcNBest(count)
    transcriber.word_confidences = False
    chosen = [
        i
        for i, (text, seconds) in enumerate(zip(heard, corpus["duration"], strict=True))
        if text.strip() and seconds <= transcriber.family.longest_seconds
    ]
    lists = [[text] for text in heard]
    found = transcribe_rows(transcriber, corpus.select(chosen), folder, inputs=inputs, resume=resume)
    for i, written in zip(chosen, found, strict=True):
        same = " ".join(heard[i].split())
        lists[i] += [text for text in written.text.split("\n") if text and text != same][: count - 1]
    return lists
