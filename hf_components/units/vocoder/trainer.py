"""Train a vocoder against discriminators, on crops of speech with their aligned units."""

import logging
import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch import nn

from hf_components.runtime import Progress, UserError
from hf_components.unit_hifigan import UnitHifiGanModel
from hf_components.unit_hifigan.discriminators import Discriminators
from hf_components.unit_hifigan.durations import deduplicate
from hf_components.units.vocoder.arguments import AdversarialArguments
from hf_components.units.vocoder.checkpoints import load_checkpoint, save_checkpoint
from hf_components.units.vocoder.crops import CropSampler, UnitCrops
from hf_components.units.vocoder.losses import MelLoss, adversarial_loss, discriminator_loss, feature_loss, r1_penalty

logger = logging.getLogger(__name__)

BETAS = (0.8, 0.99)  # from HiFi-GAN
COLLAPSED_LOSS, COLLAPSED_EPOCHS = 0.05, 5  # 0.5 is undecided
JUDGED = "validation_mel_loss"


class AdversarialTrainer:
    """Trains a `UnitHifiGanModel`.

    Args:
        model: the generator; trained with weight normalisation if its head needs it.
        args: flags of the training.
        train: crops to train on.
        held_out: crops for the validation loss.
        folder: folder of checkpoints and logs.

    Attributes:
        history: one entry per epoch: mean losses in training, the learning rate, and `validation_mel_loss`.
        best: the generator's weights (with weight normalisation) after `best_epoch`, the one with the least
            `validation_mel_loss`.
    """

    def __init__(
        self, model: UnitHifiGanModel, args: AdversarialArguments, train: UnitCrops, held_out: UnitCrops, folder: Path
    ):
        self.args = args
        self.folder = folder
        trackers = None if args.report_to == "none" else args.report_to
        project = ProjectConfiguration(str(folder), logging_dir=str(folder / "logs"))
        self.accelerator = Accelerator(log_with=trackers, project_config=project)
        set_seed(args.seed)
        model.apply_weight_norm()
        discriminators = Discriminators(args.period_channels, args.resolution_channels)
        optimizers = [
            torch.optim.AdamW(module.parameters(), lr=lr, betas=BETAS)
            for module, lr in ((model, args.lr), (discriminators, args.discriminator_lr))
        ]
        per_step = args.batch_size * self.accelerator.num_processes
        if args.samples_per_epoch < per_step:
            raise UserError(
                f"samples_per_epoch must be at least {per_step}, a batch per process; got {args.samples_per_epoch}"
            )
        sampler = CropSampler(train, args.samples_per_epoch // per_step * per_step, args.seed)
        loader = torch.utils.data.DataLoader(
            train,
            args.batch_size,
            sampler=sampler,
            num_workers=args.num_workers,
            persistent_workers=args.num_workers > 0,
        )
        self.judged = torch.utils.data.DataLoader(
            held_out, args.batch_size, sampler=held_out.held_out(args.validation_crops, args.seed)
        )
        self.generator, self.discriminators, *self.optimizers, self.loader = self.accelerator.prepare(
            model, discriminators, *optimizers, loader
        )
        self.mel_loss = MelLoss(model.config.sampling_rate).to(self.accelerator.device)
        self.best = copy_of(model)
        self.history = []

    def train(self, resume: bool = False, after_epoch=lambda trainer: None) -> None:
        """Train until the last epoch, or until the validation loss has not improved for `patience` epochs.

        Args:
            resume: resume from the newest complete checkpoint, with the same bits as without a stop.
            after_epoch: function that is called with the trainer after every epoch, in every process.
        Raises:
            UserError: a loss is not finite.
        """
        args = self.args
        checkpoints = self.folder / "checkpoints"
        if resume:
            self.best, self.history = load_checkpoint(self.accelerator, checkpoints) or (self.best, self.history)
        if args.report_to != "none":
            self.accelerator.init_trackers("vocoder")
        steps = len(self.loader)
        progress = Progress(
            total=args.epochs * steps,
            initial=len(self.history) * steps,
            desc="vocoder",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        while len(self.history) < args.epochs and not self.is_over():
            entry = self.train_epoch(progress)
            self.history.append(entry)
            if entry["epoch"] == self.best_epoch:
                self.best = copy_of(self.bare_generator)
            self.accelerator.log({key: value for key, value in entry.items() if key != "epoch"}, step=entry["epoch"])
            shown = (f"{name} {value:.4g}" for name, value in entry.items() if name != "epoch")
            logger.info("epoch %d: %s", entry["epoch"], ", ".join(shown))
            warn_of_collapse([past.get("discriminator_loss", math.inf) for past in self.history])
            after_epoch(self)
            if len(self.history) % args.checkpoint_every == 0:
                save_checkpoint(self.accelerator, checkpoints, self.best, self.history)
        progress.close()
        if len(self.history) < args.epochs:
            logger.info(
                "stopped after %d epochs: in the last %d the held-out mel loss did not improve by %g; a larger "
                "--patience or a smaller --min_delta trains longer",
                len(self.history),
                args.patience,
                args.min_delta,
            )
        for tracker in self.accelerator.trackers:  # not end_training, which also ends the process group
            tracker.finish()

    @property
    def bare_generator(self) -> UnitHifiGanModel:
        return self.accelerator.unwrap_model(self.generator)

    @property
    def compared(self) -> list[dict]:
        """The epochs to choose from: those with discriminators, if there are any; they have a higher mel loss."""
        return [entry for entry in self.history if "discriminator_loss" in entry] or self.history

    @property
    def best_epoch(self) -> int:
        return min(self.compared, key=lambda entry: entry[JUDGED])["epoch"]

    def is_over(self) -> bool:
        """Whether patience is exhausted; never before the first epoch with discriminators."""
        args = self.args
        losses = [entry[JUDGED] for entry in self.compared]
        awaited = len(self.history) < args.adversarial_from_epoch <= args.epochs
        return args.patience > 0 and not awaited and epochs_without_gain(losses, args.min_delta) >= args.patience

    def vocoder(self, weights: dict[str, torch.Tensor]) -> UnitHifiGanModel:
        """A vocoder to save, without weight normalisation, from weights of the generator in training."""
        model = UnitHifiGanModel(self.bare_generator.config)
        model.apply_weight_norm()
        model.load_state_dict(weights)
        model.remove_weight_norm()
        return model.to(self.accelerator.device).eval()

    def train_epoch(self, progress: Progress) -> dict[str, float]:
        args = self.args
        epoch = len(self.history)
        self.loader.set_epoch(epoch)  # the sampler uses it; after a resume it would count from 0
        for optimizer, lr in zip(self.optimizers, (args.lr, args.discriminator_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * args.lr_decay**epoch
        adversarial = epoch + 1 >= args.adversarial_from_epoch
        self.generator.train()
        totals: dict[str, torch.Tensor] = {}
        for batch in self.loader:
            for name, value in self.step(batch, adversarial).items():
                totals[name] = totals.get(name, 0) + value.detach()
            progress.update()
        means = {
            name: float(self.accelerator.reduce(total, "mean")) / len(self.loader) for name, total in totals.items()
        }
        means[JUDGED] = self.validate()
        if wrong := [name for name, value in means.items() if not math.isfinite(value)]:
            raise UserError(
                f"{wrong[0]} is not finite after epoch {epoch + 1}; take a lower --lr (now {args.lr:g}), or, if "
                "the cause is the machine, run the same command again"
            )
        progress.set_postfix({"epoch": epoch + 1, **{name: f"{value:.2f}" for name, value in means.items()}})
        return {"epoch": epoch + 1, "lr": args.lr * args.lr_decay**epoch, **means}

    def step(self, batch: dict[str, torch.Tensor], adversarial: bool) -> dict[str, torch.Tensor]:
        """One optimizer step of the generator, after those of the discriminators; returns the losses."""
        real = batch.pop("waveform")
        spoken = self.generator(**batch)
        mel = self.mel_loss(spoken, real)
        losses = {"mel_loss": mel}
        if adversarial:
            losses["discriminator_loss"] = self.train_discriminators(real, spoken.detach())
            judge = self.accelerator.unwrap_model(self.discriminators).requires_grad_(False)
            with torch.no_grad():
                of_real = judge(real)
            of_spoken = judge(spoken)
            losses |= {
                "adversarial_loss": adversarial_loss(of_spoken),
                "feature_loss": feature_loss(of_real, of_spoken),
            }
            judge.requires_grad_(True)
        if self.bare_generator.duration_predictor is not None:
            losses["duration_loss"] = self.duration_loss(batch["units"], batch.get("speaker_ids"))
        self.update(self.optimizers[0], sum(loss for name, loss in losses.items() if name != "discriminator_loss"))
        return losses

    def train_discriminators(self, real: torch.Tensor, spoken: torch.Tensor) -> torch.Tensor:
        for _ in range(self.args.discriminator_steps):
            waveform = real.clone().requires_grad_(self.args.r1_weight > 0)
            both = self.discriminators(torch.cat([waveform, spoken]))  # one forward pass, as DDP requires
            of_real, of_spoken = (
                [[layer[part] for layer in features] for features in both]
                for part in (slice(len(real)), slice(len(real), None))
            )
            loss = discriminator_loss(of_real, of_spoken)
            penalty = self.args.r1_weight * r1_penalty(of_real, waveform) if self.args.r1_weight else 0
            self.update(self.optimizers[1], loss + penalty)
        return loss.detach()

    def duration_loss(self, units: torch.Tensor, speaker_ids: torch.Tensor | None) -> torch.Tensor:
        """Mean squared error of log durations, mean over crops, without their first and last units, which are cut."""
        names, counts = deduplicate(units)
        present = counts > 0
        inner = present.clone()
        inner[:, 0] = False
        inner[torch.arange(len(inner), device=inner.device), present.sum(1) - 1] = False
        predicted = self.bare_generator.predict_log_durations(names, present, speaker_ids)
        squared = (predicted - counts.clamp(min=1).log()).square() * inner
        return (squared.sum(1) / inner.sum(1).clamp(min=1)).mean()

    def update(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        self.accelerator.backward(loss)
        optimizer.step()

    @torch.no_grad()
    def validate(self) -> float:
        """Mel loss of the held-out crops; every process computes all of it, so that all decide alike."""
        model = self.bare_generator.eval()
        total = 0.0
        count = 0
        for batch in self.judged:
            batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
            real = batch.pop("waveform")
            total += float(self.mel_loss(model(**batch), real)) * len(real)
            count += len(real)
        return total / count


def copy_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def epochs_without_gain(losses: list[float], min_delta: float) -> int:
    """Epochs since a loss was last at least `min_delta` below the best one before it."""
    best = math.inf
    since = 0
    for loss in losses:
        best, since = (loss, 0) if loss <= best - min_delta else (best, since + 1)
    return since


def epochs_collapsed(losses: list[float]) -> int:
    """Number of last epochs with a discriminator loss near zero: the discriminators are always right."""
    return next((count for count, loss in enumerate(reversed(losses)) if loss >= COLLAPSED_LOSS), len(losses))


def warn_of_collapse(losses: list[float]) -> None:
    """Warn once when the discriminators have been always right for `COLLAPSED_EPOCHS` epochs.

    Args:
        losses: discriminator loss of all epochs, infinite for epochs without discriminators.
    """
    if epochs_collapsed(losses) == COLLAPSED_EPOCHS:
        logger.warning(
            "the discriminators have collapsed: their loss has been below %g for %d epochs (%.4f now; 0.5 is "
            "undecided), so the generator learns only noise from them. Start again with a lower --discriminator_lr "
            "(a fifth), --r1_weight 1, --discriminator_steps 1, or a later --adversarial_from_epoch",
            COLLAPSED_LOSS,
            COLLAPSED_EPOCHS,
            losses[-1],
        )
