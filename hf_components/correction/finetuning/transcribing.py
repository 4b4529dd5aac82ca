"""What recognisers hear in the rows of a corpus, transcribed as stages."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets

from hf_components.asr import Heard, Recogniser, Rows, Transcriber, n_best_family, read_words, transcribe_to_file
from hf_components.runtime import UserError, run_stage
from hf_components.scoring import read_transcripts


def transcribe_as_stage(
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

    This is a stage like `transcribe_as_stage`. There are no other texts if the known text is empty, or if the
    recording is so long that it is cut.

    Args:
        transcriber: recogniser; its family becomes that of `n_best_family`.
    """
    if count == 1:
        return [[text] for text in heard]
    transcriber.family = n_best_family(transcriber.family, count)
    transcriber.word_confidences = False
    chosen = [
        i
        for i, (text, seconds) in enumerate(zip(heard, corpus["duration"], strict=True))
        if text.strip() and seconds <= transcriber.family.longest_seconds
    ]
    lists = [[text] for text in heard]
    found = transcribe_as_stage(transcriber, corpus.select(chosen), folder, inputs=inputs, resume=resume)
    for i, written in zip(chosen, found, strict=True):
        same = " ".join(heard[i].split())
        lists[i] += [text for text in written.text.split("\n") if text and text != same][: count - 1]
    return lists
