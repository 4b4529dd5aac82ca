"""Train a vocoder that speaks acoustic units.

accelerate launch --quiet --config_file accelerate_configs/single_gpu.yaml \\
    recipes/train_unit_vocoder.py --config recipes/configs/train_unit_vocoder/default.yaml \\
    --corpus runs/units/segments --units_dir runs/units/units --output_dir runs/units/vocoder

Writes the log, saved models and samples to --output_dir; the best vocoder is in its folder model/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate.utils import set_seed
from rich.table import Table

from hf_components.publishing import PublishVoiceArguments, push
from hf_components.reporting import show
from hf_components.runtime import (
    PlotArguments,
    RecipeArguments,
    flag,
    full_memory_explained,
    join_processes,
    parse_arguments,
    run_recipe,
    run_stage,
    sync_folder,
)
from hf_components.speech import leave_out_unreadable, load_corpus, unreadable_flag
from hf_components.unit_hifigan import UnitHifiGanConfig, UnitHifiGanModel
from hf_components.units import SECONDS_PER_UNIT, read_units
from hf_components.units.vocoder import (
    JUDGED,
    AdversarialArguments,
    AdversarialTrainer,
    Listener,
    UnitCrops,
    plot_finished,
    require_voices,
    save_vocoder,
    write_log,
)


@dataclass
class Arguments(RecipeArguments, PlotArguments):
    corpus: str = flag("output of segment_audio, with the splits train and dev", aliases=["--corpus_dir"])
    units_dir: str = flag("output of learn_units for that corpus")
    max_samples: int = flag(
        "held-out segments that every saved model speaks, to listen to", default=4, aliases=["--num_samples"], min=0
    )
    unreadable_rows: str = unreadable_flag()


@dataclass
class ModelArguments:
    """Shape of the vocoder. By default the heads have the sizes of the papers."""

    head: Literal["hifigan", "istft"] = flag(
        "how frames become samples: by upsampling convolutions, or by an inverse STFT at a tenth of the cost",
        default="hifigan",
    )
    embedding_dim: int = flag("width of the unit embedding", default=128, min=1)
    hidden_size: int = flag(
        "width of the istft head; its inner layers have three times that", default=512, min=1, needs={"head": "istft"}
    )
    num_layers: int = flag("layers of the istft head", default=8, min=1, needs={"head": "istft"})
    upsample_initial_channel: int = flag(
        "width of the hifigan head before upsampling", default=512, min=1, needs={"head": "hifigan"}
    )
    speaker_embedding: bool = flag(
        "learn a voice for each speaker of the corpus, who must be in train and dev", default=False
    )
    use_f0: bool = flag("take the fundamental frequency as an input beside the units", default=False)
    predict_durations: bool = flag("also learn how long each unit of a deduplicated sequence lasts", default=False)

    def __post_init__(self):
        self.config()  # refuses sizes that no vocoder can have

    def config(self, **more) -> UnitHifiGanConfig:
        return UnitHifiGanConfig(
            head=self.head,
            embedding_dim=self.embedding_dim,
            hidden_size=self.hidden_size,
            intermediate_size=3 * self.hidden_size,
            num_layers=self.num_layers,
            upsample_initial_channel=self.upsample_initial_channel,
            predict_durations=self.predict_durations,
            use_f0=self.use_f0,
            **more,
        )


ARGUMENTS = (Arguments, ModelArguments, PublishVoiceArguments, AdversarialArguments)


def main(argv: list[str] | None = None) -> dict:
    args, model_args, publishing, training_args = parse_arguments(ARGUMENTS, argv, __doc__)
    if model_args.speaker_embedding:
        require_voices(args.corpus)
    metrics = run_stage(
        args.output_dir,
        lambda folder: explained(args, model_args, training_args, folder),
        config=(args, model_args, training_args, {"processes": join_processes().num_processes}),
        inputs=[args.corpus, args.units_dir],
        resume=args.resume,
        derive={"plot": plot_finished},
    )
    show(summary_table(metrics))
    push(publishing, Path(args.output_dir) / "model")
    return metrics


def explained(args: Arguments, model_args: ModelArguments, training_args: AdversarialArguments, folder: Path) -> dict:
    with full_memory_explained(
        f"a smaller --batch_size (now {training_args.batch_size}), a smaller --crop_seconds (now "
        f"{training_args.crop_seconds:g}), or --head istft"
    ):
        return produce(args, model_args, training_args, folder)


def produce(args: Arguments, model_args: ModelArguments, training_args: AdversarialArguments, folder: Path) -> dict:
    set_seed(training_args.seed)
    table = read_units(args.units_dir)
    units = dict(zip(table.rows["id"].to_pylist(), table.rows["units"].to_numpy(), strict=True))
    corpus = {split: load_corpus(args.corpus, split, shared_speakers=True) for split in ("train", "dev")}
    if args.unreadable_rows == "reject":
        corpus = leave_out_unreadable(corpus, args.corpus, folder)
    model = build_model(model_args, table.identity, corpus["train"].unique("speaker_id"))
    crop_frames = round(training_args.crop_seconds / SECONDS_PER_UNIT)
    train, held_out = (UnitCrops(rows, units, crop_frames, model.config) for rows in corpus.values())

    trainer = AdversarialTrainer(model, training_args, train, held_out, folder)
    listener = Listener(held_out, args.max_samples, training_args.seed, folder, args.plot)
    is_main = trainer.accelerator.is_main_process

    def after_epoch(trainer: AdversarialTrainer) -> None:
        if not is_main:
            return
        write_log(folder, trainer.history, args.plot)
        if len(trainer.history) % training_args.save_every == 0:
            name = f"epoch_{len(trainer.history):04d}"
            model = trainer.vocoder(trainer.bare_generator.state_dict())
            save_vocoder(model, folder / "models" / name)
            listener.hear(model, name)
        sync_folder(folder)  # the checkpoint that follows says that this is done

    trainer.train(args.resume, after_epoch)
    model = trainer.vocoder(trainer.best)
    if is_main:
        save_vocoder(model, folder / "model")
        listener.hear(model, "final")
    first = trainer.history[0]
    best = trainer.history[trainer.best_epoch - 1]
    return {
        "head": model_args.head,
        "parameters": model.num_parameters(),
        "segments": len(train.corpus),
        "hours": round(sum(train.corpus["duration"]) / 3600, 2),
        "epochs": len(trainer.history),
        "best_epoch": trainer.best_epoch,
        "mel_loss_first_epoch": first[JUDGED],
        "mel_loss": best[JUDGED],
        "mel_loss_ratio": best[JUDGED] / first[JUDGED],
    }


def build_model(args: ModelArguments, identity: dict, speakers: list[str]) -> UnitHifiGanModel:
    speakers = sorted(speakers) if args.speaker_embedding else []
    return UnitHifiGanModel(args.config(num_units=identity["num_units"], units=identity, speakers=speakers))


def summary_table(metrics: dict) -> Table:
    table = Table(title="Unit vocoder", caption="mel loss: L1 of log-mel spectrograms of held-out crops, times 45")
    for heading in ("head", "parameters", "epochs", "best", "mel loss, first epoch", "best epoch", "ratio"):
        table.add_column(heading, justify="right")
    table.add_row(
        metrics["head"],
        f"{metrics['parameters'] / 1e6:.1f} M",
        str(metrics["epochs"]),
        str(metrics["best_epoch"]),
        f"{metrics['mel_loss_first_epoch']:.1f}",
        f"{metrics['mel_loss']:.1f}",
        f"{metrics['mel_loss_ratio']:.2f}",
    )
    return table


if __name__ == "__main__":
    run_recipe(main)
