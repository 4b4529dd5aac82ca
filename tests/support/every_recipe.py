"""Run recipes in this process, or shared by those of `accelerate launch`: `every_recipe.py SOURCES INPUTS OUT [RECIPE
...]`.

All of them by default. SOURCES is what `write_sources` made. A recipe writes to OUT/<its name> and reads what others
left in INPUTS, which is OUT itself, or that of another run. What its `main` returned to each process is written to
OUT/<its name>.<process>.json. Global batches are the same, however many processes share them.
"""

import argparse
import gc
import importlib
import itertools
import os
import signal
import sys
from pathlib import Path

import soundfile
from paths import CONFIGS, ROOT
from torch.optim.optimizer import register_optimizer_step_post_hook

sys.path.insert(0, str(ROOT))

from accelerate import PartialState
from hub_server import USER
from make_corpus import children_corpus
from tiny_ctc import save_tiny_wav2vec2
from tiny_llm import save_tiny_llm, script
from tiny_recordings import recordings
from tiny_speech import save_tiny_whisper, speaker_folder, tone
from tiny_ssl import save_tiny_ssl

from hf_components.correction.finetuning import gold
from hf_components.runtime.completion import write_json
from recipes import check_llm

# Nothing random that is not a function of seed, epoch and id: no dropout, no noise of the router. Plain gradients,
# since Adam makes much of those that are nothing but rounding. All clips at 30 s: else a batch decides how far they
# are padded.
TRAINING = {
    "report_to": "none",
    "use_cpu": True,
    "num_train_epochs": 2,
    "optim": "sgd",
    "learning_rate": 0.05,
    "full_context_fraction": 1,
    "logging_steps": 1,
    "warmup_steps": 0,
    "dataloader_pin_memory": False,
    "max_new_tokens": 6,
    "per_device_eval_batch_size": 4,
}
CTC = {name: value for name, value in TRAINING.items() if name not in ("full_context_fraction", "max_new_tokens")}
DECODING = {"max_new_tokens": 6, "batch_size": 4, "max_samples": 9}
VOICE = {"voice_rank": 2, "voice_marks": 2, "voice_learning_rate": 0.01, "voice_scales": 1, "max_folds": 2}
VOCODER = {
    "head": "istft",
    "hidden_size": 16,
    "num_layers": 1,
    "epochs": 2,
    "samples_per_epoch": 8,
    "crop_seconds": 0.5,
    "validation_crops": 4,
    "adversarial_from_epoch": 2,
    "period_channels": 1,
    "resolution_channels": 2,
    "max_samples": 2,
    "r1_weight": 1,
    "predict_durations": True,
    "report_to": "none",
}
BY_PIPELINE = ("num_train_epochs", "max_new_tokens")  # what pipelines set themselves
PIPELINED, PIPELINED_CTC = (
    {flag: value for flag, value in flags.items() if flag not in BY_PIPELINE} for flags in (TRAINING, CTC)
)
WITHOUT_FOLDER = (
    "transcribe",
    "combine_transcripts",
    "pack_submission",
    "check_llm",
    "speak_units",
    "publish",
    "verify",
)


def write_sources(folder: Path) -> Path:
    """Tiny models and recordings that no recipe makes."""
    save_tiny_whisper(folder / "whisper")
    save_tiny_wav2vec2(folder / "wav2vec2")
    save_tiny_ssl(folder / "ssl")
    save_tiny_llm(folder / "llm")
    speaker_folder(folder / "speakers")
    recordings(folder / "recordings")
    children_corpus(folder / "children")
    soundfile.write(folder / "clip.wav", tone(0, 0, 1.0), 16_000)
    phones = [(chapter, i) for chapter in range(1, 5) for i in range(400)]  # of the chapters of make_demo_corpus
    lines = [f"chapter_{chapter:02d} 1 {i / 10} 0.1 {'akt'[(i * i + chapter) % 3]}\n" for chapter, i in phones]
    (folder / "phones.ctm").write_text("".join(lines))
    return folder


