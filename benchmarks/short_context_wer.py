"""Cost in WER of training at the clips' own length, beside the usual recipe, which trains at 30 s only.

python benchmarks/short_context_wer.py --corpus data/prepared --output_dir runs/short_context \\
    --epochs 4 --seeds 42 43 44

Both train the same parameters for the same epochs, with the same batches and masks, and are scored on the whole split
"dev": the usual recipe at 30 s, ours at 30 s and at the clips' length. Differences are of all seeds together,
resampled by speaker. Finished results are kept, so seeds and fractions can be added later. `short_context.json` holds
every figure.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_components.asr import transcribe
from hf_components.checkpoints import load_whisper
from hf_components.moe import load_trained_experts
from hf_components.runtime import write_json
from hf_components.scoring import compare, score
from hf_components.speech import load_corpus
from recipes import finetune_whisper, pretrain_experts

USUAL = 1.0  # share of batches at 30 s in the usual recipe
STAGES = {"lora": pretrain_experts, "full": finetune_whisper}
MIN_AUDIO_CONTEXT = 200  # mel frames, the same as in the recipes' configurations


def train(args: argparse.Namespace, fraction: float, seed: int) -> Path:
    """Train by quick.yaml with this share of batches at 30 s, without selection on dev. Return the folder."""
    stage = STAGES[args.trainables]
    folder = args.output_dir / f"{args.trainables}_{args.epochs:g}_{fraction:g}_{seed}"
    name = stage.__name__.rsplit(".", 1)[-1]
    flags = [
        "--config",
        Path(__file__).parents[1] / "recipes" / "configs" / name / "quick.yaml",
        "--corpus",
        args.corpus,
        "--model",
        args.base_model,
        "--seed",
        seed,
        "--num_train_epochs",
        args.epochs,
        "--eval_strategy",
        "no",
        "--early_stopping_patience",
        0,
        "--full_context_fraction",
        fraction,
        "--output_dir",
        folder,
        "--resume",
        *(["--learning_rate", args.learning_rate] if args.learning_rate else []),
    ]
    stage.main([str(flag) for flag in flags])
    return folder


def texts(args: argparse.Namespace, folder: Path, corpus, audio_context: str) -> list[str]:
    file = folder / f"dev_{audio_context}.json"
    if not file.exists():
        if args.trainables == "full":
            model, processor = load_whisper(str(folder / "model"))
        else:
            base, processor = load_whisper(args.base_model)
            model = load_trained_experts(base, folder)
        model.set_audio_context(audio_context, MIN_AUDIO_CONTEXT)
        write_json(file, transcribe(model, processor, corpus, batch_size=16, max_new_tokens=225))
    return json.loads(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="prepared corpus with the splits train and dev")
    parser.add_argument("--base_model", default="models/whisper-tiny.en")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--trainables",
        choices=list(STAGES),
        default="lora",
        help="a single LoRA above the middle of the encoder, as for experts, or all parameters",
    )
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--learning_rate", type=float, help="default: that of quick.yaml")
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.03, 0.04], help="shares of batches at 30 s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    args = parser.parse_args()

    dev = load_corpus(args.corpus, "dev")
    references = dev["text"][:]
    speakers = dev["speaker_id"][:]
    trained = {fraction: [train(args, fraction, seed) for seed in args.seeds] for fraction in (*args.fractions, USUAL)}
    systems = {
        (fraction, context): [texts(args, folder, dev, context) for folder in folders]
        for fraction, folders in trained.items()
        for context in ("dynamic", "full")
        if (fraction, context) != (USUAL, "dynamic")
    }  # left out: on short clips this model loops, since it has never seen one
    together = [text for one in systems[USUAL, "full"] for text in one]
    rows = {}
    for (fraction, context), by_seed in systems.items():
        rows[f"{fraction:g} {context}"] = {
            "wer": [score(one, references, num_bootstrap=0)["wer"] for one in by_seed],
            "minus_usual": compare(
                together, [text for one in by_seed for text in one], references * len(by_seed), speakers * len(by_seed)
            ),
        }
    write_json(
        args.output_dir / "short_context.json",
        {"trainables": args.trainables, "epochs": args.epochs, "seeds": args.seeds, "systems": rows},
    )
    print(table(rows, args.seeds))


def table(rows: dict, seeds: list[int]) -> str:
    lines = [
        f"| batches at 30 s, scored | {' | '.join(f'WER, seed {seed}' for seed in seeds)} | minus the usual recipe |",
        f"|---|{'---:|' * len(seeds)}---|",
    ]
    for name, row in rows.items():
        difference = row["minus_usual"]["difference"]
        (low, high) = row["minus_usual"]["interval"]
        fraction, context = name.split()
        lines.append(
            f"| {100 * float(fraction):g} %, {'at 30 s' if context == 'full' else 'at their length'} | "
            f"{' | '.join(f'{100 * wer:.1f}' for wer in row['wer'])} | "
            f"{100 * difference:+.1f} ({100 * low:.1f} to {100 * high:.1f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
