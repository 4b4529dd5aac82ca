"""Pushed, and pulled by a stranger: another process, another folder, none of this project there, a pinned revision.

What comes out is the same bit for bit, although the repository has gone on since that revision.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
import torch
from bare_python import bare_python
from card_blocks import run_blocks
from datasets import Audio, load_dataset
from hub_server import TOKEN, USER
from huggingface_hub import HfApi
from make_corpus import children_corpus
from make_long_recordings import long_recording
from paths import ROOT
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_ctc import save_tiny_wav2vec2, tiny_ctc_processor, tiny_wav2vec2
from tiny_speech import save_tiny_whisper, tiny_moe, tiny_processor, tone
from tiny_units import pipeline_command
from transformers import Wav2Vec2ForCTC

from dataset_scripts import JsonlManifest
from dataset_scripts.prepared import write_corpus
from hf_components.checkpoints.loading import save_processor
from hf_components.publishing.hub import publish
from hf_components.training.lora import LoraArguments, add_lora, save_lora
from hf_components.whisper import MoeWhisperForConditionalGeneration
from recipes import run_units_pipeline

pytestmark = pytest.mark.slow

METRICS = ROOT / "hf_components" / "metrics"
CARD = "---\nlicense: apache-2.0\n---\n# Made for a test\n"


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    return bare_python(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def pull(hub, stranger, tmp_path):
    """Run a script in a fresh process of the stranger; `home` is all that it has."""

    def run(script: str, **values) -> Path:
        home = tmp_path / "elsewhere"
        home.mkdir(exist_ok=True)
        header = "import json, torch\nfrom safetensors.torch import load_file, save_file\n"
        header += "".join(f"{name} = {value!r}\n" for name, value in values.items())
        ran = subprocess.run(
            [stranger, "-c", header + script],
            cwd=home,
            env=hub.environment(home / "hf"),
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        assert TOKEN not in ran.stdout + ran.stderr
        return home

    return run


def twice(folder: Path, name: str, save) -> str:
    """Publish version 0 and then version 1 under one name; the revision of version 0."""
    revisions = []
    for version in (0, 1):
        target = folder / f"version_{version}" / name
        save(target, version)
        if not (target / "README.md").exists():
            (target / "README.md").write_text(CARD)
        revisions.append(publish(target, f"{USER}/{name}").revision)
    assert revisions[0] != revisions[1]
    return revisions[0]


def speech(folder: Path, processor) -> dict[str, torch.Tensor]:
    """What a model hears, also as a file for the other process."""
    inputs = processor(tone(0, 0, 1.0), sampling_rate=16_000, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_features", "input_values") if name in inputs}
    save_file(inputs, folder / "inputs.safetensors")
    return inputs


WHISPER = """
model = {auto}.from_pretrained(repo, revision=revision{options}).eval()
heard = load_file(inputs)
start = torch.tensor([[model.config.decoder_start_token_id, 5, 6]])
with torch.no_grad():
    logits = model(**heard, decoder_input_ids=start).logits
    save_file({{"logits": logits, "ids": model.generate(**heard, max_new_tokens=8)}}, "heard.safetensors")
