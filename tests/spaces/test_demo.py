"""The demo Space: what its functions say of tiny checkpoints, and the page in a browser, run where none of us is
installed."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from bare_python import bare_python
from browser import browser_page
from hub_server import USER
from huggingface_hub import SpaceCard, constants, snapshot_download
from packaging.requirements import Requirement
from paths import ROOT
from peft import PeftModel
from tiny_ctc import save_tiny_wav2vec2
from tiny_speech import EXPERTS, save_tiny_whisper, tiny_moe, tiny_processor
from tiny_units import RATE, babble
from tiny_vocoder import tiny_vocoder
from transformers import WhisperForConditionalGeneration

from hf_components.acoustic_units import AcousticUnitsModel
from hf_components.checkpoints.loading import save_processor
from hf_components.publishing.hub import publish
from hf_components.training.lora import LoraArguments, add_lora, save_lora
from hf_components.units.motifs.bpe import save_motifs, train_motifs

DEMO = ROOT / "spaces" / "demo"
ARTEFACTS = ROOT / "tests" / "artefacts"
sys.path.append(str(DEMO))  # a Space's files are its own top level

from recognition import load_recogniser, recognise  # noqa: E402
from recordings import LONGEST, read_recording, spectrograms  # noqa: E402
from resynthesis import load_units, resynthesise  # noqa: E402

pytestmark = pytest.mark.integration

CARD = "---\nlicense: apache-2.0\n---\n# Made for a test\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def moe(folder) -> Path:
    tiny_moe(router_temperature=10.0).save_pretrained(folder / "moe")
    save_processor(tiny_processor(), folder / "moe")
    return folder / "moe"


@pytest.fixture(scope="module")
def whisper(folder) -> Path:
    return save_tiny_whisper(folder / "whisper")


@pytest.fixture(scope="module")
def units(folder) -> Path:
    """Laid out as `release_units` does."""
    model, target = AcousticUnitsModel.from_encoder("mfcc", num_units=8), folder / "units"
    features, _ = model.features(torch.from_numpy(babble(2, 7))[None])
    model.set_centroids(features[0, :: len(features[0]) // 8][:8])
    model.save_pretrained(target)
    tiny_vocoder(units=model.identity()).save_pretrained(target / "vocoder")
    for code in (target / "vocoder").glob("*.py"):
        shutil.copy(code, target)
    (target / "motifs").mkdir()
    save_motifs(target / "motifs", train_motifs([[0, 1, 2, 3, 4, 5, 6, 7] * 5], 8, 16), model.identity())
    return target


@pytest.fixture(scope="module")
def wav(folder) -> Path:
    soundfile.write(folder / "speech.wav", babble(2, 3), RATE)
    return folder / "speech.wav"


def speech(seed: int = 3) -> np.ndarray:
    return babble(2, seed)


def test_each_expert_is_heard_alone_and_the_best_one_writes(moe):
    heard, model = recognise(str(moe), speech()), tiny_moe()
    features = tiny_processor()(speech(), sampling_rate=RATE, return_tensors="pt").input_features
    alone = [
        tiny_processor().batch_decode(model.merge_expert(i).generate(features), skip_special_tokens=True)[0].strip()
        for i in range(EXPERTS)
    ]
    assert len(set(alone)) > 1, "the experts must differ for this to be a test"
    best = int(np.argmax(heard.weights))
    assert sum(heard.weights) == pytest.approx(1)
    assert heard.by_expert[best] == heard.transcript
    assert heard.remark == f"Expert {best} wrote the transcript, as its weight is the largest (`hard` routing)."


@pytest.mark.parametrize(
    ("routing", "mixture", "said"),
    [
        ("top_k", "logits", r"Experts \d, \d wrote the transcript together \(`top_k` routing\)\."),
        ("soft", "weights", r"Experts 0, 1, 2 wrote the transcript together \(`soft` routing\)\."),
    ],
)
def test_experts_that_write_together_are_named_and_heard_alone(tmp_path, moe, routing, mixture, said):
    tiny_moe(routing=routing, mixture=mixture, experts_per_utterance=2).save_pretrained(tmp_path)
    save_processor(tiny_processor(), tmp_path)
    heard = recognise(str(tmp_path), speech())
    assert re.fullmatch(said, heard.remark)
    assert heard.by_expert == recognise(str(moe), speech()).by_expert


@pytest.mark.parametrize(
    ("mixture", "shared_expert", "said"),
    [
        ("merge", True, "The shared expert wrote the transcript (`merge`). The router has no say."),
        ("merge", False, "The mean of all experts wrote the transcript (`merge`). The router has no say."),
        (
            "choose",
            False,
            "The mean of all experts wrote the transcript; where it was not sure, all experts were asked, and the "
            "text of least risk was taken (`choose`). The router has no say.",
        ),
    ],
)
def test_a_mixture_that_does_not_route_shows_no_weights(tmp_path, wav, mixture, shared_expert, said):
    tiny_moe(mixture=mixture, shared_expert=shared_expert).save_pretrained(tmp_path)
    save_processor(tiny_processor(), tmp_path)
    heard = recognise(str(tmp_path), speech())
    assert (heard.remark, heard.weights, len(heard.by_expert)) == (said, [], EXPERTS)
    pytest.importorskip("gradio")
    import app

    *_, bars, experts = app.show_experts(str(wav), str(tmp_path))
    assert not bars["visible"] and bars["value"].empty
    assert experts["visible"] and [row[1:] for row in experts["value"]] == [["", text] for text in heard.by_expert]


def test_a_router_that_counts_for_half_is_said_to(tmp_path):
    tiny_moe(beta=0.5).save_pretrained(tmp_path)
    save_processor(tiny_processor(), tmp_path)
    said = r"Expert \d wrote .* \(`hard` routing\)\. The router's choice counts 0\.5; the shared expert has the rest\."
    assert re.fullmatch(said, recognise(str(tmp_path), speech()).remark)


def test_plain_whisper_and_ctc_write_and_say_that_they_have_no_router(tmp_path, whisper):
    features = tiny_processor()(speech(), sampling_rate=RATE, return_tensors="pt").input_features
    written = WhisperForConditionalGeneration.from_pretrained(whisper).generate(features)
    heard = recognise(str(whisper), speech())
    assert heard.transcript == tiny_processor().batch_decode(written, skip_special_tokens=True)[0].strip() != ""
    assert (heard.weights, heard.by_expert) == ([], [])
    assert heard.remark == f"`{whisper}` is a plain Whisper: it has no router and no experts."
    assert recognise(str(save_tiny_wav2vec2(tmp_path)), speech()).remark.endswith("has no router and no experts.")


def test_an_adapter_is_put_on_its_base_model(tmp_path, whisper):
    base = WhisperForConditionalGeneration.from_pretrained(whisper)
    adapted = add_lora(base, LoraArguments(lora_rank=2, lora_dropout=0.0))
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    save_lora(adapted, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(whisper)
    model = load_recogniser(str(tmp_path / "adapter")).model
    expected = PeftModel.from_pretrained(
        WhisperForConditionalGeneration.from_pretrained(whisper), tmp_path / "adapter"
    )
    features = torch.randn(1, 80, 3000)
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(
            model(features, decoder_input_ids=ids).logits,
            expected.eval()(features, decoder_input_ids=ids).logits,
            rtol=1e-3,
            atol=1e-3,
        )


def test_speech_goes_to_units_and_motifs_and_back(units):
    result, (quantizer, vocoder, _) = resynthesise(str(units), speech()), load_units(str(units))
    ids = quantizer(torch.from_numpy(speech())[None])
    with torch.no_grad():
        np.testing.assert_array_equal(result.speech, vocoder(ids)[0].numpy())
    runs = torch.unique_consecutive(ids[0]).tolist()
    assert [unit for motif in result.motifs for unit in motif] == runs
    assert len(result.motifs) < len(runs), "no two units were joined"
    assert result.remark == (
        f"{ids.shape[1]} units of 20 ms, {len(runs)} without repetitions. They make {len(result.motifs)} motifs."
    )


def test_units_without_vocoder_or_motifs_are_shown_and_the_lack_is_said(units, tmp_path):
    shutil.copytree(units, tmp_path / "units", ignore=shutil.ignore_patterns("vocoder", "motifs"))
    result = resynthesise(str(tmp_path / "units"), speech())
    assert result.speech is None
    assert all(len(motif) == 1 for motif in result.motifs)
    assert "has no motifs." in result.remark
    assert "has no vocoder, so the units are not spoken." in result.remark


def test_a_vocoder_of_several_voices_says_which_speaks_and_one_with_melody_that_it_cannot(units, tmp_path):
    for options, said in (
        ({"speakers": ["Ann", "Bo"]}, "Spoken in the voice of Ann, the first of 2."),
        ({"use_f0": True}, "needs a melody too, so the units are not spoken."),
    ):
        target = shutil.copytree(units, tmp_path / next(iter(options)))
        identity = load_units(str(units)).quantizer.identity()
        tiny_vocoder(units=identity, **options).save_pretrained(target / "vocoder")
        assert resynthesise(str(target), speech()).remark.endswith(said)


def test_what_is_wrong_with_a_checkpoint_is_said(tmp_path, moe, units):
    other = shutil.copytree(units, tmp_path / "other")
    tiny_vocoder().save_pretrained(other / "vocoder")
    (tmp_path / "empty").mkdir()
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text('{"base_model_name_or_path": "lost/base"}')
    for call, name, said in (
        (recognise, "", "Name a checkpoint first"),
        (recognise, str(tmp_path / "nowhere"), "There is no folder .*nowhere, and no repository of that name"),
        (recognise, str(tmp_path / "empty"), "has no config.json"),
        (recognise, str(tmp_path / "lora"), "lora adapts lost/base, which must be there too. There is no folder"),
        (recognise, str(units), "turns speech into units and writes no text; choose it on the other tab"),
        (resynthesise, str(moe), "is of the type whisper; acoustic units are needed"),
        (resynthesise, str(other), "the vocoder speaks units of"),
    ):
        with pytest.raises(ValueError, match=said):
            call(name, speech())


def test_recordings_are_mixed_down_resampled_and_cut(tmp_path):
    stereo = np.stack([np.ones(2 * 44_100), np.zeros(2 * 44_100)], axis=1) / 2
    soundfile.write(tmp_path / "a.wav", stereo, 44_100)
    waveform, remark = read_recording(str(tmp_path / "a.wav"))
    assert (waveform.shape, waveform.dtype, remark) == ((2 * RATE,), np.float32, "")
    assert waveform[RATE] == pytest.approx(0.25, abs=1e-3)
    soundfile.write(tmp_path / "b.wav", np.zeros(33 * RATE), RATE)
    waveform, remark = read_recording(str(tmp_path / "b.wav"))
    assert len(waveform) == LONGEST * RATE
    assert remark == "The recording lasts 33 s; its first 30 s were used."


def test_what_is_wrong_with_a_recording_is_said(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    for name, said in (("short.wav", "too short"), ("nan.wav", "no numbers"), ("text.wav", "cannot be read as audio")):
        with pytest.raises(ValueError, match=said):
            read_recording(str(tmp_path / name))
    with pytest.raises(ValueError, match="Record something"):
        read_recording(None)


def test_spectrograms_share_time_and_loudness():
    first, second = spectrograms({"Recording": speech(), "Half": 0.1 * speech()[:RATE]}).axes
    assert (first.get_title(), second.get_title()) == ("Recording", "Half")
    assert first.get_xlim() == second.get_xlim() == (0, 2)
    assert first.images[0].get_clim() == second.images[0].get_clim()


def test_a_space_lets_nobody_choose_another_checkpoint(monkeypatch):
    gradio = pytest.importorskip("gradio")
    import app

    monkeypatch.setattr(app, "TAKES_ANY_NAME", True)  # the user of this machine said so
    assert app.checkpoint_field(["user/a"]).preprocess("user/b") == "user/b"
    monkeypatch.setattr(app, "TAKES_ANY_NAME", False)
    assert app.checkpoint_field(["user/a"]).preprocess("user/a") == "user/a"
    with pytest.raises(gradio.Error, match="user/b"):
        app.checkpoint_field(["user/a"]).preprocess("user/b")


@pytest.mark.parametrize(
    ("environment", "takes", "hosts"),
    [
        ({}, True, ["localhost", "127.0.0.1"]),
        ({"GRADIO_SERVER_NAME": "0.0.0.0"}, False, ["localhost", "127.0.0.1"]),
        ({"GRADIO_SHARE": "1"}, False, ["localhost", "127.0.0.1"]),
        ({"SPACE_ID": "user/demo"}, False, ["*"]),
        ({"HOSTS": "a.example b.example"}, True, ["localhost", "127.0.0.1", "a.example", "b.example"]),
        ({"GRADIO_SERVER_NAME": "192.0.2.1"}, False, ["localhost", "127.0.0.1", "192.0.2.1"]),
    ],
)
def test_who_may_ask_and_choose(monkeypatch, environment, takes, hosts):
    pytest.importorskip("gradio")
    import app

    for name in ("GRADIO_SERVER_NAME", "GRADIO_SHARE", "SPACE_ID", "HOSTS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fresh = runpy.run_path(str(DEMO / "app.py"))
    assert (fresh["TAKES_ANY_NAME"], fresh["own_hosts"]()) == (takes, hosts)
    assert app.build(["user/a"], []).delete_cache == app.KEPT


def test_another_host_is_refused(monkeypatch):
    gradio = pytest.importorskip("gradio")
    import app
    from starlette.testclient import TestClient

    client = TestClient(
        gradio.routes.App.create_app(
            app.build([], []),
            app_kwargs={"middleware": [app.Middleware(app.TrustedHostMiddleware, allowed_hosts=app.own_hosts())]},
        )
    )
    assert client.get("/config", headers={"Host": "evil.example:7860"}).status_code == 400
    assert client.get("/config", headers={"Host": "127.0.0.1:7860"}).status_code == 200


def test_what_cannot_be_shown_is_hidden_and_errors_are_messages(whisper, wav):
    gradio = pytest.importorskip("gradio")
    import app

    transcript, remark, weights, experts = app.show_experts(str(wav), str(whisper))
    assert transcript
    assert "no router" in remark
    assert not weights["visible"]
    assert not experts["visible"]
    with pytest.raises(gradio.Error, match="no folder"):
        app.show_units(str(wav), "no/such/place")


def test_the_files_are_a_space_that_imports_only_what_it_lists():
    lists = [
        Requirement(line) for line in (DEMO / "requirements.txt").read_text().splitlines() if not line.startswith("#")
    ]
    for requirement in lists:
        assert requirement.specifier.contains(version(requirement.name)), (
            f"{requirement} is not what the tests run with"
        )
    own, brought = (
        {path.stem for path in DEMO.glob("*.py")},
        {"gradio", "starlette", "huggingface_hub"},
    )  # the Space's SDK, transformers
    for path in DEMO.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else ([node.module] if isinstance(node, ast.ImportFrom) else [])
            )
            foreign = {name.split(".")[0] for name in names} - own - set(sys.stdlib_module_names)
            if path.name in ("checkpoints.py", "voice.py"):  # they ask whether this project is installed
                foreign.discard("hf_components")
            assert foreign <= brought | {requirement.name for requirement in lists}, f"{path.name} imports {foreign}"
    metadata = SpaceCard.load(DEMO / "README.md").data.to_dict()
    assert (DEMO / metadata["app_file"]).exists()
    assert len(metadata["short_description"]) <= 60  # what the Hub takes
    if (pinned := re.search(r"^gradio==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)) is not None:
        assert metadata["sdk_version"] == pinned[1]


def test_it_is_published_as_a_space_and_reads_from_the_hub(hub, units, moe, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    publish(DEMO, f"{USER}/demo")
    there = Path(snapshot_download(f"{USER}/demo", repo_type="space"))
    for path in DEMO.glob("*.*"):
        assert (there / path.name).read_bytes() == path.read_bytes()
    for name, model in (("units", units), ("moe", moe)):
        shutil.copytree(model, tmp_path / name)
        (tmp_path / name / "README.md").write_text(CARD)
        publish(tmp_path / name, f"{USER}/{name}")
    assert recognise(f"{USER}/moe", speech()) == recognise(str(moe), speech())
    np.testing.assert_array_equal(
        resynthesise(f"{USER}/units", speech()).speech, resynthesise(str(units), speech()).speech
    )


@pytest.fixture
def page():
    with browser_page() as (page, errors):
        yield page, errors


@pytest.fixture
def address(moe, whisper, units, tmp_path):
    """Of the app, run in a copy by an interpreter that knows nothing of us."""
    pytest.importorskip("gradio")
    app = shutil.copytree(DEMO, tmp_path / "space")
    environment = {
        "PATH": "/usr/bin:/bin",
        "RECOGNISERS": f"{moe} {whisper}",
        "UNITS": str(units),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "MPLCONFIGDIR": str(tmp_path),
        "PYTHONUNBUFFERED": "1",
        "GRADIO_TEMP_DIR": str(tmp_path / "uploads"),
        "OMP_NUM_THREADS": "1",
    }
    with (
        (tmp_path / "log").open("w+") as log,
        subprocess.Popen(
            [bare_python(tmp_path / "stranger"), "app.py"],
            cwd=app,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        found = next((line for line in process.stdout if "http://" in line), None)
        assert found, (tmp_path / "log").read_text()
        yield re.search(r"http://\S+", found)[0]
        process.terminate()


def test_page_in_a_browser(page, address, moe, whisper, units, wav):
    page, errors = page
    ARTEFACTS.mkdir(exist_ok=True)
    waveform, _ = read_recording(str(wav))
    heard, spoken = recognise(str(moe), waveform), resynthesise(str(units), waveform)
    page.goto(address)
    page.locator("input[type=file]").set_input_files(wav)
    page.get_by_role("button", name="Transcribe").click()
    page.wait_for_function("text => document.querySelector('textarea').value == text", arg=heard.transcript)
    bars = page.locator("[aria-roledescription=bar]")
    bars.last.wait_for()
    assert bars.count() == EXPERTS
    labels = " ".join(bar.get_attribute("aria-label") for bar in bars.all())
    assert [float(weight) for weight in re.findall(r"weight: ([\d.]+)", labels)] == pytest.approx(
        heard.weights, abs=1e-3
    )
    table = page.get_by_role("grid").inner_text()
    assert all(text in table for text in heard.by_expert)
    page.screenshot(path=ARTEFACTS / "demo_experts.png", full_page=True)

    page.get_by_role("combobox").first.click()
    page.get_by_role("option", name=str(whisper)).click()
    page.get_by_role("button", name="Transcribe").click()
    page.get_by_text("is a plain Whisper: it has no router and no experts").wait_for()
    assert bars.count() == 0

    page.get_by_role("tab", name="Units").click()
    page.locator("input[type=file]").last.set_input_files(wav)
    page.get_by_role("button", name="To units and back").click()
    page.get_by_text(spoken.remark).wait_for()
    page.locator("[data-testid=matplotlib]").wait_for()
    page.get_by_test_id("waveform-From its units").wait_for()
    page.screenshot(path=ARTEFACTS / "demo_units.png", full_page=True)
    assert errors == []


def test_requests_to_this_machine_do_not_go_through_a_proxy(monkeypatch):
    import app

    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.delenv("ALL_PROXY", raising=False)
    app.prepare_proxies()
    assert os.environ["NO_PROXY"] == "intranet,localhost,127.0.0.1,::1"
    assert os.environ["no_proxy"] == "localhost,127.0.0.1,::1"


@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
def test_a_socks_proxy_without_its_package_is_said(monkeypatch, name):
    import app

    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install socksio"):
        app.prepare_proxies()
