"""Gradients, losses and everything that happens in training mode."""

import copy

import pytest
import torch
from tiny_whisper import EXPERTS, WINDOW, extract, noise, one_hot, speech, tiny_moe, tokens

pytestmark = pytest.mark.unit
ROUTINGS = pytest.mark.parametrize("routing", ["hard", "top_k", "soft"])
MIXTURES = pytest.mark.parametrize("mixture", ["weights", "logits"])


def gradients(model, **inputs) -> dict[str, torch.Tensor | None]:
    model.train()
    model.zero_grad()
    inputs = {"input_features": noise(3, WINDOW), "labels": tokens(3, 6), **inputs}
    torch.manual_seed(0)
    model(**inputs).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@ROUTINGS
@MIXTURES
def test_checkpointing_gives_the_same_gradients(routing, mixture):
    model = tiny_moe(routing=routing, mixture=mixture, shared_expert=True, lora_dropout=0.1)
    plain = gradients(model)
    for enable in (model.gradient_checkpointing_enable, model.activation_checkpointing_enable):
        enable()
        calls = []
        hook = model.model.decoder.layers[0].fc1.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        checkpointed = gradients(model)
        hook.remove()
        assert len(calls) == 2  # once more in backward
        for name, gradient in plain.items():
            torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=1e-5)
        model.gradient_checkpointing_disable()


def test_trainers_call_enables_checkpointing_and_reentrant_is_refused():
    model = tiny_moe()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs=None, every_n_layers=1, offload=False)
    assert model.is_gradient_checkpointing
    for enable in (model.activation_checkpointing_enable, model.gradient_checkpointing_enable):
        with pytest.raises(ValueError, match="`use_reentrant` must be False"):
            enable({"use_reentrant": True})


@ROUTINGS
@MIXTURES
def test_what_trains_moves_and_nothing_else(routing, mixture):
    model = tiny_moe(routing=routing, mixture=mixture, shared_expert=True, experts_per_utterance=3)
    model.train_only(experts=True, router=True)
    for name, gradient in gradients(model).items():
        if name.endswith((".lora_a", ".lora_b")) or ".router." in name:
            assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 0, name
        else:
            assert gradient is None, name
    model.train_only(experts=False, router=True)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"model.encoder.router.{layer}.{kind}" for layer in ("hidden", "output") for kind in ("weight", "bias")
    }
    model.train_only(experts=True, router=False)
    assert not any(p.requires_grad for name, p in model.named_parameters() if "lora" not in name)


@ROUTINGS
@MIXTURES
def test_inactive_experts_get_no_gradient(routing, mixture):
    model = tiny_moe(routing=routing, mixture=mixture, experts_per_utterance=2)
    features = noise(1, WINDOW)
    active = (
        set(range(EXPERTS))
        if routing == "soft"
        else set(model.route(features)[0].topk({"hard": 1, "top_k": 2}[routing]).indices.tolist())
    )
    for name, gradient in gradients(model, input_features=features, labels=tokens(1, 6)).items():
        if name.endswith(".lora_b"):
            moved = {expert for expert in range(EXPERTS) if gradient[expert].abs().max() > 0}
            assert moved <= active, name
            assert moved == active, name


@MIXTURES
def test_given_weights_train_only_their_experts(mixture):
    model = tiny_moe(mixture=mixture)
    weights = torch.cat([one_hot(0), one_hot(2), one_hot(2)])
    for name, gradient in gradients(model, expert_weights=weights).items():
        if name.endswith(".lora_b"):
            moved = [expert for expert in range(EXPERTS) if gradient[expert].abs().max() > 0]
            assert moved == [0, 2], name


