"""Flags of adversarial training."""

from dataclasses import dataclass

from hf_components.runtime import SeedArguments, flag, tracker_flag

SHORTEST_CROP = 0.1  # seconds; the widest window of the mel loss has 0.128, and half a window is mirrored at each end


@dataclass
class AdversarialArguments(SeedArguments):
    """Adversarial training of a vocoder; defaults are those of HiFi-GAN, for a GPU.

    Before `adversarial_from_epoch` only the mel loss trains, which is several times cheaper. The R1 gradient penalty
    keeps the discriminators from becoming too good. Patience counts epochs with discriminators.
    """

    epochs: int = flag("greatest number of epochs", default=500, min=1)
    samples_per_epoch: int = flag("random crops per epoch, over all processes", default=10_000, min=1)
    crop_seconds: float = flag("length of a crop", default=1.0, min=SHORTEST_CROP)
    batch_size: int = flag("crops per step and process", default=16, min=1)
    lr: float = flag("learning rate of the generator, by AdamW", default=2e-4, aliases=["--learning_rate"], above=0)
    discriminator_lr: float | None = flag("learning rate of the discriminators; default: lr", default=None, above=0)
    lr_decay: float = flag("factor of both learning rates per epoch", default=0.999, above=0, max=1)
    adversarial_from_epoch: int = flag("first epoch with discriminators", default=1, min=1)
    discriminator_steps: int = flag("steps of the discriminators per step of the generator", default=1, min=1)
    r1_weight: float = flag("weight of the R1 gradient penalty of the discriminators; 0: none", default=0.0, min=0)
    period_channels: int = flag("width of the period discriminators", default=32, min=1)
    resolution_channels: int = flag("width of the spectrogram discriminators", default=32, min=1)
    patience: int = flag("epochs without a better validation loss that end training; 0: never", default=50, min=0)
    min_delta: float = flag(
        "least improvement of the validation loss (mel loss x 45)", default=0.5, min=0, needs="patience"
    )
    validation_crops: int = flag("held-out crops of the validation loss, always the same", default=64, min=1)
    save_every: int = flag("epochs between saved models with spoken samples", default=20, min=1)
    checkpoint_every: int = flag("epochs between checkpoints; two are kept", default=1, min=1)
    num_workers: int = flag("processes that decode audio ahead", default=0, min=0)
    report_to: str = tracker_flag()

    def __post_init__(self):
        if self.samples_per_epoch < self.batch_size:
            raise ValueError(
                f"samples_per_epoch must be at least batch_size {self.batch_size}, got {self.samples_per_epoch}"
            )
        if self.discriminator_lr is None:
            self.discriminator_lr = self.lr
