"""Router pre-training on embeddings."""

import numpy as np
import pytest
import torch

from hf_components.training.router import RouterArguments, judge_router, train_router

pytestmark = pytest.mark.unit


def clusters(count: int = 240, experts: int = 3, seed: int = 0, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings around one point per expert, one dimension a hundred times larger, and soft labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % experts
    vectors = np.random.default_rng(99).normal(size=(experts, 12))[labels] * 3 + noise * rng.normal(size=(count, 12))
    vectors[:, 0] = 100 * rng.normal(size=count) + 50
    weights = np.full((count, experts), 0.05, np.float32)
    weights[np.arange(count), labels] = 1 - 0.05 * (experts - 1)
    return vectors.astype(np.float32), weights


def test_learns_separable_clusters_and_generalises():
    router, history = train_router(*clusters(), RouterArguments(router_hidden_size=16, num_train_epochs=60, batch_size=64,
                                                                learning_rate=1e-2))
    assert len(history) == 60 and history[-1] < 0.05 < 0.5 < history[0]
    assert not router.training
    judged = judge_router(router, *clusters(seed=1))
    assert judged["accuracy"] > 0.97 and judged["kl"] < 0.1 and judged["utterances"] == 240
    assert judged["usage"] == pytest.approx([1 / 3] * 3, abs=0.02)
    vectors = clusters()[0]
    torch.testing.assert_close(router.mean, torch.from_numpy(vectors).mean(0))


def test_is_a_function_of_its_seed():
    args = {"router_hidden_size": 8, "num_train_epochs": 3, "batch_size": 50}
    torch.manual_seed(1)
    first, history = train_router(*clusters(), RouterArguments(**args))
    torch.manual_seed(2)
    second, again = train_router(*clusters(), RouterArguments(**args))
    assert history == again
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert train_router(*clusters(), RouterArguments(**args, seed=1))[1] != history


def test_judge_against_figures_by_hand():
    class Fixed(torch.nn.Module):
        def forward(self, embeddings):
            return embeddings  # the embeddings are the logits

    logits = np.log(np.float32([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1]]))
    weights = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.8, 0.2]])
    judged = judge_router(Fixed(), logits, weights)
    assert judged["accuracy"] == 0.75 and judged["usage"] == [0.25, 0.75, 0.0]
    divergences = [-np.log(0.7), -np.log(0.6), -np.log(0.3), 0.2 * np.log(0.2 / 0.1)]
    assert judged["kl"] == pytest.approx(np.mean(divergences), rel=1e-5)
    gates = np.exp(logits)
    assert judged["entropy"] == pytest.approx(-(gates * logits).sum(-1).mean(), rel=1e-5)
