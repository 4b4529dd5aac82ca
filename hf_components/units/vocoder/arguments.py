"""Flags of adversarial training."""

from dataclasses import dataclass, field


@dataclass
class AdversarialArguments:
    """Defaults are those of HiFi-GAN and of a GPU."""

    epochs: int = field(default=500, metadata={"help": "at most"})
    samples_per_epoch: int = field(default=10_000, metadata={"help": "random crops per epoch, over all processes"})
    crop_seconds: float = field(default=1.0, metadata={"help": "length of a crop"})
    batch_size: int = field(default=16, metadata={"help": "crops per step and process"})
    lr: float = field(
        default=2e-4, metadata={"help": "learning rate of the generator, by AdamW", "aliases": ["--learning_rate"]}
    )
    discriminator_lr: float | None = field(default=None, metadata={"help": "of the discriminators; lr by default"})
    lr_decay: float = field(default=0.999, metadata={"help": "factor of both learning rates per epoch"})
    adversarial_from_epoch: int = field(
        default=1,
        metadata={
            "help": "first epoch with discriminators; before it the mel loss trains alone, which is "
            "several times cheaper"
        },
    )
    discriminator_steps: int = field(
        default=1, metadata={"help": "steps of the discriminators per step of the generator"}
    )
    r1_weight: float = field(
        default=0.0,
        metadata={
            "help": "weight of the R1 gradient penalty, which keeps discriminators from winning outright; 0: none"
        },
    )
    period_channels: int = field(default=32, metadata={"help": "width of the period discriminators"})
    resolution_channels: int = field(default=32, metadata={"help": "width of the spectrogram discriminators"})
    patience: int = field(
        default=50,
        metadata={
            "help": "epochs without a better held-out mel loss (times 45), with discriminators, that end "
            "training; 0: none do"
        },
    )
    min_delta: float = field(default=0.5, metadata={"help": "what counts as better, in that loss"})
    validation_crops: int = field(
        default=64, metadata={"help": "held-out crops, always the same, that judge every epoch"}
    )
    save_every: int = field(default=20, metadata={"help": "epochs between saved models with spoken samples"})
    checkpoint_every: int = field(
        default=1, metadata={"help": "epochs between checkpoints to resume from; two are kept"}
    )
    seed: int = field(default=42, metadata={"help": "seed of initialisation and crops"})
    num_workers: int = field(default=0, metadata={"help": "processes that decode audio ahead"})
    report_to: str = field(default="tensorboard", metadata={"help": "tensorboard, trackio, wandb, or none"})

    def __post_init__(self):
        for name in (
            "epochs",
            "samples_per_epoch",
            "batch_size",
            "adversarial_from_epoch",
            "discriminator_steps",
            "period_channels",
            "resolution_channels",
            "validation_crops",
            "save_every",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("r1_weight", "patience", "min_delta", "num_workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.samples_per_epoch < self.batch_size:
            raise ValueError(
                f"samples_per_epoch must be at least batch_size {self.batch_size}, got {self.samples_per_epoch}"
            )
        if self.lr <= 0 or not 0 < self.lr_decay <= 1:
            raise ValueError(f"lr must be positive and lr_decay lie in (0, 1], got {self.lr} and {self.lr_decay}")
        if self.discriminator_lr is None:
            self.discriminator_lr = self.lr
