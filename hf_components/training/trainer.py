"""`Seq2SeqTrainer` for speech: batches of similar duration, correct loss with accumulation, evaluation by WER."""

import logging
import time
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate.utils import save_fsdp_optimizer
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProcessorMixin,
    ProgressCallback,
    Seq2SeqTrainer,
    TrainerCallback,
)
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from hf_components.asr import Scores, family_of, transcribe
from hf_components.checkpoints import (
    BASE,
    BASE_FORM,
    TRAINED_WEIGHTS,
    check_checkpoint,
    damaged_checkpoint_named,
    delete_remains,
    language_of,
    last_complete_checkpoint,
    mark_complete,
    writes,
)
from hf_components.runtime import UserError, fingerprint, read_record, write_json
from hf_components.scoring import score
from hf_components.speech import unreadable_explained
from hf_components.training.arguments import SpeechTrainingArguments
from hf_components.training.blank_rate import BlankRate
from hf_components.training.callbacks import BestRecord, EveryNEpochs, LogWithCheckpoints, ProgressAndLog
from hf_components.training.consistency import symmetric_kl
from hf_components.training.data import (
    WEIGHT,
    DurationBatchSampler,
    SpeechDataset,
    augmentation_of,
    collator_of,
    concatenation_of,
)
from hf_components.training.ema import MovingAverage
from hf_components.training.fit import loss_of_texts
from hf_components.training.memory_estimate import tell_memory
from hf_components.training.sharding import prepare_sharding, refuse_sharding, whole_model
from hf_components.training.start import DistanceToStart

logger = logging.getLogger(__name__)


