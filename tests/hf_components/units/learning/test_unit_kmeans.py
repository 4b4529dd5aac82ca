"""Mini-batch k-means against Lloyd's and scikit-learn's, its start, the dead that are revived, and its checkpoint."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, MiniBatchKMeans

from hf_components.acoustic_units import nearest_centroid
from hf_components.runtime.errors import UserError
from hf_components.units.learning import kmeans as ours
from hf_components.units.learning.kmeans import assign, kmeans_plus_plus

pytestmark = pytest.mark.unit


def blobs(frames: int = 6000, dim: int = 10, groups: int = 40) -> torch.Tensor:
    random = np.random.default_rng(0)
    centres = 4 * random.standard_normal((groups, dim))
    return torch.from_numpy(
        (centres[random.integers(groups, size=frames)] + random.standard_normal((frames, dim))).astype(np.float32)
    )


def run(features: torch.Tensor, start: torch.Tensor, passes: int, steps: int) -> ours.MiniBatchKMeans:
    kmeans = ours.MiniBatchKMeans(start.double().clone())
    for _ in range(passes):
        for step in features.tensor_split(steps):
            for batch in step.tensor_split(3):
                kmeans.add(assign(batch, kmeans.centroids))
            kmeans.end_step()
        kmeans.end_pass()
    return kmeans


def inertia(features: torch.Tensor, centroids: torch.Tensor) -> float:
    return nearest_centroid(features, centroids)[1].sum().item()


def test_one_step_per_pass_is_lloyds_algorithm():
    features = blobs()
    start = kmeans_plus_plus(features, 20, seed=0)
    lloyd = KMeans(20, init=start.numpy(), n_init=1, max_iter=5, tol=0, algorithm="lloyd").fit(
        features.double().numpy()
    )
    found = run(features, start, passes=5, steps=1)
    np.testing.assert_allclose(found.centroids, lloyd.cluster_centers_, rtol=1e-9, atol=1e-9)
    assert found.passes == sorted(found.passes, reverse=True)


@pytest.mark.parametrize("num_units", [20, 60])
def test_as_good_as_scikit_learns_mini_batches(num_units):
    features = blobs()
    reference = min(
        MiniBatchKMeans(num_units, n_init=1, random_state=i).fit(features.numpy()).inertia_ for i in range(3)
    )
    found = run(features, kmeans_plus_plus(features, num_units, seed=0), passes=6, steps=6)
    assert inertia(features, found.centroids) < 1.02 * reference


def test_plus_plus_starts_as_well_as_scikit_learns():
    features = blobs()
    reference = [KMeans(40, n_init=1, max_iter=1, random_state=seed).fit(features.numpy()) for seed in range(5)]
    expected = np.mean([inertia(features, torch.from_numpy(found.cluster_centers_)) for found in reference])
    starts = [kmeans_plus_plus(features, 40, seed) for seed in range(5)]
    found = np.mean([inertia(features, run(features, start, passes=1, steps=1).centroids) for start in starts])
    assert found < 1.1 * expected
    at_random = np.mean(
        [inertia(features, run(features, features[i * 40 : (i + 1) * 40], 1, 1).centroids) for i in range(5)]
    )
    assert found < 0.9 * at_random
    assert torch.equal(starts[0], kmeans_plus_plus(features, 40, 0)) and not torch.equal(starts[0], starts[1])


def test_plus_plus_chooses_different_frames_or_says_that_there_are_none():
    sample = torch.tensor([[0.1], [0.1], [0.2], [0.3], [0.3]]).repeat(1, 30)
    assert len(kmeans_plus_plus(sample, 3, seed=1).unique(dim=0)) == 3
    with pytest.raises(UserError, match="4 units need as many different frames, but the 5 frames sampled .* hold 3"):
        kmeans_plus_plus(sample, 4, seed=1)


def test_units_without_frames_are_found_and_revived_where_frames_are_far():
    features = blobs()
    start = torch.cat([kmeans_plus_plus(features, 18, seed=0), torch.full((2, 10), 1e3, dtype=torch.float64)])
    kmeans = ours.MiniBatchKMeans(start)
    kmeans.add(assign(features, kmeans.centroids))
    kmeans.end_step()
    dead = kmeans.end_pass()
    assert dead.nonzero().flatten().tolist() == [18, 19]
    before = inertia(features, kmeans.centroids)
    revived = kmeans_plus_plus(features, 2, seed=1, living=kmeans.centroids[~dead])
    kmeans.centroids[dead] = revived
    assert inertia(features, kmeans.centroids) < 0.97 * before
    assert (nearest_centroid(revived, kmeans.centroids[~dead])[1] > 10).all()


def test_goes_on_from_its_file_as_if_never_stopped(tmp_path):
    features = blobs()
    batches = features.tensor_split(8)
    whole = ours.MiniBatchKMeans(kmeans_plus_plus(features, 20, seed=0))
    kmeans = ours.MiniBatchKMeans(whole.centroids.clone())
    for number, batch in enumerate(batches):
        whole.add(assign(batch, whole.centroids))
        kmeans.add(assign(batch, kmeans.centroids))
        kmeans.save(tmp_path / "kmeans.safetensors")
        kmeans = ours.MiniBatchKMeans.load(tmp_path / "kmeans.safetensors")
        if number % 4 == 3:
            assert kmeans.batches == 4
            for one in (whole, kmeans):
                one.end_step()
    assert (kmeans.steps, kmeans.batches) == (2, 0)
    for one in (whole, kmeans):
        one.end_pass()
    assert torch.equal(kmeans.centroids, whole.centroids) and kmeans.passes == whole.passes
    assert [path.name for path in tmp_path.iterdir()] == ["kmeans.safetensors"]