def test_hard_routing_trains_the_router_by_the_gates_gradient():
    model = tiny_moe(routing="hard").train()
    output = model(noise(3, WINDOW), labels=tokens(3, 6))
    assert set(output.expert_weights.flatten().tolist()) == {0.0, 1.0}
    (gradient,) = torch.autograd.grad(output.loss, output.router_logits)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("shared_expert", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_expert_losses_are_those_of_each_expert_alone(training, shared_expert):
    model = tiny_moe(shared_expert=shared_expert, lora_dropout=0.3, routing="hard", router_noise_std=1.0)
    model.train(training)
    model.model.encoder.conv1.eval()  # frozen parts may be in evaluation mode on their own
    modes = [module.training for module in model.modules()]
    features, labels = noise(3, WINDOW), tokens(3, 6)
    losses, _ = model.expert_losses(features, labels)
    assert [module.training for module in model.modules()] == modes
    assert (model.config.mixture, model.config.routing) == ("weights", "hard")
    assert losses.shape == (3, EXPERTS) and not losses.requires_grad
    model.eval()
    with torch.no_grad():
        for row in range(3):
            for expert in range(EXPERTS):
                alone = model(
                    features[row : row + 1], labels=labels[row : row + 1], expert_weights=one_hot(expert)
                ).loss
                torch.testing.assert_close(losses[row, expert], alone, atol=1e-4, rtol=1e-4)


def test_forward_takes_over_the_trunk_of_the_expert_losses(monkeypatch):
    model = tiny_moe(routing="soft").train()
    model.train_only(experts=True, router=True)
    features, labels = noise(3, WINDOW), tokens(3, 6)
    plain = model(features, labels=labels)
    _, trunk_states = model.expert_losses(features, labels)
    monkeypatch.setattr(model.model.encoder, "trunk", None)  # not computed again
    again = model(features, labels=labels, trunk_states=trunk_states)
    assert torch.equal(again.loss, plain.loss) and torch.equal(again.gates, plain.gates)


def test_no_trunk_is_handed_on_that_training_changes():
    def handed_on(**config):
        model = tiny_moe(**config).train()
        model.train_only(experts=True, router=True)
        model.model.encoder.conv2.bias.requires_grad_(config == {})
        return model.expert_losses(noise(1, WINDOW), tokens(1, 6))[1]

    assert handed_on() is None  # trained
    assert handed_on(dropout=0.1) is None and handed_on(apply_spec_augment=True) is None
    assert handed_on(routing="soft") is not None


def test_expert_losses_restore_the_model_after_an_error():
    model = tiny_moe().train()
    with pytest.raises(ValueError, match="at most 64 tokens"):
        model.expert_losses(noise(1, WINDOW), tokens(1, 65))
    assert model.training and model.model.decoder.training and model.config.mixture == "weights"


def test_teacher_before_student_leaves_gradients_alone():
    model = tiny_moe(routing="soft")
    plain = gradients(model)
    model.gradient_checkpointing_enable()
    model.expert_losses(noise(3, WINDOW), tokens(3, 6))
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("routing", ["top_k", "soft"])
def test_training_loss_of_the_logits_mixture(routing):
    model = tiny_moe(routing=routing, mixture="logits").train()
    features, labels = noise(3, WINDOW), tokens(3, 6)
    output = model(features, labels=labels)
    lengths = (labels != -100).sum(-1)
    per_expert, _ = model.expert_losses(features, labels)  # (batch, experts)
    expected = (output.expert_weights * per_expert * lengths[:, None]).sum() / lengths.sum()
    torch.testing.assert_close(output.loss, expected, atol=1e-4, rtol=1e-4)
    scaled = model(features, labels=labels, num_items_in_batch=torch.tensor(70)).loss
    torch.testing.assert_close(scaled, output.loss * lengths.sum() / 70)


@ROUTINGS
@MIXTURES
def test_evaluation_loss_is_minus_log_of_what_is_returned(routing, mixture):
    model = tiny_moe(routing=routing, mixture=mixture)
    features, labels = noise(3, WINDOW), tokens(3, 6)
    with torch.no_grad():
        output = model(features, labels=labels)
        scaled = model(features, labels=labels, num_items_in_batch=70).loss
    log_probs = output.logits if mixture == "logits" and routing != "hard" else output.logits.log_softmax(-1)
    kept = labels != -100
    picked = log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(output.loss, -picked[kept].mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scaled, -picked[kept].sum() / 70, atol=1e-5, rtol=1e-5)


@MIXTURES
def test_accumulated_gradients_equal_the_whole_batch(mixture):
    model = tiny_moe(routing="soft", mixture=mixture).train()
    features, labels = noise(4, WINDOW), tokens(4, 6)
    whole = {
        name: g.clone()
        for name, g in gradients(model, input_features=features, labels=labels).items()
        if g is not None
    }
    count = (labels != -100).sum()
    for size in (1, 2):
        model.zero_grad()
        for start in range(0, 4, size):
            part = slice(start, start + size)
            model(features[part], labels=labels[part], num_items_in_batch=count).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, whole[name], atol=1e-5, rtol=1e-3)


