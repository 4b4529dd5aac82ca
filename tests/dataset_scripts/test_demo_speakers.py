"""The demo corpus: deterministic, disjoint, really different groups."""

import hashlib
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from paths import ROOT

from dataset_scripts.demo_sentences import TEMPLATES, WORDS, sentences, split_of
from dataset_scripts.demo_speakers import GROUPS, write_demo_corpus
from dataset_scripts.demo_voices import draw_speaker, speak
from hf_components.runtime.errors import UserError
from hf_components.speech.espeak_ng import EspeakNg

pytestmark = pytest.mark.unit
espeakng_loader = pytest.importorskip("espeakng_loader", reason="the wheel espeakng-loader is not installed")

SIZE = {"train_speakers": 2, "dev_speakers": 1, "utterances_per_speaker": 2}


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo_corpus(folder, **SIZE)
    return folder


def speaker_files(folder: Path, split: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((folder / split).glob("*/*.json"))]


def test_layout_and_size(corpus):
    rows = {split: speaker_files(corpus, split) for split in ("Train", "Dev")}
    assert len(rows["Train"]) == 8 and len(rows["Dev"]) == 4
    for split, speakers in rows.items():
        assert {speaker["Etiology"] for speaker in speakers} == set(GROUPS)
        for speaker in speakers:
            place = corpus / split / speaker["Contributor_ID"]
            assert len(speaker["Files"]) == 2
            for file in speaker["Files"]:
                info = soundfile.info(place / file["Filename"])
                assert info.subtype == "PCM_16" and info.channels == 1
                assert 0.5 < info.duration < 15
                assert 2 <= len(file["Prompt"]["Transcript"].split()) <= 12


def test_splits_share_no_speaker_voice_or_sentence(corpus):
    train, dev = speaker_files(corpus, "Train"), speaker_files(corpus, "Dev")
    for what in (
        lambda s: [s["Contributor_ID"]],
        lambda s: [s["Voice"]["voice"]],
        lambda s: [file["Prompt"]["Transcript"] for file in s["Files"]],
    ):
        first, second = ({item for speaker in part for item in what(speaker)} for part in (train, dev))
        assert first and second and not first & second


def test_same_bytes_in_another_process(corpus, tmp_path):
    code = (
        f"from dataset_scripts.demo_speakers import write_demo_corpus; write_demo_corpus({str(tmp_path)!r}, **{SIZE})"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=ROOT,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )
    assert digests(tmp_path) == digests(corpus)


def test_larger_corpus_contains_the_smaller_one(corpus, tmp_path):
    write_demo_corpus(tmp_path, train_speakers=3, dev_speakers=1, utterances_per_speaker=3)
    larger, smaller = digests(tmp_path), digests(corpus)
    audio = {name for name in smaller if name.endswith(".flac")}
    assert audio and all(larger[name] == smaller[name] for name in audio)


def test_another_seed_changes_every_recording(corpus, tmp_path):
    write_demo_corpus(tmp_path, **SIZE, seed=1)
    other = digests(tmp_path)
    assert all(other[name] != digest for name, digest in digests(corpus).items())


def test_groups_differ():
    """Speech rate, pitch and bandwidth of a group are outside the others' range where the group is made of them."""
    speakers = {
        name: [draw_speaker(0, split, name, group, number) for split in ("Train", "Dev") for number in range(4)]
        for name, group in GROUPS.items()
    }
    assert max(s.rate for s in speakers["Slow creaky"]) < min(s.rate for s in speakers["Accent"])
    assert min(s.pitch for s in speakers["Child-like"]) >= max(s.pitch for s in speakers["Accent"])
    assert all(len({(s.voice, s.pitch, s.rate) for s in group}) == 8 for group in speakers.values())
    _, samples, sample_rate = next(speak(speakers["Telephone"][0], GROUPS["Telephone"], ["Good morning."], 0))
    assert sample_rate == 8000
    assert samples.dtype == np.int16 and 8000 < np.abs(samples).max() < 2**15 - 1


def test_every_voice_and_variant_exists():
    """eSpeak NG refuses an unknown language, and says nothing about an unknown variant."""
    variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    with EspeakNg() as espeak:
        for voice in {voice for group in GROUPS.values() for voice in group.voices}:
            assert len(espeak.synthesise("yes", voice))
            assert (variants / voice.split("+")[1]).is_file(), voice
        with pytest.raises(UserError, match="no voice 'en-xx'"):
            espeak.synthesise("yes", "en-xx")


def test_instances_do_not_influence_each_other():
    with EspeakNg() as first:
        alone = first.synthesise("Good morning.", "en-us+f2")
    with EspeakNg() as second, EspeakNg() as third:
        second.synthesise("Something else before.", "en-us+m3", rate=300)
        assert np.array_equal(third.synthesise("Good morning.", "en-us+f2"), alone)


def test_sentences_are_filled_in_different_and_of_their_split():
    assert all(set(re.findall(r"{(\w+)}", template)) <= set(WORDS) for template in TEMPLATES)
    for split in ("Train", "Dev"):
        made = list(itertools.islice(sentences(split, np.random.default_rng(3)), 1000))
        assert len(set(made)) == 1000
        assert all(split_of(text) == split and "{" not in text for text in made)


@pytest.mark.parametrize("name", ["train_speakers", "dev_speakers", "utterances_per_speaker"])
def test_size_out_of_range(tmp_path, name):
    with pytest.raises(UserError, match=rf"`{name}` must lie in \[1, .*got 0"):
        write_demo_corpus(tmp_path, **{name: 0})
