"""How long training will take, measured by its own first steps."""

import statistics
import sys
import time

import torch
from accelerate import PartialState
from transformers import TrainerCallback

WARM_UP, MEASURED = 1, 10  # optimizer steps: the first pays for what is set up once


class TimeEstimate(TrainerCallback):
    """Prints how long training will take as soon as some steps have been timed; they are part of training.

    The median counts, since workers, caches and other programs hold up single steps, the early ones most of all.

    Attributes:
        seconds: the estimate, of all steps from where this run begins; None before, or if there are fewer than two.
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
            PartialState().print(
                f"Estimated training time: ~{self.seconds / 60:.1f} minutes ({steps} steps of {per_step:.2f} "
                f"s, the median of {len(timed)} on this machine)",
                file=sys.stderr,
            )