class SpeechTrainer(Seq2SeqTrainer):
    """Train a speech recogniser of any family that can be trained on a prepared corpus.

    The loss is -log p(transcript), summed over the batch and divided by the tokens of the whole accumulated global
    batch, so that the gradient does not depend on how the batch is split.

    Args:
        model: model after `Family.prepare_for_training`; checkpoints hold only parameters that require gradients.
        args: training arguments.
        processor: processor of the checkpoint.
        language: code such as "en", for families with a prompt in each request; by default "en".
        corpus: training rows, audio not decoded.
        eval_corpus: rows that `evaluate` transcribes and scores.
        expert_weights: weights of the experts for each training row, `(utterances, experts)`.
        head_learning_rate: rate of a CTC model's last layer, if it is another than that of the other layers.
    Raises:
        UserError: the launcher shards parameters in a way that is not supported.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SpeechTrainingArguments,
        processor: ProcessorMixin,
        corpus: datasets.Dataset,
        eval_corpus: datasets.Dataset | None = None,
        expert_weights: np.ndarray | None = None,
        language: str | None = None,
        head_learning_rate: float | None = None,
        **kwargs,
    ):
        family = self.family = family_of(model)
        self.language = language
        self.head_learning_rate = head_learning_rate
        super().__init__(
            model=model,
            args=args,
            data_collator=collator_of(family, processor, args, language),
            processing_class=processor,
            eval_dataset=eval_corpus,
            train_dataset=SpeechDataset(corpus, family, processor, expert_weights, augmentation_of(family, args)),
            **kwargs,
        )
        # The loss is ours, and right with accumulation, whatever the model takes.
        self.model_accepts_loss_kwargs = True
        self.durations = corpus["duration"]
        self.concatenation = concatenation_of(corpus, model, processor, args)
        prepare_sharding(self.accelerator, self.model)
        self._prepare_regularisers()
        self._add_own_callbacks()

    def _prepare_regularisers(self) -> None:
        """What losses and logs need beside the model, and the weights that are kept beside those in training."""
        args = self.args
        for name in ("ema_decay", "l2_to_start"):
            if getattr(args, name):
                refuse_sharding(self.accelerator, name)
        self.ema = MovingAverage(self.model, args.ema_decay) if args.ema_decay else None
        self.start = DistanceToStart(self.model) if args.l2_to_start else None
        self._consistency = torch.zeros(2, device=args.device)  # sum of the symmetric KL, number of tokens
        # A statistic over the batch would make the gradient depend on how the batch is split; it stays as it was.
        self._batch_norms = [
            part for part in self.model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)
        ]
        blank = self.family.blank(self.model)
        self.blank_rate = None if blank is None else BlankRate(blank, args)

    def _add_own_callbacks(self) -> None:
        args = self.args
        if self.ema:
            self.add_callback(self.ema)
        self.add_callback(_SamplerEpoch(self))
        self.add_callback(EveryNEpochs(args.save_every_n_epochs, args.eval_every_n_epochs))
        self.add_callback(LogWithCheckpoints())
        self.add_callback(BestRecord(Path(args.output_dir)))
        if args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
        for default in (ProgressCallback, PrinterCallback):
            self.remove_callback(default)
        self.add_callback(ProgressAndLog())

    def create_optimizer(self, *args, **kwargs) -> torch.optim.Optimizer:
        """The same as in `Trainer`; the last layer may have a learning rate of its own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new and self.head_learning_rate is not None:
            head = set(self.family.head(self.accelerator.unwrap_model(self.model)).parameters())
            for group in list(optimizer.param_groups):
                of_head = [parameter for parameter in group["params"] if parameter in head]
                group["params"] = [parameter for parameter in group["params"] if parameter not in head]
                if of_head:
                    optimizer.add_param_group({**group, "params": of_head, "lr": self.head_learning_rate})
        return optimizer

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        args = self.args
        self.sampler = DurationBatchSampler(
            self.durations,
            self._train_batch_size,
            args.data_seed,
            args.full_context_fraction,
            batches_per_step=args.world_size * args.gradient_accumulation_steps,
            concatenation=self.concatenation,
        )
        return self.accelerator.prepare(
            torch.utils.data.DataLoader(
                self.train_dataset,
                batch_sampler=self.sampler,
                collate_fn=self.data_collator,
                num_workers=args.dataloader_num_workers,
                pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
                persistent_workers=args.dataloader_persistent_workers,
            )
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The loss of `loss_of_batch` and the regularisers, which have the same weight in every kind of training."""
        for norm in self._batch_norms:
            norm.eval()
        loss, scores = self.loss_of_batch(model, inputs, num_items_in_batch)
        labels = inputs["labels"]
        tokens = (labels != -100).sum()
        if self.blank_rate:
            self.blank_rate.count(scores, tokens)
        if self.args.consistency_coef:
            kl_sum = symmetric_kl(*comparable(scores, self.family.name, "consistency_coef"))
            self._consistency += torch.stack([kl_sum.detach(), tokens / 2])
            # Every utterance is there twice, and so are its tokens, but it has one divergence.
            loss = loss + self.args.consistency_coef * self.per_token(2 * kl_sum, labels, num_items_in_batch)
        if self.start:  # the parts of a step add up to 1
            part_of_step = self.per_token(tokens, labels, num_items_in_batch)
            loss = loss + self.args.l2_to_start * part_of_step * self.start.squared()
        return (loss, scores.outputs) if return_outputs else loss

    def loss_of_batch(self, model, inputs, num_items_in_batch) -> tuple[torch.Tensor, Scores]:
        """Loss without regularisers, and what it is made of; trainers with a loss of their own override it."""
        weights = inputs.pop(WEIGHT, None)
        scores = self.family.score(model, inputs)
        loss = scores.loss
        if weights is not None:
            loss = (weights * self.family.losses_of_rows(model, scores, inputs)).sum()
        return self.per_token(loss, inputs["labels"], num_items_in_batch), scores

    def loss_without_values(self, model: PreTrainedModel, batch) -> torch.Tensor:
        """What takes the memory of `loss_of_batch`, for tensors without values; it changes nothing in the trainer."""
        return loss_of_texts(model, batch)

    def per_token(self, sums: torch.Tensor, labels: torch.Tensor, num_items_in_batch) -> torch.Tensor:
        """Sums over the tokens of this batch, as their part of the mean over all tokens of the optimizer step."""
        means = sums / ((labels != -100).sum() if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            means = means * self.accelerator.num_processes  # gradients are averaged over processes afterwards
        return means

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        if self.args.consistency_coef and "loss" in logs:
            kl_sum, tokens = self.accelerator.reduce(self._consistency).tolist()  # over all processes
            if tokens:
                logs["consistency_kl"] = round(kl_sum / tokens, 4)
            self._consistency.zero_()
        if self.start and "loss" in logs:
            with torch.no_grad():
                logs["distance_to_start"] = round(self.start.squared().sqrt().item(), 4)
        if self.blank_rate and "loss" in logs:
            logs |= self.blank_rate.report(self.accelerator, self.state)
        super().log(logs, *args, **kwargs)

    def whole_model(self) -> PreTrainedModel:
        """The trained model with all its parameters on this process, to read only. Every process must call this."""
        return whole_model(self.accelerator.unwrap_model(self.model))

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval", **kwargs) -> dict:
        """Transcribe and score; text is decoded batch by batch, and no logits are kept.

        Returns:
            WER, CER and counts of the `whisper_wer` metric with prefixed keys; per-group WER as
            `<prefix>_wer_<group>`.
        """
        corpus = eval_dataset or self.eval_dataset
        start = time.monotonic()
        with unreadable_explained(), self.ema.in_model() if self.ema else nullcontext():
            texts = transcribe(
                self.whole_model(),
                self.processing_class,
                corpus,
                description="evaluating",
                language=self.language,
                batch_size=self.args.eval_batch_size,
                max_new_tokens=self.args.max_new_tokens,
                num_beams=1,  # greedy: fast, and enough to compare checkpoints
            )
        scores = score(
            texts,
            corpus["text"],
            corpus["group"],
            corpus["speaker_id"],
            num_bootstrap=0,
            language=self.language or language_of(self.accelerator.unwrap_model(self.model)),
            target=writes(self.accelerator.unwrap_model(self.model)),
        )
        metrics = {
            f"{metric_key_prefix}_{key}": value for key, value in scores.items() if isinstance(value, (int, float))
        }
        for group, values in scores["per_group"].items():
            metrics[f"{metric_key_prefix}_wer_{group}"] = values["wer"]
        metrics[f"{metric_key_prefix}_runtime"] = round(time.monotonic() - start, 1)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def train(self, resume_from_checkpoint: bool | str | None = None, **kwargs):
        """The same as `Trainer.train`; `True` resumes from the last complete checkpoint, if there is one."""
        if resume_from_checkpoint is True:
            if self.args.should_save:
                delete_remains(self.args.output_dir)
            self.accelerator.wait_for_everyone()
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
        elif resume_from_checkpoint:
            check_checkpoint(resume_from_checkpoint)
        tell_memory(self)
        return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)

    @property
    def last_loss(self) -> float | None:
        """The newest training loss in the log; None if training ended before the first entry."""
        return next((entry["loss"] for entry in reversed(self.state.log_history) if "loss" in entry), None)

    def _save_checkpoint(self, model, trial):
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each process writes the state of its own random generators
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            for kept in (self.ema, self.start):
                if kept:
                    kept.save(folder)
            # By their numbers: `Trainer` goes by time, and the clock may have been set back since the last run.
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint)
            mark_complete(folder, {"step": self.state.global_step})

    def _save(self, output_dir=None, state_dict=None):
        # A checkpoint holds only trained parameters: megabytes instead of gigabytes for a LoRA on large-v3.
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state_dict = self.accelerator.unwrap_model(self.model).state_dict() if state_dict is None else state_dict
        trained = {
            name: state_dict[name].contiguous()
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        save_file(trained, folder / TRAINED_WEIGHTS, metadata={"format": "pt"})
        write_json(folder / BASE, self._base())

    def _save_optimizer_and_scheduler(self, output_dir):
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        # `Trainer` would also save the whole model.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if (
            checkpoint is not None and self.is_deepspeed_enabled
        ):  # then `Trainer` does not call `_load_from_checkpoint`
            self._load_from_checkpoint(checkpoint)
        with damaged_checkpoint_named(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint):
        with damaged_checkpoint_named(checkpoint):
            super()._load_rng_state(checkpoint)

    def _base(self, *known: str) -> dict[str, str]:
        name = self.model.name_or_path  # empty for a model built in code
        return {"base_model": name, "fingerprint": fingerprint(name, known) if name else ""}

    def _load_best_model(self):
        best = self.state.best_model_checkpoint
        metric = self.args.metric_for_best_model
        logger.info("the best weights are those of %s (%s %.4f)", best, metric, self.state.best_metric)
        check_checkpoint(best)
        self._load_from_checkpoint(best)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        name = self.model.name_or_path
        base = read_record(
            Path(resume_from_checkpoint) / BASE, BASE_FORM, "delete this checkpoint, to go on from the one before it"
        )
        if base != self._base(base["fingerprint"]):
            raise UserError(
                f"{resume_from_checkpoint} adapts {base['base_model']} ({base['fingerprint']}), not the current "
                f"{name}; start anew with --force_restart"
            )
        weights = load_file(Path(resume_from_checkpoint) / TRAINED_WEIGHTS)
        options = StateDictOptions(full_state_dict=True, strict=False)  # the file is whole, the model may be sharded
        unexpected = set_model_state_dict(self.model, weights, options=options).unexpected_keys
        if unexpected:
            raise ValueError(f"{resume_from_checkpoint} belongs to another model: it has {unexpected[0]}")
        for kept in (self.ema, self.start):
            if kept:
                kept.load(Path(resume_from_checkpoint))


def comparable(scores: Scores, family: str, flag: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`logits` and `real` of scores. Raises UserError if the family's outputs cannot be compared."""
    if scores.logits is None:
        raise UserError(f"{flag} compares outputs position by position, which a {family} has none of; set it to 0")
    return scores.logits, scores.real


class _SamplerEpoch(TrainerCallback):
    """Sets the epoch of the sampler. `Trainer` reaches only its wrappers if there are several processes and training
    resumes within an epoch."""

    def __init__(self, trainer: SpeechTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.sampler.set_epoch(int(state.epoch))
