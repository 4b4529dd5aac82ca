"""Nearest centroids, clips as units, identity, saved models in other processes, and what is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_argmin_min
from tiny_ssl import save_tiny_ssl
from tiny_units import babble
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import BertConfig, Wav2Vec2Config, Wav2Vec2FeatureExtractor

from hf_components.acoustic_units import AcousticUnitsConfig, AcousticUnitsModel, nearest_centroid
from hf_components.units.learning import assign
from hf_components.units.learning.features import pad_waveforms

pytestmark = pytest.mark.unit

READER = """
import json, sys
import numpy as np
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
clip = np.load(sys.argv[2])
assert "hf_components" not in sys.modules
found = model.encode(clip, deduplicate=True)
print(json.dumps({"identity": model.identity(), **{name: value.tolist() for name, value in found._asdict().items()}}))
"""


def learnt(encoder: str = "mfcc", layer: int | None = None, num_units: int = 12) -> AcousticUnitsModel:
    """Frames of speech as centroids."""
    model = AcousticUnitsModel.from_encoder(encoder, layer, num_units)
    features, _ = model.features(*pad_waveforms([babble(2.0, 5)]))
    model.set_centroids(features[0, ::8][:num_units])
    return model


@pytest.mark.parametrize(("frames", "dim", "scale"), [(20_000, 39, 1.0), (500, 256, 100.0)])
def test_units_are_scikit_learns_nearest_centroids(frames, dim, scale):
    random = np.random.default_rng(0)
    features = (scale * random.standard_normal((frames, dim)) + 10 * scale).astype(
        np.float32
    )  # far from zero: cancellation
    centroids = features[random.choice(frames, 100, replace=False)] + np.float32(0.01)
    units, distances = nearest_centroid(torch.from_numpy(features), torch.from_numpy(centroids))
    kmeans = KMeans(100, init=centroids.astype(np.float64), n_init=1, max_iter=1).fit(features.astype(np.float64))
    kmeans.cluster_centers_ = centroids.astype(np.float64)
    assert (units.numpy() == kmeans.predict(features.astype(np.float64))).all()
    expected, expected_distances = pairwise_distances_argmin_min(
        features.astype(np.float64), centroids.astype(np.float64)
    )
    assert (units.numpy() == expected).all()
    np.testing.assert_allclose(distances, expected_distances**2, rtol=1e-6, atol=1e-5)


def test_of_equally_near_centroids_the_first_is_taken_as_in_scikit_learn():
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))  # every other point lies between centroids
    centroids = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [2.0, 2.0]])
    units, _ = nearest_centroid(grid, centroids)
    brute = ((grid[:, None] - centroids) ** 2).sum(-1).numpy().argmin(1)
    assert units.tolist() == brute.tolist() == pairwise_distances_argmin_min(grid, centroids)[0].tolist()


def test_centroids_closer_than_float32_can_tell_apart_are_told_apart():
    offset = 10_000.0
    centroids = torch.tensor([[offset], [offset + 0.01]])
    assert nearest_centroid(centroids, centroids)[0].tolist() == [0, 1]
    in_float32 = (centroids.square().T - 2 * centroids @ centroids.T).argmin(1)
    assert in_float32.tolist() != [0, 1]


def test_encodes_a_clip_with_durations_and_start_times():
    model, clip = learnt(), babble(1.0, 0)
    units, durations, starts = model.encode(clip)
    assert len(units) == (16_000 - 400) // 320 + 1 == 49
    assert durations.tolist() == [1] * 49 and starts.tolist() == pytest.approx([0.02 * i for i in range(49)])
    runs = model.encode(torch.from_numpy(clip), deduplicate=True)
    assert torch.equal(torch.repeat_interleave(runs.units, runs.durations), units)
    assert (runs.units.diff() != 0).all() and len(runs.units) < 49
    assert torch.equal(runs.start_times, starts[torch.cat([torch.tensor([0]), runs.durations.cumsum(0)[:-1]])])


@pytest.mark.parametrize("ssl", [False, True])
def test_loads_in_a_fresh_process_without_this_package(tmp_path, ssl):
    model = learnt(str(save_tiny_ssl(tmp_path / "tiny-ssl")), 2) if ssl else learnt()
    model.save_pretrained(tmp_path / "model")
    clip = babble(1.3, 3)
    np.save(tmp_path / "clip.npy", clip)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READER, tmp_path / "model", tmp_path / "clip.npy"],
        cwd=elsewhere,
        text=True,
        capture_output=True,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("identity") == model.identity()
    assert found == {name: value.tolist() for name, value in model.encode(clip, deduplicate=True)._asdict().items()}


def test_identity_names_encoder_layer_and_centroids(tmp_path):
    mfcc, ssl = learnt(), learnt(str(save_tiny_ssl(tmp_path / "tiny-ssl")), 2)
    assert mfcc.identity().keys() == {"encoder", "layer", "num_units", "centroids_sha256"}
    assert [mfcc.identity()[key] for key in ("encoder", "layer", "num_units")] == ["mfcc", None, 12]
    assert [ssl.identity()[key] for key in ("encoder", "layer")] == [
        "tiny-ssl",
        2,
    ]  # of a folder its name, not its place
    before = mfcc.identity()
    mfcc.centroids[3, 5] += 1e-3
    assert mfcc.identity() != before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_centroids_stay_what_they_are_in_half_precision(tmp_path, dtype):
    model = learnt(str(save_tiny_ssl(tmp_path / "tiny-ssl")), 2)
    model.save_pretrained(tmp_path / "model")
    half = AcousticUnitsModel.from_pretrained(tmp_path / "model", dtype=dtype)
    assert half.encoder.dtype == dtype and half.identity() == model.identity()
    clip = babble(1.0, 1)
    features = half.features(torch.from_numpy(clip)[None])[0][0]
    assert torch.equal(half.encode(clip).units, torch.cdist(features.double(), model.centroids.double()).argmin(1))
    with torch.backends.mkldnn.flags(enabled=False):  # a CPU's matrix units sum bfloat16 in their own way
        assert (half.encode(clip).units == model.encode(clip).units).float().mean() > 0.8


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        (torch.zeros(1, 399), None, r"at least 400 samples \(25 ms\), got 399"),
        (
            torch.zeros(2, 800),
            torch.tensor([[1] * 800, [1] * 300 + [0] * 500]),
            r"at least 400 samples \(25 ms\), got 300",
        ),
        (torch.zeros(2, 800), torch.tensor([[1] * 800, [0] * 300 + [1] * 500]), "then 0 for the padding after it"),
        (torch.zeros(2, 800), torch.ones(2, 700), "must have the shape of `input_values`"),
        (torch.full((1, 800), torch.nan), None, "must be finite"),
        (torch.zeros(800), None, r"floats of the shape \(batch, samples\), got torch.float32 of \(800,\)"),
        (torch.zeros(1, 800, dtype=torch.int16), None, "must be floats .*, got torch.int16"),
    ],
)
def test_waveforms_that_cannot_be_encoded_are_refused(values, mask, message):
    with pytest.raises(ValueError, match=message):
        learnt()(values, mask)


def test_encode_takes_one_waveform():
    with pytest.raises(ValueError, match=r"must have the shape \(samples,\), got \(2, 800\)"):
        learnt().encode(np.zeros((2, 800), dtype=np.float32))
    with pytest.raises(ValueError, match=r"must have the shape \(12, 39\), got \(11, 39\)"):
        learnt().set_centroids(torch.zeros(11, 39))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_units": 1}, "`num_units` must be at least 2, got 1"),
        ({"layer": 3}, "must be None for MFCC, which has no layers, got layer 3"),
        ({"encoder": "x"}, "`encoder_config` must hold the configuration of x"),
        ({"encoder": "x", "layer": 1, "encoder_config": BertConfig().to_dict()}, "whisper, got x of type bert"),
        (
            {"encoder": "x", "layer": 13, "encoder_config": Wav2Vec2Config().to_dict()},
            r"must lie in \[1, 12\] for x, got 13",
        ),
        ({"encoder": "x", "encoder_config": Wav2Vec2Config().to_dict()}, r"must lie in \[1, 12\] for x, got None"),
        (
            {
                "encoder": "x",
                "layer": 1,
                "encoder_config": Wav2Vec2Config(conv_stride=(5, 2, 2, 2, 2, 2, 1)).to_dict(),
            },
            "one frame of 400 samples every 320, x has one of 400 every 160",
        ),
    ],
)
def test_configurations_that_make_no_units_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AcousticUnitsConfig(**fields)


def test_a_checkpoint_without_all_weights_or_its_feature_extractor_is_refused(tmp_path):
    checkpoint = save_tiny_ssl(tmp_path / "tiny")
    (checkpoint / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match="preprocessor_config.json"):
        AcousticUnitsModel.from_encoder(str(checkpoint), 1)
    Wav2Vec2FeatureExtractor().save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(ValueError, match=r"is not a checkpoint of Wav2Vec2Model: it lacks encoder.layers.3"):
        AcousticUnitsModel.from_encoder(str(checkpoint), 4)


def test_attention_is_set_in_the_encoder(tmp_path):
    model = learnt(str(save_tiny_ssl(tmp_path / "encoder")), layer=2)
    model.save_pretrained(tmp_path / "units")
    for kind in ("eager", "sdpa"):
        model.set_attn_implementation(kind)
        loaded = AcousticUnitsModel.from_pretrained(tmp_path / "units", attn_implementation=kind)
        assert model.encoder.config._attn_implementation == loaded.encoder.config._attn_implementation == kind
    clip = babble(1.0, 3)
    eager = AcousticUnitsModel.from_pretrained(tmp_path / "units", attn_implementation="eager")
    assert torch.equal(model.encode(clip).units, eager.encode(clip).units)


def test_centroids_that_a_checkpoint_lacks_are_zero_and_told(tmp_path):
    learnt().save_pretrained(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    torch.full((100_000,), 7.0)  # memory that was used before
    model, found = AcousticUnitsModel.from_pretrained(tmp_path, output_loading_info=True)
    assert found["missing_keys"] == {"centroids"} and not model.centroids.any()


class NoFloat64(TorchFunctionMode):
    """As if every tensor were on Apple's GPU, which has no float64, until it is moved to the CPU."""

    def __init__(self):
        super().__init__()
        self.on_cpu = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [value for value in tree_leaves(args) if isinstance(value, torch.Tensor)]
        is_on_cpu = func is torch.Tensor.cpu or any(id(value) in self.on_cpu for value in given)
        for tensor in (value for value in tree_leaves(result) if isinstance(value, torch.Tensor)):
            if is_on_cpu or "device" in (kwargs or {}):  # made beside a tensor that has been moved
                self.on_cpu[id(tensor)] = tensor  # kept, or another tensor may get its id
            elif tensor.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


def test_encoding_needs_no_float64_on_the_device():
    model = AcousticUnitsModel.from_encoder("mfcc", None, 4)
    model.set_centroids(torch.randn(4, 39))
    waveform = torch.randn(16_000) * 0.1
    expected = model.encode(waveform)
    with NoFloat64():
        found = model.encode(waveform)
    assert torch.equal(found.units, expected.units) and torch.equal(found.start_times, expected.start_times)


def test_assignment_needs_no_float64_on_the_device():
    features = torch.randn(50, 3)
    expected = assign(features, features[:4].double())
    with NoFloat64():
        found = assign(features, features[:4])
    assert torch.equal(found.sums, expected.sums) and torch.equal(found.counts, expected.counts)