def flags_of(sources: Path, inputs: Path, out: Path, processes: int) -> dict[str, dict]:
    """Recipe -> its flags, apart from `output_dir` and `config`, in an order in which each finds what it needs."""
    corpus, joint = inputs / "prepare_corpus", inputs / "train_moe_whisper" / "model"
    base = {"corpus": corpus, "model": sources / "whisper"}
    training = {**TRAINING, **base, "per_device_train_batch_size": 24 // processes}  # all that there are
    learnt = {"corpus": inputs / "segment_audio", "units_dir": inputs / "learn_units"}
    units, motifs = learnt["units_dir"], inputs / "learn_motifs"
    router, clustering = {"router_dir": inputs / "pretrain_router"}, {"embedding_dir": inputs / "extract_embeddings"}
    mixture = {
        "data": sources / "speakers",
        "model": sources / "whisper",
        "algorithm": "group",
        "shared_epochs": 1,
        "expert_epochs": 1,
        "joint_epochs": 1,
        "expert_batch_size": 24 // processes,
        "asr_batch_size": 24 // processes,
        "stage_options": stage_options(
            {
                "corpus": {"num_proc": 1},
                "extract_embeddings": {"full_context_samples": 3},
                "pretrain_router": {"num_train_epochs": 3},
                "pretrain_experts": {**PIPELINED, "lora_dropout": 0},
                "train_moe_whisper": {**PIPELINED, "router_noise_std": 0},
                "benchmark_asr": {"max_new_tokens": 6, "num_bootstrap": 10},
            }
        ),
    }
    return {
        "make_demo_corpus": {"layout": "long", "train_speakers": 2, "utterances_per_speaker": 8},
        "prepare_corpus": {"data_dir": sources / "speakers", "num_proc": 1},
        "extract_embeddings": {
            "corpus": corpus,
            "model": sources / "whisper",
            "batch_size": 4,
            "full_context_samples": 6,
        },
        "cluster_embeddings": {**clustering, "algorithm": "group", "reduce_dim": 4},
        "pretrain_router": {
            **clustering,
            "labels_dir": inputs / "cluster_embeddings",
            "num_train_epochs": 10,
            "router_hidden_size": 8,
        },
        "pretrain_experts": {**training, **router, "labels_dir": inputs / "cluster_embeddings", "lora_dropout": 0},
        "reassign_speakers": {
            **base,
            "experts_dir": inputs / "pretrain_experts",
            "labels_dir": inputs / "cluster_embeddings",
            "batch_size": 4,
        },
        "train_moe_whisper": {
            **training,
            **router,
            "experts_dir": inputs / "pretrain_experts",
            "router_noise_std": 0,
            "soft_routing_epochs": 1,
            "topk_routing_epochs": 1,
        },
        "finetune_asr": {**training, "model": sources / "wav2vec2", "early_stopping_patience": 0},
        "finetune_whisper": {**training, "early_stopping_patience": 0},
        "average_checkpoints": {
            **DECODING,
            "corpus": corpus,
            "candidates": [sources / "whisper", inputs / "finetune_whisper" / "model"],
        },
        "assemble_moe_whisper": {
            "model": sources / "whisper",
            "loras": [joint.parent / "experts" / f"expert_{i}" for i in range(2)],
        },
        "merge_moe_whisper": {**DECODING, "model": joint, "corpus": corpus, "num_bootstrap": 10},
        "distil_moe_whisper": {
            **training,
            "teacher_model": joint,
            "model": inputs / "merge_moe_whisper" / "model",
            "max_samples": 9,
            "num_bootstrap": 10,
        },
        "benchmark_asr": {
            **DECODING,
            "combine": "all",
            "corpus": corpus,
            "base_model": sources / "whisper",
            "moe_model": joint,
            "num_bootstrap": 10,
            "run_id": "run",
            "output_dir": out / "benchmark_asr" / "run",
        },
        "transcribe": {
            "model": joint,
            "corpus": corpus,
            "max_new_tokens": 6,
            "batch_seconds": 40,
            "output_jsonl": out / "transcribe.jsonl",
        },
        "combine_transcripts": {
            "predictions": [inputs / "transcribe.jsonl", inputs / "transcribe.jsonl"],
            "output_jsonl": out / "combine_transcripts.jsonl",
        },
        "personalise_whisper": {
            "model": joint,
            "data": corpus,
            "max_sentences": 3,
            **VOICE,
        },
        "evaluate_voices": {
            "model": sources / "whisper",
            "corpus": corpus,
            "sentences": 2,
            "num_bootstrap": 10,
            "max_new_tokens": 6,
            **VOICE,
        },
        "evaluate_asr": {
            "predictions": inputs / "transcribe.jsonl",
            "model": sources / "whisper",
            "corpus": corpus,
            "max_new_tokens": 6,
            "batch_seconds": 60,
        },
        "pack_submission": {
            "model": sources / "whisper",
            "corpus": corpus,
            "max_new_tokens": 6,
            "max_samples": 3,
            "output": out / "pack_submission.zip",
        },
        "export_ctranslate2": {"model": joint, "expert": 1, "corpus": corpus, "max_new_tokens": 6},
        "export_ggml": {"model": joint, "expert": 1, "quantization": "float16"},
        "import_whisper": {"source": inputs / "export_ctranslate2" / "model"},
        "check_llm": {"llm_model": sources / "llm"},
        "train_demo_recogniser": {
            **CTC,
            "train_speakers": 2,
            "utterances_per_speaker": 4,
            "dev_speakers": 1,
            "dev_utterances": 2,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "conv_dim": [8, 16],
            "conv_kernel": [40, 16],
            "conv_stride": [20, 16],
            "per_device_train_batch_size": 8 // processes,
        },
        "finetune_wav2vec2_lora": {
            **CTC,
            "audio_dir": sources / "recordings",
            "model": sources / "wav2vec2",
            "llm_model": sources / "llm",
            "llm_batch_size": 2,
            "num_bootstrap": 10,
            "batch_seconds": 4,
            "per_device_train_batch_size": 4 // processes,
            "eval_ratio": 0.6,
            "train_on": "all",
            "lora_dropout": 0,
            "lora_rank": 2,
        },
        "segment_audio": {"data_dir": inputs / "make_demo_corpus", "num_proc": 1, "val_ratio": 0.3},
        "learn_units": {
            "corpus": inputs / "segment_audio",
            "model": sources / "ssl",
            "layer": 2,
            "num_units": 20,
            "passes": 3,
            "update_seconds": 12,
            "batch_seconds": 6,
        },
        "encode_units": {"corpus": inputs / "segment_audio", "model": units / "model", "batch_seconds": 6},
        "learn_motifs": {"units_dir": units, "vocab_size": 80},
        "export_annotations": {
            "units_dir": units,
            "motifs_dir": motifs,
            "recordings_dir": inputs / "make_demo_corpus",
        },
        "find_motifs": {**learnt, "query": sources / "clip.wav", "query_end": 0.4, "max_hits": 5},
        "import_annotations": {"annotations": inputs / "export_annotations", "units_dir": units},
        "build_concordance": {**learnt, "motifs_dir": motifs, "num_motifs": 5, "min_units": 2},
        "sweep_units": {
            "corpus": learnt["corpus"],
            "num_units": [4, 8],
            "passes": 2,
            "update_seconds": 12,
            "batch_seconds": 6,
        },
        "evaluate_units": {
            "units_dir": units,
            "corpus": learnt["corpus"],
            "alignments": sources / "phones.ctm",
            "num_bootstrap": 10,
            "max_samples": 3,
        },
        "train_unit_vocoder": {**learnt, **VOCODER, "batch_size": 4 // processes},
        "evaluate_vocoder": {
            **learnt,
            "vocoder_model": inputs / "train_unit_vocoder" / "model",
            "max_samples": 5,
            "num_bootstrap": 10,
            "batch_seconds": 10,
            "recogniser_model": sources / "wav2vec2",
        },
        "speak_units": {
            "audio": sources / "clip.wav",
            "units_model": units / "model",
            "vocoder_model": inputs / "train_unit_vocoder" / "model",
            "output_wav": out / "speak_units.wav",
        },
        "publish": {"folder": joint, "repo_id": f"{USER}/{out.parent.name}"},
        "verify": {"folder": joint.parent},
        "run_voice_pipeline": {
            "data": corpus,
            "model": sources / "whisper",
            "sentences": 2,
            "max_sentences": 3,
            "num_bootstrap": 10,
            "stage_options": stage_options({"evaluate_voices": {"max_new_tokens": 6}}),
            **VOICE,
        },
        "run_moe_pipeline": mixture,
        "cross_validate": {
            **mixture,
            "config": CONFIGS / "run_moe_pipeline" / "quick.yaml",
            "folds": 2,
            "only_folds": 0,
        },
        "run_children_pipeline": {
            "data": sources / "children",
            "model": sources / "whisper",
            "val_ratio": 0.34,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 12 // processes,
            "max_new_tokens": 6,
            "num_bootstrap": 10,
            "stage_options": stage_options(
                {"corpus": {"num_proc": 1}, "finetune_whisper": PIPELINED, "pack_submission": {"max_samples": 2}}
            ),
        },
        "run_phonetic_pipeline": {
            "data": sources / "children",
            "model": sources / "whisper",
            "val_ratio": 0.34,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 12 // processes,
            "max_new_tokens": 6,
            "num_bootstrap": 10,
            "stage_options": stage_options(
                {"corpus": {"num_proc": 1}, "finetune_asr": PIPELINED, "pack_submission": {"max_samples": 2}}
            ),
        },
        "run_wav2vec2_pipeline": {
            "data": sources / "recordings",
            "model": sources / "wav2vec2",
            "num_bootstrap": 10,
            "eval_ratio": 0.6,
            "gold": "manifest",
            "llm_figure": False,
            "train_on": "all",
            "num_train_epochs": 1,
            "per_device_train_batch_size": 4 // processes,
            "stage_options": stage_options({"finetune_wav2vec2_lora": PIPELINED_CTC}),
        },
        "run_units_pipeline": {
            "data": inputs / "make_demo_corpus",
            "model": "mfcc",
            "num_units": 8,
            "vocab_size": 40,
            "recogniser_model": "none",
            "num_bootstrap": 10,
            "batch_size": 4 // processes,
            "stage_options": stage_options({"segments": {"num_proc": 1}, "vocoder": VOCODER}),
        },
    }


def stage_options(flags: dict[str, dict]) -> list[str]:
    """Stage -> its flags, as pipelines take them."""
    return [f"{stage}.{flag}={value}" for stage, of_stage in flags.items() for flag, value in of_stage.items()]


def command(name: str, flags: dict, out: Path) -> list[str]:
    """The command line of a recipe; a list takes several words."""
    # Quick configurations name a file of the LLM.
    config = CONFIGS / name / ("default.yaml" if "llm_model" in flags else "quick.yaml")
    folder = {} if name in WITHOUT_FOLDER else {"output_dir": out / name}
    words = []
    for flag, value in {**({"config": config} if config.exists() else {}), **folder, **flags}.items():
        words += [f"--{flag}", *map(str, value)] if isinstance(value, list) else [f"--{flag}={value}"]
    return words


def script_llm() -> None:
    """Have the LLM leave out the last letter of every third transcript."""

    def scripted(load):
        def load_scripted(*args):
            corrector = load(*args)
            script(corrector, lambda shown: shown[:-1] if len(shown) % 3 == 0 else shown)
            return corrector

        return load_scripted

    check_llm.load_corrector, gold.load_corrector = map(scripted, (check_llm.load_corrector, gold.load_corrector))


def kill_at(event: str, number: int, out: Path) -> None:
    """Kill this process at its n-th optimizer step, or when it opens its n-th file below `out` for writing."""
    count = itertools.count(1)

    def happened() -> None:
        if next(count) == number:
            (out.parent / "killed").touch()  # with the time
            os.kill(os.getpid(), signal.SIGKILL)

    def on_audit(name: str, args: tuple) -> None:
        if (
            name == "open"
            and isinstance(args[2], int)
            and args[2] & (os.O_WRONLY | os.O_RDWR)
            and str(args[0]).startswith(str(out))
        ):
            happened()

    if event == "step":
        register_optimizer_step_post_hook(lambda *_: happened())
    else:
        sys.addaudithook(on_audit)


def run(sources: Path, inputs: Path, out: Path, names: list[str], more: list[str]) -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for name, flags in flags_of(sources, inputs, out, processes).items():
        if not names or name in names:
            result = importlib.import_module(f"recipes.{name}").main([*command(name, flags, out), *more])
            state = PartialState()
            assert state.num_processes == processes, name
            write_json(out / f"{name}.{state.process_index}.json", result)
            # trainers are cyclic garbage; freed at interpreter exit, after gloo's threads, they may abort
            gc.collect()
    if processes > 1:
        PartialState().wait_for_everyone()
        PartialState().destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for folder in ("sources", "inputs", "out"):
        parser.add_argument(folder, type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--kill", nargs=3, metavar=("RANK", "EVENT", "NUMBER"), help="as in 1 step 3, or 1 file 2")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    if args.kill and args.kill[0] == os.environ["RANK"]:
        kill_at(args.kill[1], int(args.kill[2]), args.out)
    script_llm()
    run(args.sources, args.inputs, args.out, args.names, ["--resume"] if args.resume else [])
