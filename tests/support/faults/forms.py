"""Every form of input that others give us: a good file of it, and what of the project reads it."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import soundfile
from make_corpus import manifest_row, noise, small_corpus, write_manifest
from paths import CONFIGS

from dataset_scripts import JsonlManifest, SpeakerJson
from dataset_scripts.audio_folder import read_truth
from dataset_scripts.corpus_builder import CorpusBuilder
from dataset_scripts.utterances import Rejection
from hf_components.asr.transcripts import read_submission_format, read_words
from hf_components.checkpoints.loading import read_config
from hf_components.runtime import UserError, as_id, is_invisible, leads_out, place_for, read_completion, visible
from hf_components.runtime.arguments import check_words
from hf_components.runtime.stages import run_stage
from hf_components.scoring.sap_evaluation import read_hypotheses
from hf_components.scoring.transcripts import read_transcripts
from hf_components.speech.audio import decode, read_duration
from hf_components.speech.corpus import load_corpus
from hf_components.speech.splits import read_split
from hf_components.units.evaluation.alignments import read_alignments
from hf_components.units.learning.phone_labels import read_phone_labels
from recipes import finetune_whisper, prepare_corpus

SOUNDS = {  # name -> container and coding of libsndfile
    "16.wav": ("WAV", "PCM_16"),
    "24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "alaw.wav": ("WAV", "ALAW"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "rf64.wav": ("RF64", "PCM_16"),
    "clip.w64": ("W64", "PCM_16"),
    "clip.aiff": ("AIFF", "PCM_16"),
    "clip.au": ("AU", "PCM_16"),
    "clip.caf": ("CAF", "PCM_16"),
    "clip.flac": ("FLAC", "PCM_16"),
    "clip.ogg": ("OGG", "VORBIS"),
    "clip.mp3": ("MP3", "MPEG_LAYER_III"),
}
BY_FFMPEG = {  # name -> container and coding of FFmpeg
    "clip.m4a": ("ipod", "aac"),
    "clip.webm": ("webm", "libopus"),
    "clip.mka": ("matroska", "pcm_s16le"),
    "clip.ac3": ("ac3", "ac3"),
}
PHONES = ((0.0, 0.2, "a"), (0.2, 0.5, "k"), (0.5, 0.9, "t"))
LONG_TEXTGRID = """xmin = 0
xmax = 0.9
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.9
        intervals: size = 3"""
SHORT_TEXTGRID = ("0", "0.9", "<exists>", "1", '"IntervalTier"', '"phones"', "0", "0.9", "3")


class Form(NamedTuple):
    """A form of input.

    Attributes:
        make: writes good files into an empty folder, and returns those that are to be spoiled.
        read: reads a file where it lies, and returns a value that is equal if the same was read.
    """

    make: Callable[[Path], Iterable[Path]]
    read: Callable[[Path], Any]


def sounds(folder: Path) -> list[Path]:
    sound = noise(0.6)
    for name, (container, coding) in SOUNDS.items():
        soundfile.write(folder / name, sound, 16_000, format=container, subtype=coding)
    for name, (container, coding) in BY_FFMPEG.items():
        with av.open(str(folder / name), "w", format=container) as opened:
            stream = opened.add_stream(coding, rate=48_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(sound[None], format="flt", layout="mono")
            frame.sample_rate = 48_000
            frame.pts = 0
            opened.mux(stream.encode(frame))
            opened.mux(stream.encode(None))
    return [folder / name for name in (*SOUNDS, *BY_FFMPEG)]


def read_sound(file: Path) -> Any:
    return digest(decode(file)), digest(decode(file.read_bytes(), name=file.name)), read_duration(file)


def textgrids(folder: Path) -> list[Path]:
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    long = [*head, LONG_TEXTGRID]
    short = [*head, *SHORT_TEXTGRID]
    for number, (start, end, phone) in enumerate(PHONES, 1):
        long += [f"        intervals [{number}]:", f"            xmin = {start}", f"            xmax = {end}"]
        long += [f'            text = "{phone}"']
        short += [str(start), str(end), f'"{phone}"']
    for name, lines in (("long", long), ("short", short)):
        (folder / name).mkdir()
        (folder / name / "clip.TextGrid").write_text("\n".join([*lines, ""]))
    return sorted(folder.glob("*/*"))


def read_textgrid(file: Path) -> Any:
    return read_aligned(file), phones_of(read_phone_labels(file.parent, "phones"))


def elan(folder: Path) -> list[Path]:
    slots = [round(1000 * seconds) for start, end, _ in PHONES for seconds in (start, end)]
    times = "".join(f'<TIME_SLOT TIME_SLOT_ID="ts{i}" TIME_VALUE="{time}"/>\n' for i, time in enumerate(slots))
    annotations = "".join(
        f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{i}" TIME_SLOT_REF1="ts{2 * i}" TIME_SLOT_REF2='
        f'"ts{2 * i + 1}"><ANNOTATION_VALUE>{phone}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>\n'
        for i, (_, _, phone) in enumerate(PHONES)
    )
    (folder / "clip.eaf").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+00:00" '
        'FORMAT="3.0" VERSION="3.0"><HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"/>\n'
        f'<TIME_ORDER>{times}</TIME_ORDER><TIER LINGUISTIC_TYPE_REF="lt" TIER_ID="phones">{annotations}</TIER>'
        '<LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="lt" TIME_ALIGNABLE="true"/>'
        "</ANNOTATION_DOCUMENT>\n"
    )
    return [folder / "clip.eaf"]


def tables(folder: Path) -> list[Path]:
    ctm = "".join(f"clip 1 {start} {end - start:.1f} {phone}\n" for start, end, phone in PHONES)
    table = "".join(f"clip {start} {end} {phone}\n" for start, end, phone in PHONES)
    (folder / "clip.ctm").write_text(ctm)
    (folder / "clip.txt").write_text(f"#file onset offset #phone\n{table}")
    return sorted(folder.iterdir())


def read_aligned(file: Path) -> Any:
    found = read_alignments(file, "phones")
    return phones_of(found.phones), found.rejected


def phone_lines(folder: Path) -> list[Path]:
    rows = [{"source_file": "clip.wav", "start": start, "end": end, "phone": phone} for start, end, phone in PHONES]
    return [write_manifest(folder / "clip.jsonl", rows)]


def read_phone_lines(file: Path) -> Any:
    return read_aligned(file), phones_of(read_phone_labels(file, "phones"))


def transcripts(folder: Path) -> list[Path]:
    rows = [
        {"utterance_id": f"u{i}", "orthographic_text": f"word {i}", "words": [["word", 0.5, 0.0, 0.2]]}
        for i in range(3)
    ]
    return [write_manifest(folder / "transcripts.jsonl", rows)]


def read_all_transcripts(file: Path) -> Any:
    return read_transcripts(file), read_words(file), read_submission_format(file)


def truth(folder: Path) -> list[Path]:
    return [write_manifest(folder / "truth.jsonl", [{"file": f"{i}.wav", "text": f"word {i}"} for i in range(3)])]


def hypotheses(folder: Path) -> list[Path]:
    (folder / "hypotheses.csv").write_text('id,raw_hypos\nu0,a word\nu1,"two, words"\nu2,\n')
    return [folder / "hypotheses.csv"]


def splits(folder: Path) -> list[Path]:
    (folder / "splits.json").write_text(json.dumps({"speakers": {"train": ["a", "b"], "dev": ["c"]}}))
    return [folder / "splits.json"]


def speakers(folder: Path) -> list[Path]:
    small_corpus(folder)
    return [folder / "Train" / "A" / "A.json"]


def read_speakers(file: Path) -> Any:
    return rows_of(SpeakerJson, file.parents[2])


def manifests(folder: Path) -> list[Path]:
    for number in range(3):
        soundfile.write(folder / f"u{number}.flac", noise(0.3, seed=number), 16_000)
    rows = [manifest_row(f"u{i}", f"c{i}", audio_path=f"u{i}.flac") for i in range(3)]
    return [write_manifest(folder / "train.jsonl", rows)]


def read_manifest(file: Path) -> Any:
    return rows_of(JsonlManifest, file.parent)


def configurations(folder: Path) -> list[Path]:
    for recipe in CONFIGURED:
        (folder / f"{recipe}.yaml").write_bytes((CONFIGS / recipe / "default.yaml").read_bytes())
    (folder / "prepare_corpus.json").write_text(json.dumps({"builder": "speaker_json", "max_samples": 5, "seed": 1}))
    return sorted(folder.iterdir())


CONFIGURED = {"prepare_corpus": (prepare_corpus.Arguments,), "finetune_whisper": finetune_whisper.ARGUMENTS}


def read_configuration(file: Path) -> Any:
    return repr(check_words(CONFIGURED[file.stem], [f"--config={file}"]))


def models(folder: Path) -> list[Path]:
    config = {"model_type": "whisper", "d_model": 16, "encoder_layers": 2, "vocab_size": 100, "architectures": ["A"]}
    (folder / "config.json").write_text(json.dumps(config))
    return [folder / "config.json"]


def read_model(file: Path) -> Any:
    return read_config(str(file.parent))


def stages(folder: Path) -> list[Path]:
    run_stage(folder / "stage", lambda place: {"wer": 0.5}, config={"n": 1})
    return [folder / "stage" / "stage.json"]


def read_stage(file: Path) -> Any:
    return read_completion(file.parent)


def corpora(folder: Path) -> list[Path]:
    small_corpus(folder / "source")
    prepare_corpus.main([f"--data_dir={folder / 'source'}", f"--output_dir={folder / 'made'}", "--num_proc=1"])
    (folder / "made" / "stage.json").unlink()  # which would tell that a table is another one
    return sorted((folder / "made" / "data").iterdir())


def read_corpus(file: Path) -> Any:
    return [[row["id"], row["text"]] for rows in load_corpus(str(file.parents[1])).values() for row in rows]


def names(folder: Path) -> list[Path]:
    (folder / "name").write_text("recordings/Ünïcode/0001 a.wav")
    return [folder / "name"]


def read_name(file: Path) -> Any:
    """What becomes of an id or the name of a recording, wherever it is from."""
    name = file.read_bytes().decode(errors="surrogateescape")
    place = place_for(name)
    assert not leads_out(place) and not any(map(is_invisible, visible(name))), place
    assert len(place.encode()) <= 1000 + 20 and not any(map(is_invisible, place.replace("\u200c", ""))), place
    return place, as_id(name)


FORMS = {
    "audio": Form(sounds, read_sound),
    "TextGrid": Form(textgrids, read_textgrid),
    "ELAN": Form(elan, read_aligned),
    "CTM and DiscoPhon": Form(tables, read_aligned),
    "phones in JSON lines": Form(phone_lines, read_phone_lines),
    "transcripts": Form(transcripts, read_all_transcripts),
    "truth": Form(truth, read_truth),
    "CSV of hypotheses": Form(hypotheses, lambda file: read_hypotheses(file, ["u0", "u1", "u2"])),
    "split": Form(splits, read_split),
    "speaker-JSON": Form(speakers, read_speakers),
    "manifest": Form(manifests, read_manifest),
    "configuration": Form(configurations, read_configuration),
    "model configuration": Form(models, read_model),
    "completion record": Form(stages, read_stage),
    "Parquet": Form(corpora, read_corpus),
    "id": Form(names, read_name),
}
# Half of the trials are audio: it has most formats, and decoders in C.
SHARES = {name: len(FORMS) - 1 if name == "audio" else 1 for name in FORMS}


def digest(waveform: np.ndarray) -> str:
    return hashlib.sha256(waveform.tobytes()).hexdigest()


def phones_of(found: dict) -> Any:
    return [(name, *(part.tolist() for part in vars(phones).values())) for name, phones in sorted(found.items())]


def rows_of(kind: type[CorpusBuilder], folder: Path) -> Any:
    """The rows that a builder makes of a folder, and the reasons for those that it rejects."""
    builder = kind(data_dir=str(folder), cache_dir=str(folder.parent / "cache"), config_id="default")
    listing = builder.read_manifests()
    utterances = [utterance for listed in listing.splits.values() for utterance in listed]
    reader = builder.config.reader([utterance.file for utterance in utterances])
    found = []
    for utterance in utterances:
        try:
            row, _ = reader.read(utterance)
            found.append([row["id"], row["text"], row["speaker_id"], row["group"]])
        except Rejection as problem:
            found.append([utterance.id, problem.reason])
    if not found:
        raise UserError(f"{folder}: no row is left; {[row['reason'] for row in listing.rejected]}")
    return found, [row["reason"] for row in listing.rejected]