def test_minimum_usage_and_noise_belong_to_training():
    model = tiny_moe(routing="soft", min_expert_usage_fraction=0.2, router_noise_std=2.0, router_temperature=0.1)
    features = noise(3, WINDOW)
    calm = model.route(features)
    assert torch.equal(calm, model.route(features)) and calm.min() < 0.2
    with model.override(min_expert_usage_fraction=0.0, router_noise_std=0.0):
        model.train()
        sharp = model.model.encoder.gates(model.model.encoder.router(model.embed(features)))
    with model.override(router_noise_std=0.0):
        floored = model.model.encoder.gates(model.model.encoder.router(model.embed(features)))
    torch.testing.assert_close(floored, (1 - EXPERTS * 0.2) * sharp + 0.2)
    noisy = model.route(features)
    assert noisy.min() >= 0.2 and not torch.equal(noisy, model.route(features))
    torch.testing.assert_close(noisy.sum(-1), torch.ones(3))


def test_override_checks_and_restores():
    model = tiny_moe(routing="soft")
    with pytest.raises(ValueError, match="`routing` must be one of"), model.override(mixture="logits", routing="best"):
        pass
    assert (model.config.routing, model.config.mixture) == ("soft", "weights")


@MIXTURES
def test_deepcopy_after_a_forward(mixture):
    model = tiny_moe(routing="soft", mixture=mixture).train()
    model(noise(2, WINDOW), labels=tokens(2, 4)).loss.backward()
    twin = copy.deepcopy(model)
    torch.testing.assert_close(
        gradients(twin)["model.decoder.layers.0.fc1.lora_b"], gradients(model)["model.decoder.layers.0.fc1.lora_b"]
    )
    assert twin.model.decoder.state is twin.model.decoder.layers[0].fc1.state is not model.model.decoder.state


def test_spec_augment_masks_speech_in_training_only():
    model = tiny_moe(
        routing="soft",
        apply_spec_augment=True,
        mask_time_prob=0.3,
        mask_time_length=5,
        mask_feature_prob=0.2,
        mask_feature_length=8,
    )
    batch = extract([speech(1.2, 0), speech(0.6, 1)])
    before, heard = batch["input_features"].clone(), []
    model.get_encoder().register_forward_pre_hook(
        lambda module, args, kwargs: heard.append(
            (args[0] if args else kwargs["input_features"], kwargs["attention_mask"])
        ),
        with_kwargs=True,
    )
    with torch.no_grad():
        model(batch["input_features"], labels=tokens(2, 4))
        model.train()(batch["input_features"], labels=tokens(2, 4))
    assert torch.equal(batch["input_features"], before)  # the caller's tensor is not touched
    assert torch.equal(heard[0][0], before)
    masked, mask = heard[1]
    silent = (masked == 0).all(1)  # whole frames
    assert 5 <= int(silent[0].sum()) < 120 and not torch.equal(masked, before)
    assert (mask.sum(-1) - torch.tensor([120, 60])).abs().max() <= 2
    assert not silent[0, 124:].any() and not silent[1, 64:].any()  # padding is not what gets masked


def test_training_accepts_short_batches():
    model = tiny_moe(routing="soft").train()
    output = model(noise(2, 60), labels=tokens(2, 4))
    assert output.encoder_last_hidden_state.shape == (2, 30, 16)
    with pytest.raises(ValueError, match="even number"):
        model(noise(2, 61), labels=tokens(2, 4))
