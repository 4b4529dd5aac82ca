"""The stages of a round of fine-tuning: hear, find gold, train, and hear again."""

import time
from pathlib import Path
from typing import NamedTuple

import datasets
from transformers import PreTrainedModel, ProcessorMixin, set_seed

from hf_components.correction.finetuning.arguments import FinetuningFlags
from hf_components.correction.finetuning.release import TITLE
from hf_components.training import FinetuningArguments, FinetuningSettings, TimeEstimate, finetune


class Phases(NamedTuple):
    """The folders of the stages of a round."""

    is_first: bool
    heard: Path
    chosen: Path
    nbest: Path
    gold: Path
    training: Path
    finetuned: Path

    @classmethod
    def of_round(cls, number: int, prepared: Path, work: Path) -> "Phases":
        """Those before the training of the first round are in `prepared`, all others in `work`."""
        is_first = number == 1
        before = prepared if is_first else work
        name = "{}" if is_first else f"{{}}_{number}"
        return cls(
            is_first,
            heard=before / ("baseline" if is_first else f"heard_{number}"),
            chosen=before / name.format("chosen"),
            nbest=before / name.format("nbest"),
            gold=before / name.format("gold"),
            training=work / name.format("training"),
            finetuned=work / name.format("finetuned"),
        )


def train(
    flags: FinetuningFlags, model: PreTrainedModel, processor: ProcessorMixin, rows: datasets.Dataset, folder: Path
) -> dict:
    """Train a recogniser on rows, and save it to `folder`."""
    args = flags.args
    set_seed(flags.training.seed)
    total = model.num_parameters()
    estimate = TimeEstimate()
    start = time.monotonic()
    settings = FinetuningSettings(
        FinetuningArguments("lora" if args.use_lora else "full", base_share=args.base_share),
        flags.training,
        flags.lora,
        callbacks=[estimate],
    )
    finetuned = finetune(model, processor, rows, None, settings, folder, resume=args.resume)
    seconds = time.monotonic() - start
    finetuned.save(folder, TITLE, plot=False, merge=False)
    trainer = finetuned.trainer
    return {
        "recordings": len(rows),
        "steps": trainer.state.global_step,
        "train_loss": trainer.last_loss,
        "trained_parameters": finetuned.trained_parameters,
        "all_parameters": total,
        "estimated_seconds": estimate.seconds,
        "seconds": seconds,
    }
