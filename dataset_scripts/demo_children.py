"""A demo corpus in the layout of JSONL manifests: high-pitched synthetic voices in four age buckets.

As in the competitions with that layout, audio is spread over several folders, transcripts have neither capitals nor
punctuation, and the children of the test set come separately, without text.
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from dataset_scripts.demo_sentences import word_sentences
from dataset_scripts.demo_speakers import DemoTable, check_size
from dataset_scripts.demo_voices import Group, Speaker, draw_speaker, random_of, shorter_tract, speak
from hf_components.runtime import UserError, write_json_lines
from hf_components.speech import encode_flac

AUDIO_FOLDERS = ("audio_0", "audio_1", "audio_2")
MANIFEST = "train_word_transcripts.jsonl"
# below test/
METADATA, FORMAT, TRANSCRIPTS = ("utterance_metadata.jsonl", "submission_format.jsonl", "transcripts.jsonl")
MOST_WORDS = 6  # keeps an utterance below 4 s
MOST_UTTERANCES = {"Train": 600, "Dev": 240}  # in total; no sentence is repeated, and few are short enough

VOICES = ("en-us+f1", "en-us+f2", "en-us+f3", "en-us+Alicia", "en-us+steph", "en-us+belinda", "en-us+f4", "en-us+f5")
AGES = {  # younger voices are slower and higher, with a shorter vocal tract
    "3-4": Group(VOICES, (105, 130), (85, 99), (60, 90), (1, 3), (20, 30), shorter_tract(1.15, 0.15)),
    "5-7": Group(VOICES, (120, 145), (75, 95), (50, 80), (0, 2), (20, 30), shorter_tract(1.1, 0.15)),
    "8-11": Group(VOICES, (135, 165), (60, 85), (40, 70), (0, 2), (20, 30), shorter_tract(1.05, 0.1)),
    "12+": Group(VOICES, (145, 180), (45, 75), (30, 60), (0, 1), (20, 30), shorter_tract(1.0, 0.1)),
}


def write_demo_children(
    folder: str | Path,
    *,
    train_speakers: int = 6,
    dev_speakers: int = 1,
    utterances_per_speaker: int = 10,
    seed: int = 0,
    progress: Callable[[Iterator], Iterator] = iter,
) -> list[dict]:
    """Write a manifest of children to train on, and below `test/` one of other children to score on.

    `train_word_transcripts.jsonl` has its audio in `audio_0/audio` to `audio_2/audio`. `test/` holds audio,
    `utterance_metadata.jsonl` without text, `submission_format.jsonl` with empty text, and `transcripts.jsonl` to
    score by. The same arguments give the same bytes.

    Args:
        folder: target folder; it is made if needed.
        train_speakers, dev_speakers: children per age bucket in the manifest, and below `test/`.
        utterances_per_speaker: utterances in two sessions, 1 to 4 s each, all with different sentences.
        progress: wraps the iterator over children.
    Returns:
        one row per split and age bucket: split, group, speakers, utterances, minutes, sample_rate.
    Raises:
        UserError: a number is out of range.
    """
    check_size(train_speakers, dev_speakers, utterances_per_speaker, max(MOST_UTTERANCES.values()))
    for split, count in (("Train", train_speakers), ("Dev", dev_speakers)):
        if (total := len(AGES) * count * utterances_per_speaker) > MOST_UTTERANCES[split]:
            raise UserError(
                f"{len(AGES)} ages x `{split.lower()}_speakers` x `utterances_per_speaker` must be at most "
                f"{MOST_UTTERANCES[split]}, got {total}"
            )
    folder = Path(folder)
    texts = {
        split: word_sentences(split, random_of(seed, split, "sentences of children"), MOST_WORDS)
        for split in ("Train", "Dev")
    }
    children = [
        draw_speaker(seed, split, age, group, number)
        for age, group in AGES.items()
        for split, count in (("Train", train_speakers), ("Dev", dev_speakers))
        for number in range(count)
    ]
    listed: dict[str, list[dict]] = {"Train": [], "Dev": []}
    tables = {"Train": DemoTable(), "Dev": DemoTable()}
    for child in progress(children):
        own = islice(texts[child.split], utterances_per_speaker)
        rows, seconds, sample_rate = _write_child(folder, child, own, seed)
        listed[child.split] += rows
        split = {"Train": "train", "Dev": "test"}[child.split]
        tables[child.split].add(split, child.group, len(rows), seconds, sample_rate)
    text = "orthographic_text"
    test = listed["Dev"]
    write_json_lines(folder / MANIFEST, listed["Train"])
    write_json_lines(folder / "test" / METADATA, [{key: row[key] for key in row if key != text} for row in test])
    write_json_lines(folder / "test" / FORMAT, [{"utterance_id": row["utterance_id"], text: ""} for row in test])
    write_json_lines(
        folder / "test" / TRANSCRIPTS, [{key: row[key] for key in ("utterance_id", text)} for row in test]
    )
    return [row for table in tables.values() for row in table.rows.values()]


def _write_child(folder: Path, child: Speaker, texts: Iterator[str], seed: int) -> tuple[list[dict], float, int]:
    """Write a child's audio. Return the rows of the manifest, the seconds of speech, and the sample rate."""
    rows = []
    seconds = 0.0
    for index, (text, samples, sample_rate) in enumerate(speak(child, AGES[child.group], texts, seed)):
        name = _name("U", child.id, index)
        place = folder / (AUDIO_FOLDERS[index % len(AUDIO_FOLDERS)] if child.split == "Train" else "test")
        content = encode_flac(samples / 32768, sample_rate)
        (place / "audio").mkdir(parents=True, exist_ok=True)
        (place / "audio" / f"{name}.flac").write_bytes(content)
        rows.append(
            {
                "utterance_id": name,
                "child_id": _name("C", child.id),
                "session_id": _name("S", child.id, index % 2),
                "audio_path": f"audio/{name}.flac",
                "audio_duration_sec": round(len(samples) / sample_rate, 3),
                "age_bucket": child.group,
                "md5_hash": hashlib.md5(content, usedforsecurity=False).hexdigest(),
                "filesize_bytes": len(content),
                "orthographic_text": text,
            }
        )
        seconds += len(samples) / sample_rate
    return rows, seconds, sample_rate


def _name(kind: str, *of) -> str:
    return f"{kind}_{hashlib.sha256(repr((kind, *of)).encode()).hexdigest()[:16]}"
