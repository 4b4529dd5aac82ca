"""Sentences of each person, from any form of data that a voice is learned from."""

import logging
import shutil
from collections import defaultdict
from pathlib import Path

from datasets import concatenate_datasets

from dataset_scripts.corpus_builder import REJECTED
from dataset_scripts.jsonl_manifest import JsonlManifest
from dataset_scripts.prepared import write_corpus
from dataset_scripts.speaker_json import SpeakerJson, split_folders
from hf_components.runtime import UserError
from hf_components.speech import LONG, is_known, is_prepared, load_corpus
from hf_components.voices import Sentence, is_folder_of_one, sentences_of_folder, sentences_of_rows

logger = logging.getLogger(__name__)

ONE_PROCESS = {"num_proc": 1, "shard_megabytes": 500}


def people_of(data: str | Path, name: str | None, work: Path, *, with_texts: bool = True) -> dict[str, list[Sentence]]:
    """Sentences by person, both in alphabetical order.

    Args:
        data: folder with `sentences.txt` and recordings of one person; JSONL manifest; speaker-JSON folder; or a
            prepared corpus, on this disk or the Hub.
        name: name of the person, for a folder of one; by default that of the folder.
        work: folder for a prepared copy of a manifest or a speaker-JSON folder; it is deleted at the end. Rows that
            cannot be used are named in `rejected.jsonl` beside it.
        with_texts: whether `sentences.txt` is needed.
    Raises:
        UserError: the data are none of these, a recording cannot be read, or no speaker is known.
    """
    path = Path(data)
    if is_folder_of_one(path) or (path.is_dir() and not with_texts and not is_prepared(path)):
        return {name or path.resolve().name: sentences_of_folder(path, with_texts=with_texts)}
    if name is not None:
        raise UserError(f"--name is for a folder of one person, and {data} has several; leave it out")
    if path.is_file():
        options = {"data_dir": str(path.parent), "manifest": str(path), "val_ratio": 0.0}
        return _prepared_people(JsonlManifest, options, work)
    if path.is_dir() and not is_prepared(path):
        if not split_folders(path):
            raise UserError(
                f"{data} is no data of a voice: give a folder with sentences.txt and a recording of each sentence, a "
                "JSONL manifest, a speaker-JSON folder, or a prepared corpus"
            )
        return _prepared_people(SpeakerJson, {"data_dir": str(path)}, work)
    return _people_of_corpus(path if path.exists() else data)


def _prepared_people(builder: type, options: dict, work: Path) -> dict[str, list[Sentence]]:
    work.mkdir(parents=True, exist_ok=True)
    try:
        metrics = write_corpus(builder, work, options, **ONE_PROCESS, name="enrolment", source=builder.__name__)
        if metrics["rejected"]:
            rejected = (work / REJECTED).replace(work.with_name(REJECTED))
            reasons = ", ".join(f"{count} {reason}" for reason, count in metrics["rejected"].items())
            logger.warning("recordings that cannot be used are left out: %s; %s names them", reasons, rejected.name)
        return _people_of_corpus(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _people_of_corpus(corpus: str | Path) -> dict[str, list[Sentence]]:
    splits = load_corpus(corpus, shared_speakers=True)
    rows = concatenate_datasets([part for split, part in splits.items() if not split.endswith(LONG)])
    places: dict[str, list[int]] = defaultdict(list)
    for place, speaker in enumerate(rows["speaker_id"]):
        if is_known(speaker):
            places[speaker].append(place)
    if not places:
        raise UserError(f"{corpus} names no speaker, and a voice is that of one person; add speaker_id")
    return {speaker: sorted(sentences_of_rows(rows.select(places[speaker])), key=_id_of) for speaker in sorted(places)}


def _id_of(sentence: Sentence) -> str:
    return sentence.id
