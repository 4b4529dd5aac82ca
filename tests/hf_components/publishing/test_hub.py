"""Publishing over real HTTP: one commit, nothing sent twice, and after any failure the result and the command are
there."""

import json
import logging
import re
import shlex
import shutil

import pytest
from hub_server import TOKEN, USER
from huggingface_hub import HfApi, ModelCard
from paths import ROOT
from tiny_speech import tiny_processor, tiny_whisper

from hf_components.checkpoints.ggml_export import export_ggml
from hf_components.publishing.hub import (
    PublishArguments,
    Published,
    PublishModelArguments,
    PublishVoiceArguments,
    publish,
    push,
)
from hf_components.publishing.hub_files import NO_LICENSE
from hf_components.runtime.completion import write_json
from hf_components.runtime.errors import UserError
from hf_components.runtime.stages import run_stage
from recipes import publish as recipe
from recipes import run_units_pipeline, train_unit_vocoder

pytestmark = pytest.mark.unit

REPO = f"{USER}/thing"
WEIGHTS = {
    "model-00001-of-00002.safetensors": b"\0" + bytes(range(256)) * 1500,
    "model-00002-of-00002.safetensors": b"\0" * 999,
}
CARD = "---\nlicense: mit\n---\n# A model\n"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def model(tmp_path):
    """A released model, with what must stay at home beside it."""
    folder = tmp_path / "run" / "model"
    files = {
        **WEIGHTS,
        "config.json": b"{}",
        "README.md": CARD.encode(),
        "results.json": b'{"wer": 0.5}',
        "modeling_x.py": b"x = 1\n",
        "plots/loss.png": b"\x89PNG\0",
        "experts/expert_0/adapter_model.safetensors": b"\0a",
        ".eval_results/wer.yaml": b"- value: 0.5\n",
    }
    at_home = [
        "stage.json",
        "started.json",
        "checkpoint-5/model.safetensors",
        "checkpoints/checkpoint-1/optimizer.pt",
        "optimizer.pt",
        "rng_state_0.pth",
        "training_args.bin",
        "pytorch_model.bin",
        ".x.partial/config.json",
        ".results.json.tmp",
        "logs/events.out.tfevents.1.machine.0",
        "train.log",
        "__pycache__/modeling_x.cpython.pyc",
        ".git/config",
        ".cache/huggingface/token",
    ]
    for name, content in {**files, **dict.fromkeys(at_home, b"{}")}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    (folder / "data").mkdir(parents=True)
    for number in range(2):
        (folder / "data" / f"train-{number:05d}-of-00002.parquet").write_bytes(b"PAR1\0%d" % number)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    return folder


def contents(folder, without=()):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command_in(message: str) -> list[str]:
    return shlex.split(re.search(r"repeat it with: python recipes/publish\.py (.*)$", message)[1])


def test_one_commit_holds_all_and_nothing_that_is_private(hub, model):
    before = contents(model)
    published = publish(model, REPO)
    assert isinstance(published, Published) and published.url == f"{hub.url}/{REPO}"
    there = hub.files(REPO)
    assert set(there) == {
        *WEIGHTS,
        "config.json",
        "README.md",
        "results.json",
        "modeling_x.py",
        "plots/loss.png",
        "experts/expert_0/adapter_model.safetensors",
        ".eval_results/wer.yaml",
    }
    assert all(before[name] == content for name, content in there.items())
    history = [commit.title for commit in HfApi().list_repo_commits(REPO)]
    assert history == ["Publish model", "initial commit"]
    assert not HfApi().model_info(REPO).private and HfApi().model_info(REPO).sha == published.revision
    assert contents(model) == before


def test_a_second_time_nothing_is_sent(hub, model):
    first = publish(model, REPO)
    sent = len(hub.asked("PUT ")) + len(hub.asked("POST /api/models/tester/thing/commit"))
    assert publish(model, REPO) == first
    assert len(hub.asked("PUT ")) + len(hub.asked("POST /api/models/tester/thing/commit")) == sent


