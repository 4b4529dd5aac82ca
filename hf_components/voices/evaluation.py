"""How much a voice gains: every speaker with a few sentences drawn at random, and the rest as test."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np

from hf_components.asr import Transcriber, Voices
from hf_components.checkpoints import CONTEXT, LORA, NO_CHANGE, VOTE, WAYS, Voice, save_voice
from hf_components.runtime import UserError, first_few, place_for, read_record, write_json
from hf_components.scoring import paired_bootstrap, utterance_errors
from hf_components.speech import is_known
from hf_components.voices.arguments import VoiceArguments
from hf_components.voices.learning import learn_voice
from hf_components.voices.sentences import sentences_of_rows

logger = logging.getLogger(__name__)

BEFORE, CHOSEN, CONTROL = "before", "chosen", "control"  # the latter with the way that it controls: "control lora"
CONTROLLED = (CONTEXT, LORA, VOTE)
SYSTEMS = (BEFORE, *WAYS[1:], *(f"{CONTROL} {way}" for way in CONTROLLED), CHOSEN)
WORSE = 0.02  # a speaker is worse from this difference of WER on
JOB_FORM = {"ids": [str], "texts": {str: [str]}, "way": str, "seconds": (int, float), "bytes": int, "figures": dict}


@dataclass(frozen=True)
class Job:
    """One draw: indices of the rows of a speaker that are learned from, of others for the control, and the test."""

    speaker: str
    sentences: int
    draw: int
    enrolment: list[int]
    others: list[int]
    test: list[int]

    def without_control(self) -> "Job":
        return replace(self, others=[])

    @property
    def file(self) -> str:
        return f"{place_for(self.speaker)}/{self.sentences}_{self.draw}.json"


def draw_jobs(corpus: datasets.Dataset, sentences: Sequence[int], draws: int, seed: int) -> list[Job]:
    """Draw enrolment sentences of every known speaker. Speakers without a test sentence left are named and left out.

    The draws of a speaker do not depend on who else is there, and smaller numbers of sentences are parts of larger
    ones. The control has as many sentences of other speakers.

    Raises:
        UserError: no speaker has enough sentences.
    """
    speakers = np.array(corpus["speaker_id"][:])
    ids = np.array(corpus["id"][:])
    jobs = []
    short = []
    for speaker in sorted(filter(is_known, set(speakers.tolist()))):
        own = np.flatnonzero(speakers == speaker)
        own = own[np.argsort(ids[own])]
        strangers = np.flatnonzero(speakers != speaker)
        for draw in range(draws):
            random = np.random.default_rng([seed, draw, *speaker.encode()])
            order = random.permutation(own)
            other = random.permutation(strangers)
            for count in sentences:
                if count >= len(own):
                    short.append(speaker)
                    continue
                parts = (
                    order[:count],
                    other[:count],
                    order[max(sentences) :] if len(own) > max(sentences) else order[count:],
                )
                jobs.append(Job(speaker, count, draw, *(part.tolist() for part in parts)))
    if not jobs:
        raise UserError(f"no speaker has more than {min(sentences)} sentences; lower --sentences")
    if short:
        logger.warning(
            "too few sentences of %s for some of --sentences: they are left out there", first_few(sorted(set(short)))
        )
    return jobs


def run_job(
    job: Job,
    corpus: datasets.Dataset,
    transcriber: Transcriber,
    before: Sequence[str],
    args: VoiceArguments,
    seed: int,
    folder: Path,
) -> None:
    """Learn the voice of a job, transcribe the test sentences with it, and write both; a finished job is kept."""
    file = folder / job.file
    if file.exists():
        return
    learned = learn_voice(
        transcriber.model,
        transcriber.processor,
        job.speaker,
        sentences_of_rows(corpus.select(job.enrolment)),
        args,
        seed,
        sentences_of_rows(corpus.select(job.others)) if job.others else (),
    )
    voices = {**learned.of_way, **{f"{CONTROL} {way}": voice for way, voice in learned.controls.items()}}
    rows = corpus.select(job.test)
    texts = {BEFORE: [before[row] for row in job.test]}
    for name, written in _written(transcriber, rows, voices).items():
        texts[name] = written
    texts[CHOSEN] = texts[BEFORE if learned.voice.way == NO_CHANGE else learned.voice.way]
    size = save_voice(learned.voice, file.with_suffix(""))
    write_json(
        file,
        {
            "ids": rows["id"][:],
            "texts": texts,
            "way": learned.voice.way,
            "seconds": learned.seconds,
            "bytes": size,
            "figures": learned.voice.figures,
        },
    )


def _written(transcriber: Transcriber, rows: datasets.Dataset, voices: dict[str, Voice]) -> dict[str, list[str]]:
    """Texts of the rows with each of the voices, in batches that mix them."""
    several = Voices(transcriber.model, voices, dict.fromkeys(voices, "memory"))
    asking = replace(transcriber, voices=several)
    return {name: [one.text for one in asking.transcribe_rows(rows, [name] * len(rows))] for name in voices}


def collect(
    jobs: Sequence[Job], corpus: datasets.Dataset, folder: Path, language: str, bootstrap: int, seed: int
) -> dict:
    """Figures of all jobs by number of sentences.

    Returns:
        number of sentences -> figures: `wer` of each system, `difference` and `interval` of the chosen voice against
        the base, the same of the LoRA against its control, `made_worse`, seconds, bytes and ways.
    """
    references = dict(zip(corpus["id"][:], corpus["text"][:], strict=True))
    curve = {}
    for count in sorted({job.sentences for job in jobs}):
        own = [job for job in jobs if job.sentences == count]
        records = [read_record(folder / job.file, JOB_FORM, "delete it and run again") for job in own]
        curve[str(count)] = _figures(own, records, references, language, bootstrap, seed)
    return curve


def _of_speakers(speakers: Sequence[str], errors: Mapping[str, np.ndarray], words: np.ndarray) -> dict[str, dict]:
    """WER of each system on the sentences of each speaker, and the words in these; their `ways` are empty."""
    found = {}
    for speaker in sorted(set(speakers)):
        rows = np.array(speakers) == speaker
        total = int(words[rows].sum())
        rates = {name: float(one[rows].sum() / max(1, total)) for name, one in errors.items()}
        found[speaker] = {"wer": rates, "words": total, "ways": []}
    return found


def _figures(
    jobs: Sequence[Job],
    records: Sequence[dict],
    references: Mapping[str, str],
    language: str,
    bootstrap: int,
    seed: int,
) -> dict:
    names = [name for name in SYSTEMS if any(name in record["texts"] for record in records)]
    written = [record["texts"] for record in records]  # a way that was not tried leaves the texts as they were
    texts = {name: [text for one in written for text in one.get(name, one[BEFORE])] for name in names}
    said = [references[one] for record in records for one in record["ids"]]
    speakers = [job.speaker for job, record in zip(jobs, records, strict=True) for _ in record["ids"]]
    counts = {name: utterance_errors(texts[name], said, language) for name in names}
    words = counts[BEFORE]["reference_words"]
    errors = {name: one["errors"] for name, one in counts.items()}

    def difference(one: str, other: str) -> dict:
        compared = paired_bootstrap(counts[one], counts[other], speakers, num_bootstrap=bootstrap, seed=seed)
        return {"difference": compared["difference"], "interval": compared["interval"]}

    of_speaker = _of_speakers(speakers, errors, words)
    for job, record in zip(jobs, records, strict=True):
        of_speaker[job.speaker]["ways"].append(record["way"])
    worse = [one["wer"][CHOSEN] - one["wer"][BEFORE] > WORSE for one in of_speaker.values()]
    ways = [record["way"] for record in records]
    wer = {name: float(one.sum() / words.sum()) for name, one in errors.items()}
    change = difference(BEFORE, CHOSEN)
    return {
        "speakers": len(of_speaker),
        "draws": len(jobs),
        "words": int(words.sum()),
        "wer": wer,
        **change,
        "relative": change["difference"] / max(1e-9, wer[BEFORE]),
        "made_worse": float(np.mean(worse)),
        "ways": {way: ways.count(way) for way in WAYS},
        "seconds_per_voice": float(np.mean([record["seconds"] for record in records])),
        "slowest_seconds": float(max(record["seconds"] for record in records)),
        "bytes_per_voice": max(record["bytes"] for record in records),
        "per_speaker": of_speaker,
        "controls": {
            way: {
                "voice_against_control": difference(f"{CONTROL} {way}", way),
                "control_against_before": difference(BEFORE, f"{CONTROL} {way}"),
                "voice_against_before": difference(BEFORE, way),
            }
            for way in CONTROLLED
            if {way, f"{CONTROL} {way}"} <= set(names)
        },
    }
