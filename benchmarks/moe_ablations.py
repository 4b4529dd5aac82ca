"""Ways to train experts, each compared with a single LoRA of as many epochs.

python benchmarks/moe_ablations.py --corpus data/prepared --output_dir runs/ablations \\
    --variants cold warm --seeds 42 43

Every variant runs the stages of the recipes on one corpus. It is scored on the whole split "dev", paired with the
single LoRA of the same seed, or of several seeds together where a line says so. Finished results are kept, so variants
can be added later. `ablations.json` holds every figure, `ablations.md` the table.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from hf_components.asr import transcribe
from hf_components.checkpoints import load_moe_whisper, load_whisper
from hf_components.moe import load_trained_experts
from hf_components.runtime import write_json
from hf_components.scoring import compare, score
from hf_components.speech import load_corpus
from recipes import cluster_embeddings, extract_embeddings, pretrain_experts, pretrain_router, train_moe_whisper

# Epochs of the shared LoRA, of all experts, of joint training. The single LoRA beside a variant starts from the same
# shared LoRA and trains as long as experts and joint training together.
COLD = {"shared": 0, "experts": 2, "joint": 2}
WARM = {"shared": 2, "experts": 1, "joint": 1}
LATE = {"shared": 4, "experts": 0.5, "joint": 0.5}
CURRICULUM = {"shared": 4, "experts": 0.5, "joint": 1}
LATER = {"shared": 6, "experts": 0.5, "joint": 1}
PHASES = ["--soft_routing_epochs", 0.4, "--topk_routing_epochs", 0.3]
GROUPS = {"cluster_embeddings": ["--algorithm", "group"]}
FROZEN = ["--freeze_shared_expert"]
KL = ["--kl_to_base_coef", 0.3]
LORAS = ("single_lora", "shared_lora")  # LoRAs that a mixture is compared with


def gentle(experts: float, joint: float, *more, both: Sequence = ()) -> dict:
    return {
        "pretrain_experts": ["--learning_rate", experts, *both],
        "train_moe_whisper": ["--learning_rate", joint, *more, *both],
    }


# Variant: epochs, then flags per stage where they differ from quick.yaml.
VARIANTS: dict[str, dict] = {
    "cold": {"epochs": COLD},
    "cold_no_shared": {"epochs": COLD, "pretrain_experts": ["--no_shared_expert"]},
    "warm": {"epochs": WARM},
    "warm_gentle": {"epochs": WARM, **gentle(5e-4, 2e-4)},
    "late": {"epochs": LATE, **gentle(3e-4, 2e-4)},
    "late_groups": {"epochs": LATE, **GROUPS, **gentle(3e-4, 2e-4)},
    "late_curriculum": {"epochs": CURRICULUM, **gentle(3e-4, 2e-4, *PHASES)},
    "late_curriculum_aligned": {"epochs": CURRICULUM, **gentle(3e-4, 2e-4, *PHASES, "--routing_alignment_coef", 1)},
    "late_curriculum_groups": {"epochs": CURRICULUM, **GROUPS, **gentle(3e-4, 2e-4, *PHASES)},
    "late_frozen": {"epochs": LATE, "pretrain_experts": FROZEN, "train_moe_whisper": FROZEN},
    "residual": {"epochs": CURRICULUM, **gentle(1e-4, 1e-4, *PHASES, both=FROZEN)},  # the same as in the pipeline
    "later_frozen": {"epochs": LATER, **gentle(3e-4, 2e-4, *PHASES, both=FROZEN)},
    "later_frozen_kl": {"epochs": LATER, **gentle(3e-4, 2e-4, *PHASES, both=[*FROZEN, *KL])},
    "later_residual": {"epochs": LATER, **gentle(1e-4, 1e-4, *PHASES, both=FROZEN)},
    "late_longer": {"epochs": {"shared": 4, "experts": 1, "joint": 1}, **gentle(3e-4, 2e-4)},
    "late_soft_labels": {"epochs": LATE, "cluster_embeddings": ["--target_entropy", "0.6"], **gentle(3e-4, 2e-4)},
    "late_two_experts": {"epochs": LATE, "cluster_embeddings": ["--num_experts", "2"], **gentle(3e-4, 2e-4)},
    "late_decoder_only": {"epochs": LATE, "layer": 4, **gentle(3e-4, 2e-4)},
}


def run(stage, output_dir: Path, *flags: str) -> dict:
    name = stage.__name__.rsplit(".", 1)[-1]
    config = Path(__file__).parents[1] / "recipes" / "configs" / name / "quick.yaml"
    return stage.main(["--config", str(config), "--output_dir", str(output_dir), "--resume", *map(str, flags)])


def train(args: argparse.Namespace, name: str, seed: int) -> tuple[Path, Path, Path | None]:
    """Run a variant's stages. Return the folders of its mixture, the single LoRA, and the LoRA both start from."""
    variant = VARIANTS[name]
    epochs = variant["epochs"]
    layer = variant.get("layer", 2)
    out = args.output_dir
    own = args.output_dir / f"{name}_{seed}"
    base = ["--corpus", args.corpus, "--model", args.base_model, "--seed", seed]

    def flags(stage: str) -> list[str]:
        return variant.get(stage, [])

    embeddings = out / f"embeddings_{layer}"
    run(extract_embeddings, embeddings, "--corpus", args.corpus, "--model", args.base_model, "--layer", layer)
    run(
        cluster_embeddings,
        own / "clusters",
        "--embedding_dir",
        embeddings,
        "--seed",
        seed,
        *flags("cluster_embeddings"),
    )
    labels = ["--labels_dir", own / "clusters"]
    run(pretrain_router, own / "router", "--embedding_dir", embeddings, *labels, "--seed", seed)
    router = ["--router_dir", own / "router"]

    def lora(name: str, epochs: float, *more: str) -> Path:  # shared by variants with experts above the same layer
        folder = out / f"{name}_{layer}_{epochs:g}_{seed}"
        if not (folder / "stage.json").exists():
            run(pretrain_experts, folder, *base, *router, "--num_train_epochs", epochs, *more)
        return folder

    fresh = ["--data_seed", seed + 1000]  # else every stage would start with the same batches and masks
    shared = lora("lora", epochs["shared"]) if epochs["shared"] else None
    start = ["--lora_model", shared] if shared else []
    rest = epochs["experts"] + epochs["joint"]
    rate = flags("pretrain_experts")[:2] if "--learning_rate" in flags("pretrain_experts") else []
    single = lora(
        f"single_after_{epochs['shared']:g}_at_{rate[-1] if rate else 'default'}", rest, *start, *rate, *fresh
    )
    run(
        pretrain_experts,
        own / "experts",
        *base,
        *labels,
        *router,
        *start,
        "--num_train_epochs",
        epochs["experts"],
        *fresh,
        *flags("pretrain_experts"),
    )
    run(
        train_moe_whisper,
        own / "joint",
        *base,
        *router,
        "--experts_dir",
        own / "experts",
        "--num_train_epochs",
        epochs["joint"],
        "--data_seed",
        seed + 2000,
        *flags("train_moe_whisper"),
    )
    return own / "joint" / "model", single, shared