"""


def whisper_outputs(model, heard: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = torch.tensor([[model.config.decoder_start_token_id, 5, 6]])
    with torch.no_grad():
        return {
            "logits": model(**heard, decoder_input_ids=start).logits,
            "ids": model.generate(**heard, max_new_tokens=8),
        }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), f"{name} differs by {(found[name] - value).abs().max()}"


def test_moe_whisper_by_its_own_code(hub, pull, tmp_path):
    def save(folder, version):
        tiny_moe(seed=version).save_pretrained(folder)
        save_processor(tiny_processor(), folder)

    revision = twice(tmp_path, "moe", save)
    assert {name for name in hub.files(f"{USER}/moe") if name.endswith(".py")}
    heard = speech(tmp_path, tiny_processor())
    script = "from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor\n" + WHISPER.format(
        auto="AutoModelForSpeechSeq2Seq", options=", trust_remote_code=True"
    )
    script += "AutoProcessor.from_pretrained(repo, revision=revision)\nassert model.config.num_experts == 3\n"
    home = pull(script, repo=f"{USER}/moe", revision=revision, inputs=str(tmp_path / "inputs.safetensors"))
    # Saving folds the shared expert into the base's weights, which rounds: so the local one is what was saved.
    local = MoeWhisperForConditionalGeneration.from_pretrained(tmp_path / "version_0" / "moe").eval()
    assert_same(load_file(home / "heard.safetensors"), whisper_outputs(local, heard))


def test_whisper_as_any_whisper(hub, pull, tmp_path):
    from transformers import WhisperForConditionalGeneration

    revision = twice(tmp_path, "whisper", lambda folder, version: save_tiny_whisper(folder, seed=version))
    heard = speech(tmp_path, tiny_processor())
    script = "from transformers import WhisperForConditionalGeneration\n" + WHISPER.format(
        auto="WhisperForConditionalGeneration", options=""
    )
    home = pull(script, repo=f"{USER}/whisper", revision=revision, inputs=str(tmp_path / "inputs.safetensors"))
    local = WhisperForConditionalGeneration.from_pretrained(tmp_path / "version_0" / "whisper").eval()
    assert_same(load_file(home / "heard.safetensors"), whisper_outputs(local, heard))


def test_an_adapter_by_plain_peft(hub, pull, tmp_path):
    (save_tiny_wav2vec2(tmp_path / "base") / "README.md").write_text(CARD)
    base_revision = publish(tmp_path / "base", f"{USER}/base").revision

    def save(folder, version):
        model = tiny_wav2vec2()
        model.name_or_path = f"{USER}/base"
        lora = add_lora(model, LoraArguments(lora_rank=2, target_modules=["q_proj", "v_proj"]))
        torch.manual_seed(version)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
        save_lora(lora, folder)

    revision = twice(tmp_path, "adapter", save)
    heard = speech(tmp_path, tiny_ctc_processor())
    home = pull(
        """
from peft import PeftModel
from transformers import Wav2Vec2ForCTC
base = Wav2Vec2ForCTC.from_pretrained(base, revision=base_revision)
model = PeftModel.from_pretrained(base, repo, revision=revision).eval()
with torch.no_grad():
    save_file({"logits": model(**load_file(inputs)).logits}, "heard.safetensors")
""",
        base=f"{USER}/base",
        base_revision=base_revision,
        repo=f"{USER}/adapter",
        revision=revision,
        inputs=str(tmp_path / "inputs.safetensors"),
    )
    base = Wav2Vec2ForCTC.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        plain = base(**heard).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "version_0" / "adapter").eval()(**heard).logits
    assert not torch.equal(plain, adapted)
    assert_same(load_file(home / "heard.safetensors"), {"logits": adapted})


UNITS = """
from transformers import AutoModel, AutoTokenizer
quantizer = AutoModel.from_pretrained(repo, {options}trust_remote_code=True).eval()
vocoder = AutoModel.from_pretrained(repo, subfolder="vocoder", {options}trust_remote_code=True).eval()
motifs = AutoTokenizer.from_pretrained(repo, subfolder="motifs", {options})
vocoder.require_units(quantizer.identity())
with torch.inference_mode():
    units = quantizer(load_file(inputs)["samples"])
    speech = vocoder(units)
text = "".join(chr(0x4E00 + unit) for unit in torch.unique_consecutive(units[0]).tolist())
found = {{"units": units, "speech": speech, "motifs": torch.tensor(motifs(text)["input_ids"])}}
"""


def test_units_motifs_and_vocoder_by_their_own_code(hub, pull, tmp_path):
    for number in range(2):
        (tmp_path / "tales").mkdir(exist_ok=True)
        long_recording(tmp_path / "tales" / f"{number}.wav", bursts=4, seed=number)
    run_units_pipeline.main(pipeline_command(tmp_path / "tales", tmp_path / "run"))
    model = tmp_path / "run" / "model"
    save_file({"samples": torch.from_numpy(tone(0, 0, 1.0))[None]}, tmp_path / "inputs.safetensors")
    local = {
        "repo": str(model),
        "inputs": str(tmp_path / "inputs.safetensors"),
        "torch": torch,
        "load_file": load_file,
    }
    exec(UNITS.format(options=""), local)
    revision = publish(model, f"{USER}/units", license="cc0-1.0").revision
    weights = load_file(model / "vocoder" / "model.safetensors")
    save_file(
        {name: value + 1 for name, value in weights.items()}, model / "vocoder" / "model.safetensors", {"format": "pt"}
    )
    assert publish(model, f"{USER}/units", license="cc0-1.0").revision != revision
    shutil.rmtree(tmp_path / "run")

    card = hub.files(f"{USER}/units")["README.md"].decode()
    home = pull(
        UNITS.format(options="revision=revision, ") + 'save_file(found, "found.safetensors")',
        repo=f"{USER}/units",
        revision=revision,
        inputs=str(tmp_path / "inputs.safetensors"),
    )
    assert_same(load_file(home / "found.safetensors"), local["found"])
    assert run_blocks(card, tmp_path / "reader", environment=hub.environment(tmp_path / "reader" / "hf")) == 1


DESCRIBE = """
import json, sys
from hf_components.speech.corpus import summarise_corpus
print(json.dumps(summarise_corpus(sys.argv[1])))
"""


def test_a_corpus_at_once_and_streamed(hub, pull, tmp_path):
    def save(folder, version):
        root = children_corpus(tmp_path / f"source_{version}", children=4 + version)
        folder.mkdir(parents=True)
        write_corpus(
            JsonlManifest,
            folder,
            {"manifest": str(root / "train.jsonl"), "val_ratio": 0.5},
            name="children",
            source="jsonl_manifest",
            license="cc-by-4.0",
            language="en",
        )

    revision = twice(tmp_path, "corpus", save)
    assert hub.repository(f"{USER}/corpus", "datasets").private
    home = pull(
        """