def test_what_changed_alone_is_sent_and_what_is_gone_goes(hub, model, corpus):
    publish(model, REPO)
    HfApi().upload_file(path_or_fileobj=b"by hand", path_in_repo="LICENSE", repo_id=REPO)
    for name in WEIGHTS:
        (model / name).unlink()
    (model / "model.safetensors").write_bytes(b"\0new")
    sent = len(hub.asked("PUT "))
    publish(model, REPO)
    assert len(hub.asked("PUT ")) == sent + 1
    there = hub.files(REPO)
    assert not set(WEIGHTS) & set(there) and {"model.safetensors", "LICENSE", "config.json"} <= set(there)

    publish(corpus, REPO)
    shard = corpus / "data" / "train-00001-of-00002.parquet"
    shard.rename(corpus / "data" / "train-00000-of-00001.parquet")
    (corpus / "data" / "train-00000-of-00002.parquet").unlink()
    publish(corpus, REPO)
    assert [name for name in hub.files(REPO, "datasets") if name.startswith("data/")] == [
        "data/train-00000-of-00001.parquet"
    ]


@pytest.mark.parametrize(("private", "expected"), [(None, True), (True, True), (False, False)])
def test_data_are_private_unless_told(hub, corpus, private, expected):
    publish(corpus, REPO, private=private)
    assert HfApi().dataset_info(REPO).private == expected


def test_data_do_not_go_to_an_open_repository_unasked(hub, corpus, model):
    HfApi().create_repo(REPO, repo_type="dataset")
    with pytest.raises(UserError, match="already exists and is public.*--private false"):
        publish(corpus, REPO)
    assert not any(name.startswith("data/") for name in hub.files(REPO, "datasets"))
    publish(corpus, REPO, private=False)
    publish(model, REPO, private=True)
    assert HfApi().model_info(REPO).private


