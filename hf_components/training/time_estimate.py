"""Estimate how long training will take, from its first steps."""

import statistics
import sys
import time

import torch
from accelerate import PartialState
from transformers import TrainerCallback

WARM_UP, MEASURED = 1, 10  # optimizer steps; the first is not measured, because it includes set-up


class TimeEstimate(TrainerCallback):
    """Measures the first steps of training and prints how long training will take.

    It uses the median, because workers, caches and other programs delay single steps, mostly the early ones.

    Attributes:
        seconds: estimate for all steps of this run; None before it is known, or if there are fewer than two steps.
    """

    seconds: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.first = state.global_step
        self.ends = []
        self.last = min(self.first + WARM_UP + MEASURED, state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        if not self.first + WARM_UP <= state.global_step <= self.last:
            return
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.ends.append(time.perf_counter())
        if state.global_step == self.last and len(self.ends) > 1:
            timed = [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]
            per_step = statistics.median(timed)
            steps = state.max_steps - self.first
            self.seconds = per_step * steps
            basis = f"{steps} steps of {per_step:.2f} s, the median of {len(timed)} on this machine"
            PartialState().print(
                f"Estimated training time: ~{self.seconds / 60:.1f} minutes ({basis})", file=sys.stderr
            )
