"""Joint training: phases in force, what moves, usage, warnings, and the state that is left."""

import pytest
import torch
from tiny_speech import GradientRecorder, rows, tiny_moe, tiny_processor, tiny_whisper, training_arguments
from transformers import TrainerCallback

from hf_components.moe.curriculum import RoutingArguments
from hf_components.moe.trainer import MoeTrainer
from hf_components.runtime.errors import UserError
from hf_components.training.kl_to_base import KlToBaseArguments
from hf_components.training.teacher import Teacher

pytestmark = pytest.mark.unit


class Watch(TrainerCallback):
    """The configuration that each step trains with; added last, so that it sees what the curriculum has set."""

    def __init__(self):
        self.steps, self.usage, self.trainer = [], [], None

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        config = model.config
        self.steps.append(
            (config.routing, config.router_temperature, config.router_noise_std, config.min_expert_usage_fraction)
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.usage.append(self.trainer.usage.clone())


def joint_trainer(
    folder,
    model=None,
    *,
    routing: dict | None = None,
    kl: dict | None = None,
    experts=True,
    router=True,
    callbacks=(),
    **options,
):
    model = tiny_moe() if model is None else model
    model.train_only(experts=experts, router=router)
    args = training_arguments(
        folder, **{"per_device_train_batch_size": 4, "num_train_epochs": 3, "learning_rate": 1e-2, **options}
    )
    return MoeTrainer(
        model,
        args,
        tiny_processor(),
        rows(8),
        rows(3, first=50),
        routing=RoutingArguments(**(routing or {})),
        kl=KlToBaseArguments(**(kl or {})),
        base=Teacher(tiny_whisper()),
        callbacks=list(callbacks),
    )


def watched(trainer) -> Watch:
    watch = Watch()
    watch.trainer = trainer
    trainer.add_callback(watch)
    trainer.train()
    return watch


def test_every_phase_is_in_force_and_its_end_is_saved(tmp_path):
    trainer = joint_trainer(
        tmp_path,
        routing={
            "soft_routing_epochs": 1,
            "topk_routing_epochs": 0.5,
            "router_noise_std": 0.6,
            "routing_temperature_start": 4.0,
            "routing_temperature_end": 1.0,
        },
    )
    watch = watched(trainer)
    assert [step[0] for step in watch.steps] == ["soft", "soft", "top_k", "hard", "hard", "hard"]
    assert [step[1] for step in watch.steps] == pytest.approx([4 * 0.25 ** (i / 6) for i in range(6)])
    assert [step[2] for step in watch.steps] == pytest.approx([0.6 * (1 - i / 6) for i in range(6)])
    assert {step[3] for step in watch.steps} == {0.02}
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["routing_phase"] for entry in logged] == [0, 0, 1, 2, 2, 2]
    assert [("routing_alignment" in entry) for entry in logged] == [True, True, False, False, False, False]
    for entry in logged:
        assert {
            "routing_load_balance",
            "routing_entropy",
            "routing_temperature",
            "routing_noise_std",
            "routing_min_usage",
            "usage_expert_0",
            "usage_expert_2",
        } <= entry.keys()
    trainer.model.save_pretrained(tmp_path / "model")
    config = type(trainer.model.config).from_pretrained(tmp_path / "model")
    assert (config.routing, config.router_noise_std, config.min_expert_usage_fraction) == ("hard", 0.0, 0.0)
    assert config.router_temperature == watch.steps[-1][1]


def test_phases_count_epochs_when_max_steps_ends_training(tmp_path):
    watch = watched(joint_trainer(tmp_path, max_steps=3, routing={"soft_routing_epochs": 1, "topk_routing_epochs": 9}))
    assert [step[0] for step in watch.steps] == ["soft", "soft", "top_k"]  # two steps per epoch


@pytest.mark.parametrize("mixture", ["weights", "logits"])
def test_experts_and_router_move_and_nothing_else(tmp_path, mixture):
    model, recorder = tiny_moe(mixture=mixture), GradientRecorder()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    joint_trainer(
        tmp_path, model, routing={"soft_routing_epochs": 1, "topk_routing_epochs": 1}, callbacks=[recorder]
    ).train()
    trained = {name for name in before if ".lora_" in name or ".router.hidden" in name or ".router.output" in name}
    assert len(recorder.steps) == 6
    for phase in (slice(0, 2), slice(2, 4), slice(4, 6)):
        for gradients in recorder.steps[phase]:
            assert gradients.keys() == trained
        for name in trained:
            assert any(gradients[name].abs().max() > 0 for gradients in recorder.steps[phase]), name
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != (name in trained), name


def test_usage_is_a_running_mean_of_the_gates(tmp_path):
    trainer = joint_trainer(
        tmp_path,
        routing={"usage_momentum": 0.6, "router_noise_std": 0.0},
        gradient_accumulation_steps=2,
        num_train_epochs=2,
    )
    gates = []
    trainer.model.register_forward_hook(
        lambda module, args, output: gates.append(output.gates.detach()) if module.training else None
    )
    watch = watched(trainer)
    expected = torch.full((3,), 1 / 3)
    assert len(gates) == 4 and len(watch.usage) == 2
    for step, usage in enumerate(watch.usage):
        expected = 0.6 * expected + 0.4 * torch.cat(gates[2 * step : 2 * step + 2]).mean(0)
        torch.testing.assert_close(usage, expected)


@pytest.mark.parametrize(
    ("usage", "warnings"),
    [([0.97, 0.02, 0.01], ["expert 0 takes over", "expert 1 is dying", "expert 2 is dying"]), ([0.5, 0.3, 0.2], [])],
)
def test_collapse_is_warned_of(tmp_path, caplog, usage, warnings):
    trainer = joint_trainer(tmp_path, routing={"usage_momentum": 0.999}, max_steps=1)
    trainer.usage = torch.tensor(usage)
    with caplog.at_level("WARNING", logger="hf_components"):
        trainer.train()
    found = [record.getMessage() for record in caplog.records if "expert" in record.getMessage()]
    assert len(found) == len(warnings) and all(any(w in message for message in found) for w in warnings)


def test_a_floor_of_usage_that_leaves_no_choice_is_refused(tmp_path):
    with pytest.raises(UserError, match="min_expert_usage_fraction must be below 1 / num_experts = 0.333, got 0.4"):
        joint_trainer(tmp_path, routing={"min_expert_usage_fraction": 0.4})


@pytest.mark.parametrize("mixture", ["weights", "logits"])
@pytest.mark.parametrize("phase", ["soft", "top_k", "hard"])
def test_kl_holds_the_mixture_near_its_base_in_every_phase(tmp_path, mixture, phase):
    soft, top_k = {"soft": (12, 0), "top_k": (0, 12), "hard": (0, 0)}[phase]
    trainer = joint_trainer(
        tmp_path,
        tiny_moe(mixture=mixture),
        num_train_epochs=12,
        full_context_fraction=1.0,
        routing={"soft_routing_epochs": soft, "topk_routing_epochs": top_k},
        kl={"kl_to_base_coef": 1e6},
    )  # beside which everything else does not count
    trainer.train()
    kl = [entry["kl_to_base"] for entry in trainer.state.log_history if "kl_to_base" in entry]
    assert kl[-1] < 0.5 * kl[0]