from datasets import Audio, load_dataset
found = {}
for streaming in (False, True):
    corpus = load_dataset(repo, revision=revision, streaming=streaming).cast_column("audio", Audio(decode=False))
    found[str(streaming)] = {split: [{**row, "audio": row["audio"]["bytes"].hex()} for row in corpus[split]]
                             for split in corpus}
json.dump(found, open("rows.json", "w"))
""",
        repo=f"{USER}/corpus",
        revision=revision,
    )
    found = json.loads((home / "rows.json").read_text())
    local = load_dataset(str(tmp_path / "version_0" / "corpus"), cache_dir=str(tmp_path / "cache")).cast_column(
        "audio", Audio(decode=False)
    )
    rows = {split: [{**row, "audio": row["audio"]["bytes"].hex()} for row in local[split]] for split in local}
    assert set(rows) == {"train", "dev"} and sum(map(len, rows.values())) == 12
    assert found == {"False": rows, "True": rows}
    assert not any(str(tmp_path).encode() in content for content in hub.files(f"{USER}/corpus", "datasets").values())
    card = hub.files(f"{USER}/corpus", "datasets")["README.md"].decode()
    assert run_blocks(card, tmp_path / "reader", environment=hub.environment(tmp_path / "reader" / "hf")) == 1

    ran = subprocess.run(
        [sys.executable, "-c", DESCRIBE, f"{USER}/corpus"],
        capture_output=True,
        text=True,
        check=True,
        env={**hub.environment(tmp_path / "own"), "PYTHONPATH": str(ROOT)},
    )
    described = json.loads(ran.stdout)
    assert described["hub_id"] == f"{USER}/corpus" and described["name"] == "corpus"
    assert described["revision"] == HfApi().dataset_info(f"{USER}/corpus").sha != revision


WORDS = {
    "predictions": ["Mr. Brown won't go.", "twenty one"],
    "references": ["mister brown will not come", "21"],
    "groups": ["a", "b"],
    "num_bootstrap": 20,
}
WAVES = {"predictions": [tone(0, 1, 0.06).tolist()], "references": [tone(0, 2, 0.06).tolist()], "units": [[1, 1, 2]]}


@pytest.mark.parametrize(("name", "given"), [("whisper_wer", WORDS), ("speech_resynthesis", WAVES)])
def test_a_metric_from_its_space(hub, pull, name, given):
    revision = publish(METRICS / name, f"{USER}/{name}").revision
    assert f'evaluate.load("{USER}/{name}")' in hub.files(f"{USER}/{name}", "spaces")["README.md"].decode()
    home = pull(
        """
import evaluate
json.dump(evaluate.load(repo, revision=revision).compute(**given), open("result.json", "w"))
""",
        repo=f"{USER}/{name}",
        revision=revision,
        given=given,
    )
    local = evaluate.load(str(METRICS / name)).compute(**given)
    assert json.loads((home / "result.json").read_text()) == json.loads(json.dumps(local))


def test_a_private_repository_stays_so(hub, stranger, tmp_path):
    (save_tiny_whisper(tmp_path / "whisper") / "README.md").write_text(CARD)
    publish(tmp_path / "whisper", f"{USER}/secret", private=True)
    ran = subprocess.run(
        [
            stranger,
            "-c",
            f"from huggingface_hub import hf_hub_download; hf_hub_download('{USER}/secret', 'config.json')",
        ],
        cwd=tmp_path,
        env={key: value for key, value in hub.environment(tmp_path / "hf", token=None).items() if key != "HF_TOKEN"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode and "401" in ran.stderr
