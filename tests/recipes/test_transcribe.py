"""`recipes/transcribe.py`: one line per id in the asked order, whatever happens to files and processes."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from paths import ROOT
from tiny_ctc import save_tiny_wav2vec2
from tiny_llm import save_tiny_llm
from tiny_speech import rows, save_tiny_whisper, tone

from hf_components.asr import transcripts
from hf_components.asr.transcriber import Transcriber
from hf_components.runtime.errors import UserError
from hf_components.runtime.fingerprints import fingerprint
from hf_components.runtime.locks import alone_in
from recipes import transcribe

pytestmark = pytest.mark.integration

QUICK = str(ROOT / "recipes" / "configs" / "transcribe" / "quick.yaml")
IDS = [f"u{i}" for i in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path):
    """A manifest without transcripts, its audio in two folders."""
    lines = []
    for i, name in enumerate(IDS):
        file = tmp_path / f"audio_{i % 2}" / "audio" / f"{name}.flac"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, tone(i % 3, i, 0.4 + 0.1 * i), 16_000)
        lines.append(
            {
                "utterance_id": name,
                "child_id": "c",
                "audio_path": f"audio/{name}.flac",
                "audio_duration_sec": 0.4 + 0.1 * i,
                "md5_hash": hashlib.md5(file.read_bytes()).hexdigest(),
            }
        )
    write_lines(tmp_path / "metadata.jsonl", lines)
    return tmp_path


def write_lines(file: Path, lines: list[dict]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def arguments(model: Path, data: Path, *more: str) -> list[str]:
    return [
        "--config",
        QUICK,
        "--model",
        str(model),
        "--input_jsonl",
        str(data / "metadata.jsonl"),
        "--output_jsonl",
        str(data / "out" / "predictions.jsonl"),
        "--max_new_tokens",
        "8",
        "--batch_seconds",
        "60",
        *more,
    ]


def run(model: Path, data: Path, *more: str) -> tuple[dict, list[dict]]:
    metrics = transcribe.main(arguments(model, data, *more))
    return metrics, read_lines(data / "out" / "predictions.jsonl")


def counting(monkeypatch) -> list[int]:
    """The number of clips of each batch that a model decodes from now on."""
    sizes, decode = [], Transcriber._decode

    def counted(self, clips, *weights):
        sizes.append(len(clips))
        return decode(self, clips, *weights)

    monkeypatch.setattr(Transcriber, "_decode", counted)
    return sizes


def test_lines_are_in_the_order_of_the_manifest(model, data):
    metrics, lines = run(model, data)
    assert [list(line) for line in lines] == [["utterance_id", "orthographic_text"]] * 6
    assert [line["utterance_id"] for line in lines] == IDS
    files = [data / f"audio_{i % 2}" / "audio" / f"{name}.flac" for i, name in enumerate(IDS)]
    expected = Transcriber.from_pretrained(model, dtype="float32", max_new_tokens=8).transcribe_files(files)
    assert [line["orthographic_text"] for line in lines] == [transcript.text for transcript in expected]
    assert len({line["orthographic_text"] for line in lines}) > 1
    assert (metrics["utterances"], metrics["failed"], metrics["audio_seconds"]) == (6, 0, 3.9)
    assert {path.name for path in (data / "out").iterdir()} == {"predictions.jsonl", "predictions.summary.json"}


def test_finished_transcripts_are_verified_when_they_are_kept_or_read(model, data):
    run(model, data)
    file = data / "out" / "predictions.jsonl"
    file.write_text(file.read_text().replace("u1", "u9"))
    for read in (lambda: run(model, data), lambda: fingerprint(file)):
        with pytest.raises(UserError, match=r"predictions.jsonl has another content; .*delete .*summary.json"):
            read()


def test_what_was_left_when_all_was_written_is_deleted(model, data, monkeypatch):
    partial = data / "out" / ".predictions.jsonl.partial"

    def stop_before_the_deletion(folder):
        assert folder == partial
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(transcripts.shutil, "rmtree", stop_before_the_deletion)
        run(model, data)
    assert partial.exists()
    assert run(model, data)[0]["failed"] == 0
    assert {path.name for path in (data / "out").iterdir()} == {"predictions.jsonl", "predictions.summary.json"}


def test_a_line_that_decayed_before_the_run_goes_on_is_named(model, data, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(transcripts, "_write_lines", interrupt)
        run(model, data)
    (part,) = (data / "out" / ".predictions.jsonl.partial").glob("*.jsonl")
    part.write_text(part.read_text().replace('"seconds": 0.4', '"seconds": 0.5'))
    with pytest.raises(UserError, match=rf"{part.name}, line \d, is damaged, or was edited: .*; delete"):
        run(model, data)


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_lines_are_in_the_order_of_the_submission_format(model, data):
    order = ["u3", "u0", "u5", "u1", "u4", "u2"]
    write_lines(data / "format.jsonl", [{"utterance_id": name, "orthographic_text": ""} for name in order])
    _, lines = run(model, data, "--submission_format", str(data / "format.jsonl"))
    assert [line["utterance_id"] for line in lines] == order
    assert {line["utterance_id"]: line for line in lines} == {
        line["utterance_id"]: line for line in run(model, data)[1]
    }


def test_ids_are_written_as_they_were_given(model, data):
    lines = read_lines(data / "metadata.jsonl")
    given = [" u0", "u1 ", 2, "u3\t", "u\u00a04", 5]
    write_lines(
        data / "metadata.jsonl", [line | {"utterance_id": name} for line, name in zip(lines, given, strict=True)]
    )
    assert [line["utterance_id"] for line in run(model, data)[1]] == given
    order = ["5", "u1", 2, " u0 ", "u3", "u\u00a04"]
    write_lines(data / "format.jsonl", [{"utterance_id": name} for name in order])
    assert [
        line["utterance_id"] for line in run(model, data, f"--submission_format={data / 'format.jsonl'}")[1]
    ] == order


def test_lengths_in_milliseconds_are_not_believed(model, data):
    lines = read_lines(data / "metadata.jsonl")
    write_lines(
        data / "metadata.jsonl",
        [line | {"audio_duration_sec": 1000 * line["audio_duration_sec"]} for line in lines],
    )
    metrics, _ = run(model, data)
    assert metrics["audio_seconds"] == 3.9


def test_ids_that_differ_are_told(model, data):
    write_lines(data / "format.jsonl", [{"utterance_id": name} for name in ("u0", "x1", "u2", "u3", "u4", "x0")])
    with pytest.raises(
        UserError,
        match=r"x0, x1 of .*format.jsonl missing from .*metadata.jsonl; u1, u5 of .*metadata.jsonl "
        r"missing from .*format.jsonl",
    ):
        run(model, data, "--submission_format", str(data / "format.jsonl"))
    write_lines(data / "format.jsonl", [{"utterance_id": name} for name in ("u0", "u1", "u0")])
    with pytest.raises(UserError, match="format.jsonl, line 3: utterance_id u0 is already on line 1"):
        run(model, data, "--submission_format", str(data / "format.jsonl"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"utterance_id": "u9", "audio_pa', "line 7: not JSON"),
        ('{"utterance_id": "u9"}', "line 7: audio_path must be a string"),
        ('{"utterance_id": "u2", "audio_path": "a.wav"}', "line 7: utterance_id u2 is already on line 3"),
        ('{"utterance_id": " ", "audio_path": "a.wav"}', "line 7: utterance_id must be a string"),
    ],
)
def test_a_line_that_is_wrong_is_named(model, data, line, message):
    with (data / "metadata.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=f"metadata.jsonl, {message}"):
        run(model, data)


def test_what_cannot_be_read_is_empty_named_and_tried_again(model, data, capsys, monkeypatch):
    lines = read_lines(data / "metadata.jsonl")
    (data / "audio_1" / "audio" / "u1.flac").unlink()
    (data / "audio_0" / "audio" / "u2.flac").write_bytes(b"other")
    del lines[4]["md5_hash"]
    whole = (data / "audio_0" / "audio" / "u4.flac").read_bytes()
    (data / "audio_0" / "audio" / "u4.flac").write_bytes(whole[:500])
    lines[5]["audio_path"] = "../secret.flac"
    write_lines(data / "metadata.jsonl", lines)
    metrics, found = run(model, data)
    assert [line["utterance_id"] for line in found] == IDS and metrics["failed"] == 4
    assert [bool(line["orthographic_text"]) for line in found] == [True, False, False, True, False, False]
    failures = {
        line["utterance_id"]: line["reason"] for line in read_lines(data / "out" / "predictions.failures.jsonl")
    }
    kinds = {name: reason.split(":")[0] for name, reason in failures.items()}
    assert kinds == {
        "u1": "missing file",
        "u2": "checksum mismatch",
        "u4": "truncated audio",
        "u5": "path outside the corpus",
    }
    assert "4 recordings could not be read and have an empty text: u1, u2, u4, u5" in capsys.readouterr().err

    (data / "audio_0" / "audio" / "u4.flac").write_bytes(whole)
    sizes = counting(monkeypatch)
    metrics, repaired = run(model, data)
    assert sizes == [1] and (metrics["kept"], metrics["failed"]) == (2, 3)
    assert repaired[4]["orthographic_text"] and [repaired[i] for i in (0, 3)] == [found[i] for i in (0, 3)]


def test_a_finished_run_is_not_repeated_unless_something_changed(model, data, monkeypatch):
    first = run(model, data)
    sizes = counting(monkeypatch)
    assert run(model, data) == first and sizes == []
    run(model, data, "--num_beams", "2")
    run(model, data, "--num_beams", "2", "--no_resume")
    assert sum(sizes) == 12


def test_an_interrupted_run_goes_on(model, data, monkeypatch):
    decode, done = Transcriber._decode, []

    def stop_in_the_third_batch(self, clips, weights):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(clips))
        return decode(self, clips, weights)

    monkeypatch.setattr(Transcriber, "_decode", stop_in_the_third_batch)
    with pytest.raises(KeyboardInterrupt):
        run(model, data)
    assert not (data / "out" / "predictions.jsonl").exists()
    (part,) = (data / "out" / ".predictions.jsonl.partial").glob("*.jsonl")
    part.write_text(part.read_text()[:-20])  # the last line cut short
    monkeypatch.setattr(Transcriber, "_decode", decode)
    sizes = counting(monkeypatch)
    metrics, lines = run(model, data)
    assert sum(sizes) == metrics["utterances"] - metrics["kept"] == 3
    assert lines == run(model, data, "--no_resume")[1] and not (data / "out" / ".predictions.jsonl.partial").exists()


def test_fewer_recordings_than_before_an_interruption(model, data, monkeypatch):
    def write_and_stop(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transcripts, "_write_lines", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run(model, data)
    sizes = counting(monkeypatch)
    metrics, lines = run(model, data, "--max_samples", "3")
    assert metrics["utterances"] == metrics["kept"] == len(lines) == 3 and sizes == []


@pytest.mark.slow
def test_a_killed_process_loses_a_batch_at_most(model, data):
    script = (
        "import os, signal, sys; from recipes import transcribe; from hf_components.asr.transcriber "
        "import Transcriber\n"
        "decode, done = Transcriber._decode, []\n"
        "def kill(self, clips, weights):\n"
        "    if len(done) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(clips); return decode(self, clips, weights)\n"
        "Transcriber._decode = kill; transcribe.main(sys.argv[1:])"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, *arguments(model, data)], cwd=ROOT, env=os.environ, check=False
    )
    assert killed.returncode == -signal.SIGKILL and not (data / "out" / "predictions.jsonl").exists()
    metrics, lines = run(model, data)
    assert metrics["kept"] == 4 and [line["utterance_id"] for line in lines] == IDS
    assert lines == run(model, data, "--no_resume")[1]


@pytest.mark.slow
def test_two_processes_share_the_work(model, data):
    (data / "audio_0" / "audio" / "u2.flac").write_bytes(b"other")
    _, alone = run(model, data, "--no_resume")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "accelerate_configs/multi_cpu.yaml",
        "recipes/transcribe.py",
        *arguments(model, data, "--no_resume"),
    ]
    subprocess.run(launch, cwd=ROOT, check=True)
    assert read_lines(data / "out" / "predictions.jsonl") == alone
    parts = sorted((data / "out" / ".predictions.jsonl.partial").glob("*.jsonl"))
    assert [part.name for part in parts] == ["000000-0.jsonl", "000000-1.jsonl"]
    assert all(map(read_lines, parts))
    assert sorted(line["transcript"]["id"] for part in parts for line in read_lines(part)) == IDS


def test_a_split_of_a_corpus(model, data):
    (data / "corpus").mkdir()
    corpus = rows(4)
    corpus.to_parquet(data / "corpus" / "test.parquet")
    output = data / "predictions.jsonl"
    transcribe.main(
        [
            "--config",
            QUICK,
            "--model",
            str(model),
            "--corpus",
            str(data / "corpus"),
            "--split",
            "test",
            "--output_jsonl",
            str(output),
            "--max_new_tokens",
            "8",
        ]
    )
    expected = Transcriber.from_pretrained(model, dtype="float32", max_new_tokens=8).transcribe_corpus(corpus)
    assert read_lines(output) == [{"utterance_id": t.id, "orthographic_text": t.text} for t in expected]


def test_a_manifest_with_other_field_names(model, data):
    theirs = [
        {"key": line["utterance_id"], "file": line["audio_path"]} for line in read_lines(data / "metadata.jsonl")
    ]
    _, expected = run(model, data)
    write_lines(data / "metadata.jsonl", theirs)
    folders = [str(data / "audio_0"), str(data / "audio_1")]
    assert run(model, data, "--fields", "utterance_id=key", "audio_path=file", "--audio_dirs", *folders)[1] == expected


def test_arguments_that_contradict_are_told(model, data):
    with pytest.raises(UserError, match="give one of --audio, --input_jsonl and --corpus, got input_jsonl and corpus"):
        run(model, data, "--corpus", "data/prepared")
    with pytest.raises(UserError, match="there is no folder ./none"):
        run(model, data, "--model", "./none")
    with pytest.raises(UserError, match="fields takes OUR_NAME=NAME_IN_FILE"):
        run(model, data, "--fields", "key")


def test_what_is_read_is_not_overwritten(model, data):
    manifest = (data / "metadata.jsonl").read_bytes()
    for flag in ("--output_jsonl", "--hypotheses_csv"):
        with pytest.raises(UserError, match=f"{flag} .* would replace .*metadata.jsonl, which is read"):
            run(model, data, f"{flag}={data}/metadata.jsonl")
    with pytest.raises(UserError, match="--output_jsonl and --hypotheses_csv are one file"):
        run(model, data, f"--output_jsonl={data}/texts", f"--hypotheses_csv={data}/./texts")
    assert (data / "metadata.jsonl").read_bytes() == manifest


def test_an_llm_chooses_among_the_texts_of_a_ctc_model(model, data, tmp_path):
    recogniser = save_tiny_wav2vec2(tmp_path / "ctc")
    llm = str(save_tiny_llm(tmp_path / "llm", template=None))
    _, likeliest = run(recogniser, data)
    _, chosen = run(recogniser, data, "--llm_model", llm, "--llm_choices", "4")
    assert [line["utterance_id"] for line in chosen] == [line["utterance_id"] for line in likeliest]
    assert [line["orthographic_text"] for line in chosen] != [line["orthographic_text"] for line in likeliest]
    with pytest.raises(UserError, match="is a Whisper model, whose decoder knows its language already; leave the LLM"):
        run(model, data, "--llm_model", llm)


def without_checksums(data: Path) -> None:
    write_lines(
        data / "metadata.jsonl",
        [
            {key: value for key, value in line.items() if key != "md5_hash"}
            for line in read_lines(data / "metadata.jsonl")
        ],
    )


def test_a_recording_that_was_replaced_is_transcribed_anew(model, data, monkeypatch):
    without_checksums(data)
    (data / "audio_0" / "audio" / "u2.flac").write_bytes(b"other")
    _, first = run(model, data)
    soundfile.write(data / "audio_0" / "audio" / "u0.flac", tone(2, 9, 0.4), 16_000)
    sizes = counting(monkeypatch)
    metrics, second = run(model, data)
    assert (sum(sizes), metrics["kept"]) == (1, 4) and second[1:] == first[1:]
    soundfile.write(data / "audio_0" / "audio" / "u2.flac", tone(2, 2, 0.6), 16_000)
    assert run(model, data)[0]["failed"] == 0
    soundfile.write(data / "audio_0" / "audio" / "u0.flac", tone(0, 0, 0.4), 16_000)  # of a finished run
    sizes.clear()
    assert run(model, data)[1][0] == first[0] and sum(sizes) == 6


def test_figures_are_of_all_runs_that_made_the_transcripts(model, data, monkeypatch):
    write = transcripts.write_record

    def stop_before_the_summary(path, *value):
        if path.name == "predictions.summary.json":
            raise KeyboardInterrupt
        write(path, *value)

    monkeypatch.setattr(transcripts, "write_record", stop_before_the_summary)
    with pytest.raises(KeyboardInterrupt):
        run(model, data)
    monkeypatch.setattr(transcripts, "write_record", write)
    metrics, _ = run(model, data)
    assert (metrics["kept"], metrics["audio_seconds"]) == (6, 3.9) and metrics["real_time_factor"] > 0
    (data / "audio_0" / "audio" / "u2.flac").write_bytes(b"other")
    run(model, data)
    assert run(model, data)[0]["real_time_factor"] > 0  # nothing but a failure left to try


def test_two_runs_do_not_write_one_output(model, data):
    with (
        alone_in(data / "out" / ".predictions.jsonl.partial", "--output_jsonl"),
        pytest.raises(UserError, match="another run is writing to .*predictions.jsonl.partial"),
    ):
        run(model, data)
    assert run(model, data)[0]["failed"] == 0


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--batch_seconds=inf", "--batch_seconds must be finite, got inf"),
        ("--batch_seconds=nan", "--batch_seconds must be above 0, got nan"),
        ("--num_beams=0", "num_beams must be at least 1, got 0"),
        ("--num_workers=-1", "num_workers must be at least 0"),
        ("--max_new_tokens=0", "max_new_tokens must be at least 1"),
        ("--output_jsonl={data}", "output_jsonl must name a file"),
    ],
)
def test_arguments_out_of_range_are_told_before_the_work(model, data, flag, message):
    with pytest.raises(UserError, match=message):
        run(model, data, flag.format(data=data))


def test_a_length_that_cannot_be_is_measured(model, data):
    lines = read_lines(data / "metadata.jsonl")
    for line, seconds in zip(lines, (10**400, float("nan"), float("inf"), 1e9, -1, True), strict=True):
        line["audio_duration_sec"] = seconds
    write_lines(data / "metadata.jsonl", lines)
    assert run(model, data)[0]["audio_seconds"] == 3.9


def test_texts_also_as_the_csv_of_the_sap_challenge(model, data, tmp_path):
    for _ in range(2):  # the second time the transcripts are there
        _, lines = run(model, data, "--hypotheses_csv", str(tmp_path / "new" / "texts.csv"))
        with (tmp_path / "new" / "texts.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["raw_hypos"] for row in rows] == [line["orthographic_text"] for line in lines]
        assert list(rows[0]) == ["id", "raw_hypos"]
        (tmp_path / "new" / "texts.csv").unlink()


def test_recordings_and_folders_of_them_without_a_manifest(model, data):
    _, expected = run(model, data)
    output = data / "texts.jsonl"
    words = ["--model", str(model), "--output_jsonl", str(output), "--max_new_tokens", "8", "--dtype", "float32"]
    metrics = transcribe.main([str(data / "audio_0"), str(data / "audio_1" / "audio" / "u1.flac"), *words])
    assert metrics["utterances"] == 4 and metrics["failed"] == 0
    texts = {line["utterance_id"]: line["orthographic_text"] for line in expected}
    assert read_lines(output) == [
        {"utterance_id": f"audio/{name}.flac" if name != "u1" else "u1.flac", "orthographic_text": texts[name]}
        for name in ("u0", "u2", "u4", "u1")
    ]
    soundfile.write(data / "audio_0" / "new.flac", tone(1, 1, 0.5), 16_000)
    assert transcribe.main(["--audio", str(data / "audio_0"), *words])["utterances"] == 4
    assert [line["utterance_id"] for line in read_lines(output)][-1] == "new.flac"


def test_recordings_that_cannot_be_named_are_told(model, data, tmp_path):
    words = ["--model", str(model), "--output_jsonl", str(tmp_path / "x.jsonl")]
    (tmp_path / "empty").mkdir()
    (tmp_path / "u0.flac").touch()
    for places, message in {
        ("none.wav",): "there is no file or folder none.wav",
        (tmp_path / "empty",): "empty holds no recording",
        (data / "audio_0" / "audio", tmp_path / "u0.flac"): r"u0.flac have one name, u0.flac; .*, or rename one",
    }.items():
        with pytest.raises(UserError, match=message):
            transcribe.main([*map(str, places), *words])


def test_some_of_the_recordings(model, data):
    metrics, lines = run(model, data, "--max_samples", "2")
    assert metrics["utterances"] == len(lines) == 2
    more, longer = run(model, data, "--max_samples", "3")
    assert more["utterances"] == 3 and all(line in longer for line in lines)
    with pytest.raises(UserError, match="--submission_format wants all recordings"):
        run(model, data, "--max_samples", "2", "--submission_format", "x.jsonl")
