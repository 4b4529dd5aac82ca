"""Arguments of fine-tuning a wav2vec2, and how its recordings are transcribed before and after."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_components.asr import CtcNBest, Rows, Transcriber, transcribe_to_file
from hf_components.runtime import LogArguments, PlotArguments, UserError, flag, run_stage
from hf_components.scoring import read_transcripts
from hf_components.training import CtcTrainingArguments


@dataclass(kw_only=True)
class Wav2Vec2Arguments(LogArguments, PlotArguments):
    """What is fine-tuned on what, and how."""

    audio_dir: str = flag("folder of recordings, in clean/ and noisy/ or to be split in half by name")
    model: str = flag(
        "wav2vec2, HuBERT or WavLM that writes letters by CTC: folder or Hub id", default="facebook/wav2vec2-base-960h"
    )
    truth: str | None = flag(
        "JSON lines of file (below audio_dir) and text, to judge by; audio_dir/truth.jsonl if it is there",
        default=None,
    )
    prepared: str | None = flag(
        "output folder of another run on these recordings, whose transcripts and corrections are taken over",
        default=None,
    )
    use_lora: bool = flag("train a LoRA, written to <output_dir>/lora_adapters", default=True)
    no_lora: bool = flag("train all weights but the convolutions', written to <output_dir>/model", default=False)
    merge: bool = flag("write the model with its LoRA merged in to <output_dir>/model, too", default=False)
    batch_seconds: float = flag("audio per batch in transcription, padding included", default=240.0, above=0)
    num_bootstrap: int = flag("resamples for each interval of the improvements", default=1000, min=0)
    resume: bool = flag("keep finished phases, continue an interrupted one", default=True)
    force_restart: bool = flag("start from nothing, whatever is there", default=False)

    def __post_init__(self):
        self.use_lora = self.use_lora and not self.no_lora
        self.resume = self.resume and not self.force_restart
        if self.merge and not self.use_lora:
            raise UserError("--merge merges a LoRA, and there is none with --no_lora; leave one of them out")


@dataclass
class Wav2Vec2TrainingArguments(CtcTrainingArguments):
    """`CtcTrainingArguments` with the defaults and the short flags of fine-tuning a wav2vec2."""

    output_dir: str = flag("Folder of the result.", default="models/finetuned_wav2vec2")
    num_train_epochs: float = flag(
        "Times that each chosen recording is trained on.", default=3, aliases=["--num_epochs"], above=0
    )
    per_device_train_batch_size: int = flag(
        "Recordings per step and device.", default=4, aliases=["--batch_size"], min=1
    )
    learning_rate: float = flag("Peak learning rate; a LoRA usually takes 3e-4 to 1e-3.", default=3e-5, above=0)


def work_of(output_dir: str | Path) -> Path:
    """The folder of the finished phases of a run."""
    return Path(output_dir).with_name(f"{Path(output_dir).name}_work")


def transcribe_rows(
    transcriber: Transcriber, corpus: datasets.Dataset, folder: Path, *, inputs: Iterable[str | Path], resume: bool
) -> list[str]:
    """Texts of rows of a prepared corpus, in its order: a stage that goes on where it was stopped."""
    ids = corpus["id"][:]
    settings = {"ids": ids, "batch_seconds": transcriber.batch_seconds, "decoding": transcriber.family.name}
    run_stage(
        folder,
        lambda work: transcribe_to_file(
            transcriber, Rows(corpus), work / "transcripts.jsonl", order=ids, identity={}, resume=resume
        ),
        config=settings,
        inputs=inputs,
        resume=resume,
    )
    texts = read_transcripts(folder / "transcripts.jsonl")
    return [texts[name] for name in ids]


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
    """What was heard of each row, then up to `count` - 1 other texts by beam search, the likeliest first: a stage as
    `transcribe_rows`. Where nothing was heard, or the recording is cut to be transcribed, there are no others.

    Args:
        transcriber: its family becomes `CtcNBest`.
    """
    if count == 1:
        return [[text] for text in heard]
    transcriber.family = CtcNBest(count)
    chosen = [
        i
        for i, (text, seconds) in enumerate(zip(heard, corpus["duration"], strict=True))
        if text.strip() and seconds <= transcriber.family.longest_seconds
    ]
    lists = [[text] for text in heard]
    for i, written in zip(
        chosen, transcribe_rows(transcriber, corpus.select(chosen), folder, inputs=inputs, resume=resume), strict=True
    ):
        same = " ".join(heard[i].split())
        lists[i] += [text for text in written.split("\n") if text and text != same][: count - 1]
    return lists
