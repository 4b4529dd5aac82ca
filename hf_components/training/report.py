"""The history of a training run, as JSON and as plots of its curves."""

from collections.abc import Callable
from pathlib import Path

from hf_components.reporting import plot_curves
from hf_components.runtime import read_record, write_json
from hf_components.training.trainer import SpeechTrainer

HISTORY = "history.json"
CURVES = {  # file: (keys of the log, title, y label)
    "loss.png": (("loss",), "{title}: training loss", "nats per token"),
    "routing.png": (
        ("routing_entropy", "routing_alignment", "routing_load_balance", "routing_temperature"),
        "{title}: routing",
        "entropy, KL (nats); balance; temperature",
    ),
    "kl.png": (("distillation_kl", "kl_to_base"), "{title}: distance from the teacher", "KL, nats per token"),
    "wer.png": (
        ("eval_wer", "eval_cer"),
        "{title}: error rates on held-out utterances",
        "error rate (errors / reference length)",
    ),
}


def save_history(trainer: SpeechTrainer, folder: Path, title: str, plot: bool = True) -> None:
    """Write `history.json` and, with `plot`, a plot for every kind of entry in the log."""
    # Without the mean loss at the end: after a resume, `Trainer` computes it only from the steps since then.
    history = [
        {key: value for key, value in entry.items() if key != "train_loss"} for entry in trainer.state.log_history
    ]
    write_json(folder / HISTORY, history)
    if plot:
        plot_training(title)(folder, folder)


def outcome(trainer: SpeechTrainer, eval_split: str) -> dict:
    """How a training ended: its loss, its steps, and the split on which the checkpoint was selected, if it was."""
    return {
        "train_loss": trainer.last_loss,
        "steps": trainer.state.global_step,
        "selected_on": eval_split if trainer.args.load_best_model_at_end else None,
    }


def plot_training(title: str) -> Callable[[Path, Path], None]:
    """A function that draws every kind of entry in the `history.json` of a folder into a second folder."""

    def draw(trained: Path, folder: Path) -> None:
        history = read_record(trained / HISTORY, [dict], "the plots need it; leave out --plot")
        for file, (keys, heading, unit) in CURVES.items():
            plot_history(folder / file, history, keys, heading.format(title=title), unit)
        usage = sorted({key for entry in history for key in entry if key.startswith("usage_expert_")})
        plot_history(folder / "usage.png", history, usage, f"{title}: share of routing per expert", "share")

    return draw


def plot_history(file: Path, history: list[dict], keys: tuple[str, ...] | list[str], title: str, unit: str) -> None:
    """Plot the log entries that have any of `keys` over the epoch; without such entries write no file."""
    entries = [entry for entry in history if any(key in entry for key in keys)]
    curves = {
        key.replace("_", " "): [entry.get(key, float("nan")) for entry in entries]
        for key in keys
        if any(key in entry for entry in entries)
    }
    if curves:
        plot_curves(file, curves, "epoch", unit, title, x=[entry["epoch"] for entry in entries])
