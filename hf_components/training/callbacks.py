"""Callbacks during training: progress bar and log, checkpoints and evaluations every n epochs, `best.json`."""

import logging
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from hf_components.runtime import Progress, write_json

logger = logging.getLogger(__name__)


class ProgressAndLog(TrainerCallback):
    """Shows a progress bar of optimizer steps, and logs every entry as one line.

    Replaces `ProgressCallback` and `PrinterCallback` of transformers, which write to standard output.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        shown = state.is_world_process_zero and not args.disable_tqdm
        self.bar = Progress(
            total=state.max_steps, initial=state.global_step, desc="training", unit="step", disable=not shown
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero:
            shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in logs.items()}
            logger.info("%s", ", ".join(f"{name} {value}" for name, value in shown.items() if name != "total_flos"))

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class EveryNEpochs(TrainerCallback):
    """Saves and evaluates only after every n-th epoch and after the last.

    Args:
        save, evaluate: n for each; None keeps the trainer's own schedule.
    """

    def __init__(self, save: int | None, evaluate: int | None):
        self.save = save
        self.evaluate = evaluate
        self.save_later = False

    def on_step_end(self, args, state, control, **kwargs):
        # A run that goes on from the last step of an epoch does not evaluate that epoch any more.
        ends_epoch = state.epoch == round(state.epoch) or state.global_step >= state.max_steps
        if control.should_save and ends_epoch and args.eval_strategy == IntervalStrategy.EPOCH:
            control.should_save = False
            self.save_later = True
        return control

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_save |= self.save_later
        self.save_later = False
        is_last = state.global_step >= state.max_steps

        def is_due(every: int | None) -> bool:
            return every is None or is_last or round(state.epoch) % every == 0

        control.should_save &= is_due(self.save)
        control.should_evaluate &= is_due(self.evaluate)
        if args.load_best_model_at_end:  # only a saved checkpoint can be the best
            control.should_save = control.should_evaluate
        return control


class LogWithCheckpoints(TrainerCallback):
    """Writes the current log entry before a checkpoint, because a checkpoint does not store its sums."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save
        return control

    on_epoch_end = on_step_end


class BestRecord(TrainerCallback):
    """Writes `best.json` to a folder: the best evaluation so far, and its checkpoint if one was saved."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        name = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        if name not in metrics or not state.is_world_process_zero:  # the user may evaluate other rows
            return
        values = [entry[name] for entry in state.log_history if name in entry]
        best = (max if args.greater_is_better else min)(values)
        if metrics[name] == best and values.index(best) == len(values) - 1:
            write_json(
                self.folder / "best.json",
                {
                    "metric": args.metric_for_best_model,
                    "value": best,
                    "epoch": round(state.epoch, 3),
                    "step": state.global_step,
                    "checkpoint": f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" if control.should_save else None,
                },
            )
