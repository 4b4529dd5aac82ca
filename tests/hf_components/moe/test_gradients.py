"""Gradients at a LoRA: that they are each utterance's own, what they tell apart, and what is refused."""

import datasets
import numpy as np
import pytest
import torch
from tiny_speech import rows, tiny_processor, tiny_whisper

from hf_components.moe.clustering import ClusteringArguments, Embeddings, cluster
from hf_components.moe.embedding import embed_batch
from hf_components.moe.experts import ExpertArguments, build_experts, save_trained_experts
from hf_components.moe.gradients import CountSketch, LoraGradients
from hf_components.moe.losses import labels_of, require_transcripts
from hf_components.runtime.errors import UserError
from hf_components.speech.audio import log_mel
from hf_components.speech.corpus import waveforms

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A single LoRA that has been trained, as far as one can see."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    model = build_experts(tiny_whisper(), ExpertArguments(lora_rank=2, lora_dropout=0.5), 1, router_layer=2)
    with torch.no_grad():
        for layer in model.routed_layers().values():
            layer.lora_b.normal_(std=0.05)
    save_trained_experts(model, folder)
    return folder, model.eval()


def gradients_of(folder, **options) -> LoraGradients:
    options = {"batch_size": 4, "dimension": 64, "seed": 1, **options}
    return LoraGradients(tiny_whisper(), tiny_processor(), folder, **options)


def heard(corpus: datasets.Dataset) -> torch.Tensor:
    return log_mel(tiny_processor().feature_extractor, waveforms(corpus))


def test_each_row_is_the_gradient_of_its_own_mean_loss(lora):
    folder, model = lora
    corpus = rows(3, seconds=0.6)
    gradients = gradients_of(folder)
    found = gradients(heard(corpus), corpus)
    model.train_only(experts=True, router=False)
    layers = model.routed_layers()
    parts = [layers[name].lora_b for name in sorted(layers)]
    for number, vector in enumerate(found):
        one = corpus.select([number])
        loss = model(
            heard(one), labels=labels_of(model, tiny_processor(), one), fit_audio_context=False
        ).loss  # mean over its tokens
        alone = gradients.projection([part.flatten(1) for part in torch.autograd.grad(loss, parts)])[0].numpy()
        np.testing.assert_allclose(vector, alone / np.linalg.norm(alone), atol=1e-4)
        assert vector.dtype == np.float32 and vector.shape == (64,)


def test_a_sketch_keeps_inner_products_and_is_the_same_for_the_same_seed():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(5, 700, generator=generator), torch.randn(5, 300, generator=generator)]
    sketch = CountSketch([700, 300], 400, seed=3)
    whole = torch.cat(parts, dim=1)
    assert torch.equal(sketch(parts), CountSketch([700, 300], 400, seed=3)(parts))
    assert not torch.equal(sketch(parts), CountSketch([700, 300], 400, seed=4)(parts))
    means = torch.stack([gram(CountSketch([700, 300], 400, seed)(parts)) for seed in range(50)]).mean(0)
    assert (means - gram(whole)).abs().max() < 40  # of squared lengths of 1000


def gram(vectors: torch.Tensor) -> torch.Tensor:
    return vectors @ vectors.T


def test_they_separate_people_who_are_heard_alike_but_misheard_in_other_ways(lora):
    speakers = 12
    corpus = rows(4 * speakers)
    of_row = np.arange(len(corpus)) % speakers
    misheard = of_row >= speakers // 2
    texts = ["zzz zz zzzz" if late else "aa aaaa aaa" for late in misheard]
    corpus = corpus.remove_columns("text").add_column("text", texts)
    names = np.array([f"s{number}" for number in of_row])
    groups = np.where(misheard, "z", "a")
    encoder = tiny_whisper().model.encoder
    gradients = gradients_of(lora[0], batch_size=len(corpus))
    vectors = {
        "mean": embed_batch(encoder, heard(corpus), 2, "mean"),
        "gradient": gradients(heard(corpus), corpus),
    }
    nmi = {}
    for kind, found in vectors.items():
        embeddings = Embeddings(
            np.array(corpus["id"][:]),
            np.full(len(corpus), "train"),
            names,
            groups,
            np.array(corpus["duration"][:]),
            np.stack(found),
            {},
        )
        args = ClusteringArguments(num_experts=2, cluster_by="speaker", reduce_dim=8)
        nmi[kind] = cluster(embeddings, args).summary["agreement_nmi"]["group"]
    assert nmi["gradient"] == pytest.approx(1) and nmi["mean"] < 0.5


def test_a_transcript_longer_than_the_decoder_is_cut(lora):
    corpus = rows(1).remove_columns("text").add_column("text", ["a " * 500])
    (vector,) = gradients_of(lora[0])(heard(corpus), corpus)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_corpus_without_transcripts_is_refused():
    said = rows(3)
    silent = said.remove_columns("text").add_column("text", ["", " ", ""])
    require_transcripts({"train": silent, "dev": said}, "corpus")
    with pytest.raises(UserError, match="none of the 6 utterances in corpus has one; transcribe them"):
        require_transcripts({"train": silent, "dev": silent}, "corpus")


def test_what_is_no_single_lora_of_this_model_is_refused(lora, tmp_path):
    with pytest.raises(UserError, match=r"is not a PEFT adapter: adapter_config\.json is missing"):
        gradients_of(tmp_path)
    several = build_experts(tiny_whisper(), ExpertArguments(lora_rank=2), 2, router_layer=2)
    save_trained_experts(several, tmp_path)
    with pytest.raises(UserError, match="gradients are taken at a single LoRA, .* holds several experts"):
        gradients_of(tmp_path)
    with pytest.raises(UserError, match="which has other weights"):
        LoraGradients(tiny_whisper(seed=5), tiny_processor(), lora[0], batch_size=2, dimension=8, seed=0)
