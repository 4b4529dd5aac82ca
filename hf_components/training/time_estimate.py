"""How long training will take, measured by its own first steps."""

import time

import torch
from accelerate import PartialState
from transformers import TrainerCallback

WARM_UP, MEASURED = 1, 4  # optimizer steps: the first pays for what is set up once


class TimeEstimate(TrainerCallback):
    """Prints how long training will take as soon as a few steps have been timed; they are part of training.

    Attributes:
        seconds: the estimate, of all steps from where this run begins; None before, or if there are fewer than two.
    """

    seconds: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.first = state.global_step
        self.last = min(self.first + WARM_UP + MEASURED, state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step not in (self.first + WARM_UP, self.last):
            return
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        if state.global_step == self.first + WARM_UP:
            self.start = time.perf_counter()
        else:
            timed = self.last - self.first - WARM_UP
            per_step = (time.perf_counter() - self.start) / timed
            steps = state.max_steps - self.first
            self.seconds = per_step * steps
            PartialState().print(f"Estimated training time: ~{self.seconds / 60:.1f} minutes ({steps} steps of {per_step:.2f} "
                                 f"s, measured over {timed} on this machine)", flush=True)
