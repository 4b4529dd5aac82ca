"""A file that crashes its decoder, hangs it or fills its memory costs that file, and no other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from make_corpus import noise, small_corpus
from paths import ROOT

from hf_components.decoding import apart
from hf_components.runtime import read_json_lines
from hf_components.speech import AudioError, decode, encode_flac, encode_wav, read_duration, stream
from recipes import prepare_corpus, segment_audio

pytestmark = pytest.mark.unit

# Decodes as usual, but does what the end of a file says. Files after the first 100 bytes are the decoder's own.
STAND_IN = """
import os, signal, time
from hf_components.decoding import reading, server
server.SECONDS, server.MEMORY = 1, 1 << 28
real = reading.stream

def tricks(source):
    content = source if isinstance(source, bytes) else open(source, "rb").read()
    if content.endswith(b"segfault"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if content.endswith(b"hang"):
        time.sleep(60)
    if content.endswith(b"memory"):
        bytearray(1 << 29)
    if content.endswith(b"bug"):
        {}["key"]
    if content.endswith(b"exit"):
        os._exit(3)
    if content.endswith(b"poison"):
        reading.stream = lambda *_: os.kill(os.getpid(), signal.SIGBUS)

def stream(source, sampling_rate):
    for number, block in enumerate(real(source, sampling_rate)):
        yield block
        tricks(source)

reading.stream = stream
duration = reading.read_duration
reading.read_duration = lambda source: tricks(source) or duration(source)
server.serve()
"""
REASONS = {
    "segfault": "the decoder crashed on it \\(SIGSEGV\\); repair or leave it out",
    "hang": "the decoder did not come to an end within",
    "memory": "GiB of memory are needed to decode it",
    "bug": "the decoder failed on it \\(KeyError: 'key'\\)",
    "exit": "the decoder ended on it \\(exit code 3\\)",
}


@pytest.fixture
def stand_in(monkeypatch):
    apart.end_all()
    monkeypatch.setattr(apart, "START", f"exec({STAND_IN!r})")
    yield
    apart.end_all()


def sound(end: str = "", seconds: float = 0.5) -> bytes:
    return encode_wav(noise(seconds)) + end.encode()


def children() -> list[str]:
    """The processes that this one has started, except those that have ended."""
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize("end", REASONS)
def test_a_file_that_breaks_its_decoder_is_an_error_and_the_next_is_read(stand_in, end, tmp_path):
    (tmp_path / "bad.wav").write_bytes(sound(end))
    for source in (sound(end), tmp_path / "bad.wav"):
        with pytest.raises(AudioError, match=REASONS[end]) as error:
            decode(source, name="bad")
        assert error.value.reason == "unreadable audio" and str(error.value).startswith("bad: ")
    with pytest.raises(AudioError, match=REASONS[end]):
        read_duration(tmp_path / "bad.wav")
    assert len(decode(sound())) == 8000


def test_a_file_is_not_blamed_for_one_before_it(stand_in):
    """Damaged memory may show at the next file."""
    assert len(decode(sound("poison"))) == 8000
    assert len(decode(sound())) == 8000


def test_blocks_before_a_crash_come_once(stand_in, tmp_path):
    (tmp_path / "long.flac").write_bytes(encode_flac(noise(140)) + b"segfault")
    found = []
    with pytest.raises(AudioError, match="SIGSEGV"):
        found.extend(stream(tmp_path / "long.flac"))
    assert [len(block.waveform) for block in found] == [1 << 20]


@pytest.mark.parametrize("seconds", [0.5, 140])
def test_the_bits_are_those_of_decoding_here(seconds, tmp_path):
    content = encode_flac(noise(seconds))
    (tmp_path / "a.flac").write_bytes(content)
    for rate in (16_000, 22_050):
        here = decode(content, rate, is_ours=True)
        for source in (content, tmp_path / "a.flac"):
            there = decode(source, rate)
            assert there.dtype == np.float32 and there.flags.writeable and np.array_equal(there, here)
        assert [block[1:] for block in stream(content, rate)] == [
            block[1:] for block in stream(content, rate, is_ours=True)
        ]


def test_one_process_serves_one_file_after_the_other():
    apart.end_all()
    before = children()
    for number in range(5):
        decode(sound(seconds=0.1 + number / 10))
        with pytest.raises(AudioError, match="neither libsndfile"):
            decode(b"no sound at all")
    assert len(children()) == len(before) + 1
    apart.end_all()
    assert children() == before


def test_two_streams_at_once_have_a_process_each_and_one_left_early_is_ended():
    apart.end_all()
    before = children()
    first, second = stream(encode_flac(noise(140))), stream(sound())
    assert len(next(first).waveform) == 1 << 20 and len(next(second).waveform) == 8000
    assert len(children()) == len(before) + 2
    first.close()
    second.close()
    assert children() == before


def test_a_fork_leaves_the_process_to_its_parent():
    expected = decode(sound())
    (decoder,) = apart._idle
    open_here = stream(sound())
    next(open_here)
    child = os.fork()
    if child == 0:
        try:
            open_here.close()
            ok = np.array_equal(decode(sound()), expected) and decoder not in apart._idle
            apart.end_all()
        finally:
            os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert next(open_here, None) is None and np.array_equal(decode(sound()), expected)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_ends_with_the_one_that_asks(number):
    program = (
        "import os, sys, time; from hf_components.decoding import apart;"
        f"list(apart.stream({sound()!r}, 16000)); print(apart._idle[0].process.pid, flush=True); time.sleep(60)"
    )
    started = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    decoder = int(started.stdout.readline())
    os.kill(decoder, 0)
    started.send_signal(number)
    started.wait(timeout=10)
    for _ in range(100):
        try:
            os.kill(decoder, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the decoder is still there")


def test_a_process_that_does_not_start_is_no_fault_of_the_file(monkeypatch):
    apart.end_all()
    monkeypatch.setattr(apart, "START", "import no_such_package")
    with pytest.raises(RuntimeError, match="(?s)does not start: .*no_such_package"):
        decode(sound())


def test_it_starts_without_torch():
    program = (
        "import sys; import hf_components.decoding.server; print('torch' in sys.modules, 'datasets' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_builder_rejects_such_files_and_keeps_the_others(stand_in, tmp_path, num_proc):
    small_corpus(tmp_path / "source")
    files = sorted((tmp_path / "source").rglob("*.wav"))
    for file, end in zip(files, ("segfault", "memory"), strict=False):
        file.write_bytes(file.read_bytes() + end.encode())
    out = tmp_path / "out"
    prepare_corpus.main([f"--data_dir={tmp_path / 'source'}", f"--output_dir={out}", f"--num_proc={num_proc}"])
    rejected = [row for _, row in read_json_lines(out / "rejected.jsonl")]
    assert sorted(row["detail"].split(";")[0] for row in rejected) == [
        "more than 0 GiB of memory are needed to decode it",
        "the decoder crashed on it (SIGSEGV)",
    ]
    assert {row["reason"] for row in rejected} == {"unreadable audio"}


def test_segmenting_rejects_such_a_recording_and_keeps_the_others(stand_in, tmp_path):
    (tmp_path / "source").mkdir()
    for name, end in (("good", ""), ("bad", "segfault")):
        (tmp_path / "source" / f"{name}.wav").write_bytes(sound(end, seconds=3))
    out = tmp_path / "out"
    segment_audio.main([f"--data_dir={tmp_path / 'source'}", f"--output_dir={out}", "--num_proc=1"])
    rejected = [row for _, row in read_json_lines(out / "rejected.jsonl")]
    assert [(row["file"], "SIGSEGV" in row["detail"]) for row in rejected] == [("bad.wav", True)]
