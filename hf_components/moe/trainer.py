"""Joint training of router and experts through the routing curriculum."""

import logging
from collections import defaultdict
from pathlib import Path

import torch
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_components.moe.curriculum import RoutingArguments, routing_losses
from hf_components.moe.fit import loss_of_routing
from hf_components.runtime import NUMBER, UserError, read_record, write_json
from hf_components.training import KlToBaseTrainer
from hf_components.whisper import MoeWhisperForConditionalGeneration

logger = logging.getLogger(__name__)

ROUTING_STATE = "routing_state.json"
DEAD, DOMINANT = 0.2, 0.9  # an expert is dead below this part of an even share, dominant above this share of all


class MoeTrainer(KlToBaseTrainer):
    """Train a [`MoeWhisperForConditionalGeneration`] through soft, top-k and hard routing.

    The model's configuration holds the current routing and temperature, so the saved model routes as it was trained
    last.

    Args:
        routing: the curriculum.
        kl, base: see `KlToBaseTrainer`.
    Raises:
        UserError: the usage floor of the curriculum leaves no choice among the model's experts.
    """

    def __init__(self, *args, routing: RoutingArguments, **kwargs):
        super().__init__(*args, **kwargs)
        self.routing = routing
        experts = self.model.config.num_experts
        if routing.min_expert_usage_fraction * experts >= 1:
            raise UserError(
                f"min_expert_usage_fraction must be below 1 / num_experts = {1 / experts:.3g}, got "
                f"{routing.min_expert_usage_fraction}"
            )
        if (
            routing.soft_routing_epochs + routing.topk_routing_epochs
            >= self.args.num_train_epochs
            > 0
            > self.args.max_steps
        ):
            logger.warning(
                "training ends after %g epochs, before hard routing begins: the saved model routes as it was trained "
                "last; shorten soft_routing_epochs and topk_routing_epochs",
                self.args.num_train_epochs,
            )
        self._warned: set[int] = set()
        self.usage = torch.full((experts,), 1 / experts, device=self.args.device)
        self._step_gates = torch.zeros(experts + 1, device=self.args.device)  # sums of this step, and their count
        self._log_sums: dict[str, float | torch.Tensor] = defaultdict(float)
        self.add_callback(_Curriculum(self))

    def loss_of_batch(self, model, inputs, num_items_in_batch):
        core = self.accelerator.unwrap_model(model)
        labels = inputs["labels"]
        expert_losses = None
        if self._asks_every_expert(core):
            with self.accelerator.autocast():  # accelerate applies it to `forward` only
                expert_losses, trunk_states = core.expert_losses(
                    inputs["input_features"], labels, inputs["attention_mask"]
                )
            inputs = {**inputs, "trunk_states": trunk_states}
        loss, scores = super().loss_of_batch(model, inputs, num_items_in_batch)
        outputs = scores.outputs
        if expert_losses is None and core.config.routing == "soft" and self.routing.routing_alignment_coef > 0:
            expert_losses = outputs.expert_losses  # of all experts in their order
        terms = routing_losses(outputs.gates, self.usage, expert_losses, self.routing.routing_alignment_tau)

        # Utterances count by their tokens: recognition and routing have the same denominator.
        shares = self.per_token((labels != -100).sum(-1), labels, num_items_in_batch)
        fading = 1 - self._progress()
        loss = (
            loss
            + self.routing.load_balance_coef * (shares * terms["load_balance"]).sum()
            - fading * self.routing.routing_entropy_coef * (shares * terms["entropy"]).sum()
        )
        if expert_losses is not None:
            loss = loss + self.routing.routing_alignment_coef * (shares * terms["alignment"]).sum()

        gates = outputs.gates.detach()
        self._step_gates += torch.cat([gates.sum(0), gates.new_tensor([len(gates)])])
        for name, values in terms.items():
            sums = torch.stack([values.detach().sum(), values.new_tensor(len(values))])
            self._log_sums[name] = self._log_sums[name] + sums  # stays a tensor: no wait for the device
        return loss, scores

    def loss_without_values(self, model, batch):
        model.config.routing = self.routing.routing(0)  # the first phase takes most
        return (
            loss_of_routing(model, batch)
            if self._asks_every_expert(model)
            else super().loss_without_values(model, batch)
        )

    def _asks_every_expert(self, model: MoeWhisperForConditionalGeneration) -> bool:
        """Whether the loss of each expert is found before the one that is minimised."""
        config = model.config
        return self.routing.routing_alignment_coef > 0 and (config.routing, config.mixture) == ("soft", "weights")

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if "loss" in logs:
            for name, sums in self._log_sums.items():
                total, utterances = self.accelerator.reduce(sums).tolist()  # over all processes
                logs[f"routing_{name}"] = round(total / utterances, 4)
            self._log_sums.clear()
            logs |= {f"usage_expert_{i}": round(float(share), 4) for i, share in enumerate(self.usage)}
            config = self.model.config
            logs["routing_temperature"] = round(config.router_temperature, 4)
            logs["routing_phase"] = PHASES[config.routing]
            logs["routing_noise_std"] = round(config.router_noise_std, 4)
            logs["routing_alignment_tau"] = self.routing.routing_alignment_tau
            logs["routing_min_usage"] = config.min_expert_usage_fraction
            self._warn_of_collapse()
        super().log(logs, *args, **kwargs)

    def set_routing(self) -> None:
        """Set the curriculum's routing, temperature, noise and usage floor for the next step."""
        config = self.model.config
        progress = self._progress()
        config.routing = self.routing.routing(round(self.state.epoch, 6))  # epochs are sums of rounded fractions
        config.router_temperature = self.routing.temperature(progress)
        config.router_noise_std = self.routing.router_noise_std * (1 - progress)
        config.min_expert_usage_fraction = self.routing.min_expert_usage_fraction

    def update_usage(self) -> None:
        """Update the running usage with the gates of the last optimizer step, over all processes."""
        total = self.accelerator.reduce(self._step_gates, "sum")
        momentum = self.routing.usage_momentum
        self.usage = momentum * self.usage + (1 - momentum) * total[:-1] / total[-1].clamp(min=1)
        self._step_gates.zero_()

    def _progress(self) -> float:
        return self.state.global_step / max(self.state.max_steps, 1)

    def _warn_of_collapse(self) -> None:
        even = 1 / len(self.usage)
        for i, share in enumerate(self.usage.tolist()):
            if len(self.usage) == 1 or i in self._warned or DEAD * even <= share <= DOMINANT:
                continue
            self._warned.add(i)
            if share < DEAD * even:
                logger.warning(
                    "expert %d is dying: %.1f %% of the routing; raise load_balance_coef or min_expert_usage_fraction",
                    i,
                    100 * share,
                )
            else:
                logger.warning(
                    "expert %d takes over: %.1f %% of the routing; raise load_balance_coef or router_noise_std",
                    i,
                    100 * share,
                )

    def _save_checkpoint(self, model, trial):
        if self.args.should_save:  # before the parent writes its completion marker
            folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            config = self.model.config
            fields = {"routing": config.routing, "router_temperature": config.router_temperature}
            write_json(folder / ROUTING_STATE, {"usage": self.usage.tolist(), **fields})
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        form = {"usage": [NUMBER], "routing": str, "router_temperature": NUMBER}
        remedy = "delete this checkpoint, to go on from the one before it"
        state = read_record(Path(resume_from_checkpoint) / ROUTING_STATE, form, remedy)
        self.usage = torch.tensor(state["usage"], device=self.args.device)
        # The next step sets these again; after the last step they are saved with the model.
        config = self.model.config
        config.routing = state["routing"]
        config.router_temperature = state["router_temperature"]


PHASES = {"soft": 0, "top_k": 1, "hard": 2}  # for plots


class _Curriculum(TrainerCallback):
    def __init__(self, trainer: MoeTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        register_fsdp_forward_method(self.trainer.model, "expert_losses")  # FSDP gathers weights as for `forward`

    def on_step_begin(self, args, state, control, **kwargs):
        self.trainer.set_routing()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.update_usage()

    def on_train_end(self, args, state, control, **kwargs):
        config = self.trainer.model.config
        config.router_noise_std = 0.0
        config.min_expert_usage_fraction = 0.0