def score_variant(
    args: argparse.Namespace, mixture: Path, single: Path, shared: Path | None
) -> tuple[dict, dict[str, list[str]]]:
    """WER on the split "dev" of a mixture by routing, and of the LoRAs, with transcripts (kept beside the models)."""
    corpus = load_corpus(args.corpus, "dev")
    references = corpus["text"][:]
    speakers = corpus["speaker_id"][:]
    groups = corpus["group"][:]

    def texts(file: Path, model, **options) -> list[str]:
        if not file.exists():
            write_json(file, transcribe(model, processor, corpus, batch_size=16, max_new_tokens=225, **options))
        return json.loads(file.read_text())

    moe, processor = load_moe_whisper(str(mixture))
    systems = {}
    for name, folder in {"single_lora": single, "shared_lora": shared}.items():
        if folder:
            lora = load_trained_experts(
                load_whisper(args.base_model)[0],
                folder,
                audio_context="dynamic",
                min_audio_context=moe.config.min_audio_context,
            )
            systems[name] = texts(folder / "dev.json", lora)
    for routing in ("hard", "top_k", "soft"):
        with moe.override(routing=routing):
            systems[routing] = texts(mixture.parent / f"dev_{routing}.json", moe)
    every = torch.eye(moe.config.num_experts)[:, None].expand(-1, len(corpus), -1)
    experts = (
        [
            texts(mixture.parent / f"dev_expert_{i}.json", moe, expert_weights=weights)
            for i, weights in enumerate(every)
        ]
        if args.experts
        else []
    )
    results = {}
    for name, predictions in systems.items():
        found = score(predictions, references, groups, speakers, num_bootstrap=0)
        results[name] = {
            "wer": found["wer"],
            "per_group": {group: row["wer"] for group, row in found["per_group"].items()},
        }
        for rival in LORAS:
            if rival in systems and name not in LORAS:
                results[name][f"minus_{rival}"] = compare(systems[rival], predictions, references, speakers)
    results["wer_of_each_expert"] = [score(texts, references, num_bootstrap=0)["wer"] for texts in experts]
    return results, systems


