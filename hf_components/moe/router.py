"""Pre-train the router: a small network from utterance embeddings to soft cluster labels."""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hf_components.runtime import Progress, SeedArguments, atomic_write, damage_named, flag, make_folder
from hf_components.whisper.router import UtteranceRouter

logger = logging.getLogger(__name__)

CALIBRATION_BINS = 15  # of Guo et al. 2017
KEPT_CHECKPOINTS = 2  # so that one is always complete
# Measured on 45 real speakers: with 3 or more held out, early stopping is as good as none. With a single one the
# accuracy on other speakers fell from 85 to 70 % for the worst of ten seeds.
MIN_HELD_OUT = 3


@dataclass
class RouterArguments(SeedArguments):
    """Size and training of the router: usual values for a gating network on pooled embeddings."""

    router_hidden_size: int = flag("width of the router's hidden layer", default=128, min=1)
    batch_size: int = flag("embeddings per step", default=512, aliases=["--gating_batch_size"], min=1)
    num_train_epochs: int = flag("passes over the embeddings, at most", default=60, min=1)
    learning_rate: float = flag("learning rate of AdamW, with cosine decay", default=1e-3, above=0)
    weight_decay: float = flag("weight decay of AdamW", default=0.05, min=0)
    validation_fraction: float = flag(
        "share of the training speakers held out to choose the epoch; 0: none", default=0.1, min=0, below=1
    )
    early_stopping_patience: int = flag(
        "epochs without a better validation loss that end training", default=10, min=1, needs="validation_fraction"
    )
    save_every_n_epochs: int = flag(
        "epochs between checkpoints, from which an interrupted run continues", default=5, min=1
    )


def choose_held_out(speakers: np.ndarray, labels: np.ndarray, args: RouterArguments) -> np.ndarray:
    """Choose the training utterances that are held out for validation: whole speakers, at random by the seed.

    A speaker is not held out if an expert would have no utterance left: the router must learn every expert.

    Args:
        speakers: `(utterances,)` speaker of each.
        labels: `(utterances,)` best expert of each.
    Returns:
        `(utterances,)` boolean; all False, with a warning, if there are too few speakers.
    """
    names, rows = np.unique(speakers, return_inverse=True)
    wanted = int(args.validation_fraction * len(names))
    counts = np.zeros((len(names), labels.max() + 1), int)  # (speakers, experts)
    np.add.at(counts, (rows, labels), 1)
    remaining = counts.sum(0)
    held_out = []
    for speaker in np.random.default_rng(args.seed).permutation(len(names)):
        left = remaining - counts[speaker]
        if len(held_out) < wanted and left[remaining > 0].all():
            held_out.append(speaker)
            remaining = left
    if args.validation_fraction and len(held_out) < MIN_HELD_OUT:
        logger.warning(
            "early stopping needs %d held-out speakers, but validation_fraction %g of %d speakers gives %d: the router"
            " trains on all of them for all %d epochs; raise validation_fraction, or set it to 0 to do so on purpose",
            MIN_HELD_OUT,
            args.validation_fraction,
            len(names),
            len(held_out),
            args.num_train_epochs,
        )
        held_out = []
    return np.isin(rows, held_out)