FAILURES = {
    "the Hub fails twice": lambda hub: hub.fail("POST */commit/*", times=2),
    "creating fails": lambda hub: hub.fail("POST /api/repos/create", status=503),
    "checking the card fails": lambda hub: hub.fail("POST /api/validate-yaml", status=502),
    "the connection breaks in a large file": lambda hub: hub.drop("PUT /objects/*", after=700),
    "it breaks in a part of one, again and again": lambda hub: hub.drop("PUT /objects/*/2", times=8, after=700),
    "it breaks in the commit": lambda hub: hub.drop("POST */commit/*", after=100),
    "the commit's answer is lost": lambda hub: hub.lose_answer("POST */commit/*"),
    "too many requests": lambda hub: hub.limit("POST */preupload/*", times=2),
    "too many commits": lambda hub: hub.limit("POST */commit/*", retry_after=3),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_what_passes_is_tried_again(hub, model, failure, caplog):
    failure(hub)
    publish(model, REPO)
    assert {name: content for name, content in contents(model).items() if name in hub.files(REPO)} == hub.files(REPO)
    assert [commit.title for commit in HfApi().list_repo_commits(REPO)] == ["Publish model", "initial commit"]
    arrived = [record.request for record in hub.asked("PUT /objects/") if record.status == 200]
    assert len(arrived) - len(set(arrived)) <= 1  # a whole file that arrived is never sent again; a part of one may be
    assert TOKEN not in caplog.text


def test_the_hub_is_given_the_time_that_it_asks_for(hub, model, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.limit("POST */commit/*", retry_after=30)
    publish(model, REPO)
    assert waits == [30]


LASTING = {
    "expired": (lambda hub: hub.expire(), '401, User Access Token "test" is expired.*hf auth login'),
    "full": (lambda hub: hub.fill_disk(), "403, Private repository storage limit reached.*free some space"),
    "507": (lambda hub: hub.fail("POST */objects/batch", times=99, status=507), "507.*free some space"),
    "down": (lambda hub: hub.fail("*", times=999, status=500), "500, Internal Error"),
    "gone": (lambda hub: hub.drop("*", times=999), "RemoteProtocolError"),
    "card": (
        lambda hub: hub.fail("POST /api/validate-yaml", status=400, message="no such licence"),
        "400, no such licence",
    ),
}


@pytest.mark.parametrize(("failure", "message"), LASTING.values(), ids=LASTING)
def test_what_lasts_is_told_with_the_command_that_repeats_it(hub, model, failure, message, caplog, capsys):
    before = contents(model)
    caplog.set_level(logging.DEBUG)
    failure(hub)
    with pytest.raises(UserError, match=message) as error:
        publish(model, REPO, private=True)
    assert contents(model) == before
    assert "is complete, but was not published" in str(error.value)
    assert "X-Amz-Signature" not in str(error.value) and "\n" not in str(error.value)
    for text in (str(error.value), caplog.text, "".join(capsys.readouterr())):
        assert TOKEN not in text
    hub.recover()
    sent = [record.request for record in hub.asked("PUT /objects/") if record.status == 200]
    assert recipe.main(command_in(str(error.value)))["url"] == f"{hub.url}/{REPO}"
    assert HfApi().model_info(REPO).private and set(WEIGHTS) <= set(hub.files(REPO))
    again = [record.request for record in hub.asked("PUT /objects/") if record.status == 200][len(sent) :]
    assert not set(sent) & set(again)


def test_a_large_file_that_came_through_is_not_sent_again(hub, model):
    hub.fail("POST */commit/*", times=99, status=403, message="no")
    with pytest.raises(UserError, match="403, no"):
        publish(model, REPO)
    sent = len(hub.asked("PUT /objects/"))
    hub.recover()
    publish(model, REPO)
    assert len(hub.asked("PUT /objects/")) == sent


@pytest.mark.parametrize("error", [RuntimeError, KeyError])
def test_whatever_goes_wrong_the_command_is_there(hub, model, monkeypatch, error):
    monkeypatch.setattr(HfApi, "create_commit", lambda *args, **options: (_ for _ in ()).throw(error(f"bad {TOKEN}")))
    with pytest.raises(UserError, match="bad <token>") as told:
        publish(model, REPO)
    assert command_in(str(told.value)) == [str(model), "--repo_id", REPO]


def test_a_token_in_a_file_stops_it(hub, model, monkeypatch):
    (model / "notes.txt").write_text(f"export HF_TOKEN={TOKEN}\n")
    with pytest.raises(UserError, match=r"notes\.txt holds an access token") as error:
        publish(model, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_another")  # also one of somebody else
    with pytest.raises(UserError, match=r"notes\.txt"):
        publish(model, REPO)
    assert TOKEN not in str(error.value) and ("models", REPO) not in hub.store.repositories


def test_metrics_and_spaces(hub, tmp_path, model):
    folder = tmp_path / "my_metric"
    folder.mkdir()
    (folder / "my_metric.py").write_text("x = 1\n")
    (folder / "README.md").write_text("---\nsdk: static\ntags:\n- evaluate\n- metric\n---\n")
    publish(folder, f"{USER}/my_metric")
    assert hub.repository(f"{USER}/my_metric", "spaces").sdk == "static"
    with pytest.raises(UserError, match="must have the name of its folder, my_metric"):
        publish(folder, REPO)


@pytest.mark.parametrize(
    ("folder", "repo_id", "message"),
    [
        ("run/model", "thing", "must be user/name"),
        ("run/model", "a/b/c", "must be user/name of letters"),
        ("run/none", REPO, "there is no folder"),
        ("run", REPO, r"is no model.*; publish .*run/model"),
        ("run/model/plots", REPO, "a model has a config.json"),
    ],
)
def test_mistakes(hub, model, folder, repo_id, message):
    with pytest.raises(UserError, match=message):
        publish(model.parents[1] / folder, repo_id)
    assert hub.records == []


def test_an_adapter_does_not_tell_where_its_base_lies(hub, model, caplog):
    (model / "adapter").mkdir()
    write_json(model / "adapter" / "adapter_config.json", {"base_model_name_or_path": str(model), "r": 2})
    publish(model, REPO)
    assert json.loads(hub.files(REPO)["adapter/adapter_config.json"]) == {"base_model_name_or_path": "model", "r": 2}
    assert f"names {model}, which is only on this machine" in caplog.text


def made_by_a_recipe(folder):
    """A finished stage whose model has no card."""

    def produce(work):
        (work / "model").mkdir()
        (folder.parent / "base").mkdir()
        write_json(
            work / "model" / "config.json",
            {
                "architectures": ["WhisperForConditionalGeneration"],
                "base_model": str(folder.parent / "base"),
                "pad_token": "/",
            },
        )
        (work / "loss.png").write_bytes(b"\x89PNG\0")
        return {"wer": 0.25, "steps": 3, "candidates": [str(folder.parent / "base")], "selected_on": None}

    run_stage(folder, produce, config={"model": "openai/whisper-tiny.en", "language": "en", "corpus": str(folder)})
    return folder / "model"


def test_what_a_single_recipe_made_gets_a_card_of_its_figures(hub, tmp_path):
    model = made_by_a_recipe(tmp_path / "stage")
    publish(model, REPO, license="mit")
    there = hub.files(REPO)
    assert set(there) == {"README.md", "config.json", "results.json", "plots/loss.png"}
    card = ModelCard(there["README.md"].decode())
    assert (card.data.license, card.data.base_model, card.data.language) == ("mit", "openai/whisper-tiny.en", "en")
    assert f'model="{REPO}")' in card.text and "| wer | 0.25 |" in card.text and "plots/loss.png" in card.text
    assert json.loads(there["results.json"])["metrics"]["candidates"] == ["base"]
    assert json.loads(there["config.json"]) | {"architectures": None} == {
        "architectures": None,
        "base_model": "base",
        "pad_token": "/",
    }
    assert not any(str(tmp_path).encode() in content for content in there.values())
    assert set(contents(model)) == {"config.json"}


def test_without_card_and_recipe_there_is_nothing_to_say(hub, model):
    (model / "README.md").unlink()
    (model / "stage.json").unlink()
    with pytest.raises(UserError, match="has no card"):
        publish(model, REPO)


def test_flags(hub, model, monkeypatch):
    push(PublishArguments(), model)
    assert hub.records == []
    push(PublishModelArguments(push_to_hub=True, hub_model_id=REPO, hub_private_repo=True), model)
    assert HfApi().model_info(REPO).private
    for wrong, message in (
        ({}, "needs --hub_model_id"),
        ({"hub_model_id": "thing"}, "--hub_model_id must be user/name"),
    ):
        with pytest.raises(UserError, match=message):
            PublishArguments(push_to_hub=True, **wrong)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="needs a token.*hf auth login"):
        PublishArguments(push_to_hub=True, hub_model_id=REPO)


def test_the_folder_may_come_first(hub, model, capsys):
    assert recipe.main([str(model), "--repo_id", REPO]) == recipe.main(["--repo_id", REPO, "--folder", str(model)])
    assert f"{hub.url}/{REPO}" in capsys.readouterr().out
    shutil.rmtree(model)
    with pytest.raises(UserError, match="there is no folder"):
        recipe.main([str(model), "--repo_id", REPO])


@pytest.fixture(params=["vocoder", "units with a vocoder"])
def voice(request, tmp_path):
    """A vocoder, alone or in a release of units, whose card names no licence."""
    folder = tmp_path / "run" / "model"
    place = folder if request.param == "vocoder" else folder / "vocoder"
    place.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "acoustic_units"}')
    (place / "config.json").write_text('{"model_type": "unit_hifigan"}')
    (folder / "README.md").write_text(f"---\ntags: [speech]\n---\n# A voice\n\n{NO_LICENSE}\n")
    return folder


def test_a_voice_is_not_published_without_a_licence(hub, voice):
    with pytest.raises(UserError, match="holds a voice, and its card names no licence; give --license"):
        publish(voice, REPO)
    assert hub.records == []


def test_the_licence_of_a_voice_is_that_of_its_speakers(hub, voice):
    publish(voice, REPO, license="cc-by-nc-4.0")
    card = ModelCard.load(REPO)
    assert card.data.license == "cc-by-nc-4.0" and "Licence of the voice: cc-by-nc-4.0." in card.text
    (voice / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# A voice\n")
    publish(voice, REPO)
    assert ModelCard.load(REPO).data.license == "cc0-1.0"


def test_the_licence_of_a_voice_is_asked_for_before_any_work(hub):
    with pytest.raises(
        UserError, match="--push_to_hub of a voice needs --model_license, the licence that its speakers"
    ):
        PublishVoiceArguments(push_to_hub=True, hub_model_id=REPO)
    assert PublishVoiceArguments().model_license is None
    assert PublishVoiceArguments(push_to_hub=True, hub_model_id=REPO, model_license="mit").model_license == "mit"


def test_the_card_of_units_says_that_no_licence_was_chosen():
    assert NO_LICENSE in (ROOT / "model_cards" / "acoustic_units.md").read_text()
    for speaking in (run_units_pipeline, train_unit_vocoder):
        assert PublishVoiceArguments in speaking.ARGUMENTS


def test_the_card_of_a_file_for_whisper_cpp_has_its_command(hub, tmp_path):
    def produce(folder) -> dict:
        (folder / "model").mkdir()
        export_ggml(tiny_whisper(width=32), tiny_processor(), folder / "model" / "ggml-model-q8_0.bin", "q8_0")
        return {"quantization": "q8_0"}

    run_stage(tmp_path / "out", produce, config={})
    publish(tmp_path / "out" / "model", REPO, license="mit")
    card = hub.files(REPO)["README.md"].decode()
    assert f"hf download {REPO} ggml-model-q8_0.bin --local-dir .\nwhisper-cli -m ggml-model-q8_0.bin" in card
    assert "library_name: whisper.cpp" in card and "```python" not in card