def of_all_seeds(args: argparse.Namespace, by_seed: list[tuple[dict, dict[str, list[str]]]]) -> dict:
    """Mean WER of each system over seeds, and differences of all seeds together, resampled by speaker."""
    corpus = load_corpus(args.corpus, "dev")
    times = len(by_seed)
    together = {name: [text for _, systems in by_seed for text in systems[name]] for name in by_seed[0][1]}
    rows = {name: {"wer": sum(results[name]["wer"] for results, _ in by_seed) / times} for name in together}
    references = corpus["text"][:] * times
    speakers = corpus["speaker_id"][:] * times
    for name, predictions in together.items():
        for rival in LORAS:
            if rival in together and name not in LORAS:
                rows[name][f"minus_{rival}"] = compare(together[rival], predictions, references, speakers)
    return rows


def table(results: dict) -> str:
    lines = [
        "| variant | seed | start | single LoRA | top-1 | top-2 | soft | top-1 minus single LoRA | minus start |",
        "|---|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    for name, row in results.items():
        variant, seed = name.rsplit("_", 1)
        wers = [
            f"{100 * row[system]['wer']:.1f}" if system in row else ""
            for system in ("shared_lora", "single_lora", "hard", "top_k", "soft")
        ]
        differences = [row["hard"].get(f"minus_{rival}") for rival in LORAS]
        cells = [
            f"{100 * found['difference']:+.1f} ({100 * found['interval'][0]:.1f} to {100 * found['interval'][1]:.1f})"
            if found
            else ""
            for found in differences
        ]
        lines.append(f"| {variant} | {seed} | {' | '.join(wers + cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="prepared corpus with the splits train and dev")
    parser.add_argument("--base_model", default="models/whisper-tiny.en")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(VARIANTS),
        choices=list(VARIANTS),
        metavar="VARIANT",
        help=", ".join(VARIANTS),
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--experts", action="store_true", help="also score every expert alone")
    args = parser.parse_args()

    file = args.output_dir / "ablations.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    judged = defaultdict(list)
    for seed in args.seeds:
        for name in args.variants:
            judged[name].append(score_variant(args, *train(args, name, seed)))
            results[f"{name}_{seed}"] = judged[name][-1][0]
            if 1 < len(judged[name]) == len(args.seeds):
                results[f"{name}_{'+'.join(map(str, args.seeds))}"] = of_all_seeds(args, judged[name])
            write_json(file, results)
            (args.output_dir / "ablations.md").write_text(table(results))
            print(table(results), flush=True)


if __name__ == "__main__":
    main()