def train_router(
    embeddings: np.ndarray,
    weights: np.ndarray,
    args: RouterArguments,
    held_out: np.ndarray | None = None,
    checkpoints: Path | None = None,
) -> tuple[UtteranceRouter, list[dict]]:
    """Fit a router to soft labels by KL divergence, until the validation loss stops falling.

    Args:
        embeddings: `(utterances, d_model)`. An utterance may occur in several audio contexts with the same label, so
            that gates depend little on the padding of a clip.
        weights: `(utterances, experts)` soft labels.
        held_out: `(utterances,)` boolean, utterances for validation after every epoch.
        checkpoints: folder of checkpoints; training resumes from the newest one, with the same bits as without a stop.
    Returns:
        the router of the best epoch (the last one without `held_out`), and `learning_rate`, `train_kl` (nats) and,
        with `held_out`, `validation_kl` and `validation_accuracy` of every epoch.
    """
    held_out = np.zeros(len(embeddings), bool) if held_out is None else held_out
    part = [torch.from_numpy(values[~held_out]).float() for values in (embeddings, weights)]
    validation = (embeddings[held_out], weights[held_out]) if held_out.any() else None
    torch.manual_seed(args.seed)
    router = UtteranceRouter(embeddings.shape[1], args.router_hidden_size, weights.shape[1])
    router.fit_statistics(part[0])
    optimizer = torch.optim.AdamW(router.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    best = _state(router)
    history = []
    if checkpoints is not None:
        best, history = _load_checkpoint(checkpoints, router, optimizer) or (best, history)
    progress = Progress(total=args.num_train_epochs, initial=len(history), desc="router", unit="epoch")
    while len(history) < args.num_train_epochs and len(history) - best_epoch(history) < args.early_stopping_patience:
        entry = _train_epoch(router, optimizer, *part, args, epoch=len(history))
        if validation is not None:
            judged = evaluate_router(router, *validation)
            entry |= {"validation_kl": judged["kl"], "validation_accuracy": judged["accuracy"]}
        history.append(entry)
        if best_epoch(history) == len(history):
            best = _state(router)
        if checkpoints is not None and len(history) % args.save_every_n_epochs == 0:
            _save_checkpoint(checkpoints, router, optimizer, best, history)
        progress.set_postfix(entry)
        progress.update()
    progress.close()
    router.load_state_dict(best)
    return router.eval(), history


def best_epoch(history: list[dict]) -> int:
    """Number (from 1) of the epoch with the least validation loss, or of the last one; 0 before the first."""
    losses = [entry.get("validation_kl", -epoch) for epoch, entry in enumerate(history)]
    return int(np.argmin(losses)) + 1 if losses else 0


@torch.inference_mode()
def evaluate_router(router: UtteranceRouter, embeddings: np.ndarray, weights: np.ndarray) -> dict:
    """Evaluate a router on utterances with known labels.

    Gates that follow soft labels are right more often than they are confident. Compare `confidence` with
    `label_confidence` to distinguish this from bad calibration.

    Returns:
        `accuracy`: share of utterances whose best expert is the label's; `kl` of the gates from the soft labels and
        `entropy` of the gates (nats); `nll` (nats) and expected calibration error `ece` (Guo et al. 2017, arXiv
        1706.04599) against the labels' best expert, with the `reliability` per bin of confidence; `confidence` and
        `label_confidence`: mean of the greatest gate and of the greatest soft label; `utterances`; `usage`: share of
        utterances per best expert.
    """
    targets = torch.from_numpy(weights).float()
    log_gates = router(torch.from_numpy(embeddings).float()).log_softmax(-1)
    labels = targets.argmax(-1)
    (confidence, best) = log_gates.exp().max(-1)
    bins = reliability(confidence.numpy(), (best == labels).numpy())
    return {
        "accuracy": float((best == labels).float().mean()),
        "kl": float((targets * (targets.clamp(min=1e-9).log() - log_gates)).sum(-1).mean()),
        "entropy": float(-(log_gates.exp() * log_gates).sum(-1).mean()),
        "nll": float(-log_gates.gather(1, labels[:, None]).mean()),
        "ece": sum(row["share"] * abs(row["accuracy"] - row["confidence"]) for row in bins),
        "confidence": float(confidence.mean()),
        "label_confidence": float(targets.amax(-1).mean()),
        "reliability": bins,
        "utterances": len(targets),
        "usage": torch.bincount(best, minlength=weights.shape[1]).div(len(targets)).tolist(),
    }


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict[str, float]]:
    """Mean confidence, accuracy and share of utterances of every non-empty bin of confidence.

    Args:
        confidence: `(utterances,)` in [0, 1]; the bins have equal width and include their upper end.
        correct: `(utterances,)` boolean.
    """
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == i].mean()),
            "accuracy": float(correct[bins == i].mean()),
            "share": float((bins == i).mean()),
        }
        for i in np.unique(bins)
    ]


def _train_epoch(
    router: UtteranceRouter,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    args: RouterArguments,
    epoch: int,
) -> dict[str, float]:
    learning_rate = args.learning_rate * (1 + math.cos(math.pi * epoch / args.num_train_epochs)) / 2
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    entropy = -(targets * targets.clamp(min=1e-9).log()).sum(-1)
    order = torch.from_numpy(np.random.default_rng([args.seed, epoch]).permutation(len(inputs)))
    total = 0.0
    for indices in order.split(args.batch_size):
        cross_entropy = -(targets[indices] * router(inputs[indices]).log_softmax(-1)).sum(-1)
        optimizer.zero_grad()
        cross_entropy.mean().backward()
        optimizer.step()
        total += float((cross_entropy - entropy[indices]).detach().sum())
    return {"learning_rate": learning_rate, "train_kl": total / len(inputs)}


def _state(router: UtteranceRouter) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in router.state_dict().items()}


def _save_checkpoint(
    folder: Path,
    router: UtteranceRouter,
    optimizer: torch.optim.Optimizer,
    best: dict[str, torch.Tensor],
    history: list[dict],
) -> None:
    """Write one file, complete or not at all."""
    make_folder(folder)
    moments = {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    tensors = {
        f"{kind}.{name}": value
        for kind, values in (("router", router.state_dict()), ("best", best), ("optimizer", moments))
        for name, value in values.items()
    }
    with atomic_write(folder / f"epoch-{len(history):05d}.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"history": json.dumps(history)})
    _delete_old(folder)


def _delete_old(folder: Path) -> None:
    for old in sorted(folder.glob("epoch-*.safetensors"))[:-KEPT_CHECKPOINTS]:
        old.unlink()


def _load_checkpoint(
    folder: Path, router: UtteranceRouter, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], list[dict]] | None:
    _delete_old(folder)  # a run that was stopped before it did so may have been at its last checkpoint
    newest = max(folder.glob("epoch-*.safetensors"), default=None)
    if newest is None:
        return None
    with damage_named(newest, "delete it, to go on from the one before it"):
        with safe_open(newest, "pt") as file:
            history = json.loads(file.metadata()["history"])
            parts: dict[str, dict] = {"router": {}, "best": {}, "optimizer": {}}
            for name in file.keys():  # noqa: SIM118
                kind, _, rest = name.partition(".")
                parts[kind][rest] = file.get_tensor(name)
        router.load_state_dict(parts["router"])
        moments: dict[int, dict] = {}
        for name, value in parts["optimizer"].items():
            index, _, moment = name.partition(".")
            moments.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    logger.info("the router resumes after epoch %d", len(history))
    return parts["best"], history
