"""Pre-train the router: a small network from utterance embeddings to soft cluster labels."""

from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import trange

from hf_components.whisper.routed_lora import UtteranceRouter


@dataclass
class RouterArguments:
    """Router and its training; sizes follow the field's habits for a gating network on pooled embeddings."""

    router_hidden_size: int = field(default=128, metadata={"help": "width of the router's hidden layer"})
    batch_size: int = field(default=512, metadata={"help": "embeddings per step"})
    num_train_epochs: int = field(default=60, metadata={"help": "passes over the embeddings"})
    learning_rate: float = field(default=1e-3, metadata={"help": "of AdamW, with cosine decay"})
    weight_decay: float = field(default=0.05, metadata={"help": "of AdamW"})
    seed: int = field(default=42, metadata={"help": "seed of initialisation and order"})


def train_router(embeddings: np.ndarray, weights: np.ndarray, args: RouterArguments) -> tuple[UtteranceRouter, list[float]]:
    """Fit a router to soft labels by KL divergence.

    Args:
        embeddings: `(utterances, d_model)`. An utterance may be there in several audio contexts with one label, so
            that gates depend little on the padding around a clip.
        weights: `(utterances, experts)` soft labels.
    Returns:
        the router and the mean KL (nats) of each epoch.
    """
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    inputs, targets = torch.from_numpy(embeddings).float(), torch.from_numpy(weights).float()
    router = UtteranceRouter(inputs.shape[1], args.router_hidden_size, targets.shape[1])
    router.fit_statistics(inputs)
    optimizer = torch.optim.AdamW(router.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_train_epochs)
    entropy = -(targets * targets.clamp(min=1e-9).log()).sum(-1)
    history = []
    for _ in trange(args.num_train_epochs, desc="router", unit="epoch"):
        total = 0.0
        for indices in torch.randperm(len(inputs), generator=generator).split(args.batch_size):
            cross_entropy = -(targets[indices] * router(inputs[indices]).log_softmax(-1)).sum(-1)
            optimizer.zero_grad()
            cross_entropy.mean().backward()
            optimizer.step()
            total += float((cross_entropy - entropy[indices]).detach().sum())
        schedule.step()
        history.append(total / len(inputs))
    return router.eval(), history


@torch.inference_mode()
def judge_router(router: UtteranceRouter, embeddings: np.ndarray, weights: np.ndarray) -> dict:
    """How a router does on utterances with known labels.

    Returns:
        `accuracy` (arg max agrees with the label's), `kl` and `entropy` of the gates (nats), `utterances`, and `usage`,
        the share of utterances whose best expert is each.
    """
    targets = torch.from_numpy(weights).float()
    log_gates = router(torch.from_numpy(embeddings).float()).log_softmax(-1)
    best = log_gates.argmax(-1)
    return {
        "accuracy": float((best == targets.argmax(-1)).float().mean()),
        "kl": float((targets * (targets.clamp(min=1e-9).log() - log_gates)).sum(-1).mean()),
        "entropy": float(-(log_gates.exp() * log_gates).sum(-1).mean()),
        "utterances": len(targets),
        "usage": torch.bincount(best, minlength=weights.shape[1]).div(len(targets)).tolist(),
    }
