"""Weights over experts from similarities, at the temperature that gives a chosen mean entropy."""

import numpy as np
from scipy.special import softmax


def cosine_similarities(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(utterances, dimension), (experts, dimension) -> (utterances, experts); 0 for a zero vector."""
    return unit(points) @ unit(centroids).T


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors along the last axis scaled to length one; a zero vector stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def normalised_entropy(weights: np.ndarray) -> np.ndarray:
    """Entropy of each row of (utterances, experts), in [0, 1]: 0 is one-hot or a single expert, 1 is uniform."""
    entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=-1)
    return entropy / np.log(max(2, weights.shape[-1]))


def calibrate_temperature(scores: np.ndarray, target_entropy: float) -> float:
    """Find by bisection the temperature at which softmax(scores / temperature) has this mean normalised entropy.

    Entropy rises with temperature from one-hot to uniform, so every target in (0, 1) has one temperature.

    Args:
        scores: (utterances, experts): similarities, or logarithms of probabilities.
    """
    low = np.log(1e-6)
    high = np.log(1e4)
    for _ in range(60):
        middle = (low + high) / 2
        if normalised_entropy(softmax(scores / np.exp(middle), axis=-1)).mean() < target_entropy:
            low = middle
        else:
            high = middle
    return float(np.exp(middle))
