"""An exponential moving average of the trained weights, which is evaluated and saved instead of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback

from hf_components.checkpoints import AVERAGED_WEIGHTS
from hf_components.runtime import UserError


class MovingAverage(TrainerCallback):
    """Average of the trained parameters, updated after each optimizer step: average += (1 - d) * (weights - average).

    At step t, counted from 1, d = min(decay, (1 + t) / (10 + t)): a short training is not dominated by its start. The
    formula is that of `tf.train.ExponentialMovingAverage` with `num_updates`. The average is kept in float32. At the
    end of training it replaces the weights.

    Args:
        model: model in training, the same object during the whole training.
        decay: greatest d.
    """

    def __init__(self, model: PreTrainedModel, decay: float):
        self.model = model
        self.decay = decay
        self.average: dict[str, torch.Tensor] | None = None  # exists during training only

    def decay_at(self, step: int) -> float:
        return min(self.decay, (1 + step) / (10 + step))

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.average = {name: weights.float().clone() for name, weights in trained_weights(self.model).items()}

    def on_step_end(self, args, state, control, **kwargs):
        for name, weights in trained_weights(self.model).items():
            self.average[name].lerp_(weights.float(), 1 - self.decay_at(state.global_step))

    def on_train_end(self, args, state, control, **kwargs):
        self._put_into_model(self.average)
        self.average = None

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """The model has the average as its weights within the context, and then its own weights again."""
        if self.average is None:
            yield
            return
        own = {name: weights.clone() for name, weights in trained_weights(self.model).items()}
        self._put_into_model(self.average)
        try:
            yield
        finally:
            self._put_into_model(own)

    def save(self, checkpoint: Path) -> None:
        save_file(self.average, checkpoint / AVERAGED_WEIGHTS, metadata={"format": "pt"})

    def load(self, checkpoint: Path) -> None:
        """Raises UserError if the checkpoint has no average."""
        file = checkpoint / AVERAGED_WEIGHTS
        if not file.exists():
            raise UserError(
                f"{checkpoint} was written without ema_decay; leave it out, or start anew with --force_restart"
            )
        found = load_file(file)
        self.average = {name: found[name].to(weights.device) for name, weights in trained_weights(self.model).items()}

    def _put_into_model(self, values: dict[str, torch.Tensor]) -> None:
        for name, weights in trained_weights(self.model).items():
            weights.copy_(values[name])


def trained_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The trained parameters by name, without gradients; they share memory with the model."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
