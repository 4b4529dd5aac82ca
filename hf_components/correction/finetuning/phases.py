"""The stages of a round of fine-tuning: hear, find gold, train, and hear again."""

import time
from dataclasses import dataclass
from pathlib import Path

import datasets
from transformers import PreTrainedModel, ProcessorMixin, set_seed

from hf_components.correction.finetuning.arguments import FinetuningFlags
from hf_components.correction.finetuning.release import TITLE
from hf_components.training import FinetuningArguments, FinetuningSettings, TimeEstimate, finetune


@dataclass(frozen=True)
class Phases:
    """The stages of a round. Those before the training of the first round are in `prepared`, all others in `work`."""

    number: int
    prepared: Path
    work: Path

    @property
    def is_first(self) -> bool:
        return self.number == 1

    @property
    def folder(self) -> Path:
        """The folder of the stages before the training."""
        return self.prepared if self.is_first else self.work

    @property
    def heard(self) -> Path:
        return self.folder / ("baseline" if self.is_first else f"heard_{self.number}")

    @property
    def chosen(self) -> Path:
        return self.folder / self._named("chosen")

    @property
    def nbest(self) -> Path:
        return self.folder / self._named("nbest")

    @property
    def gold(self) -> Path:
        return self.folder / self._named("gold")

    @property
    def training(self) -> Path:
        return self.work / self._named("training")

    @property
    def finetuned(self) -> Path:
        return self.work / self._named("finetuned")

    def _named(self, stage: str) -> str:
        return stage if self.is_first else f"{stage}_{self.number}"


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
