"""Rounds of fine-tuning: gold, a training on it, and whether the result is better.

In the first round the base votes on the gold, in each later one the recogniser that the round before it released.
Every training starts at the base. The rounds end with the first whose recogniser is not surely better.
"""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
from transformers import PreTrainedModel, ProcessorMixin, set_seed

from hf_components.asr import Ctc, Transcriber, family_of, load_asr
from hf_components.correction.arguments import CorrectionArguments
from hf_components.correction.finetuning.consensus import Heard
from hf_components.correction.finetuning.gold import (
    ASKED,
    CORRECTIONS,
    Gold,
    GoldArguments,
    Sample,
    choose_for_training,
    estimates,
    find_gold,
    make_samples,
    training_rows,
)
from hf_components.correction.finetuning.improvement import describe, examples, measure
from hf_components.correction.finetuning.judging import judge
from hf_components.correction.finetuning.listening import listeners
from hf_components.correction.finetuning.release import TITLE
from hf_components.correction.finetuning.run import (
    Wav2Vec2Arguments,
    Wav2Vec2TrainingArguments,
    guess_rows,
    hear_all,
    transcribe_rows,
)
from hf_components.reporting import show
from hf_components.runtime import NothingToTrainOnError, UserError, run_stage
from hf_components.training import (
    FinetuningArguments,
    FinetuningSettings,
    LoraArguments,
    TimeEstimate,
    finetune,
    keep_learnable,
)

logger = logging.getLogger(__name__)


@dataclass
class Round:
    """A finished round.

    Attributes:
        lists: what each recogniser that voted on the gold heard in each recording.
        corrections: record of the LLM's replies, if one was asked.
        training: folder of the training stage.
        figures: figures of the training.
        release: whether the trained recogniser is better than the base, see `judge`.
        gain: the same against the recogniser of the round before it.
    """

    gold: Gold
    lists: list[tuple[Heard, ...]]
    corrections: Path | None
    samples: list[Sample]
    training: Path
    figures: dict
    release: dict
    gain: dict

    def summary(self) -> dict:
        """What is reported of it beside the figures of the round that is kept."""
        return {
            "gold": estimates(self.samples, self.gold)
            | {"wer_truth": measure(self.samples, self.gold.texts)["wer_truth"]},
            "recordings": self.figures["recordings"],
            "release": self.release,
            "gain": self.gain,
        }


def best_of(rounds: Sequence[Round]) -> Round:
    """The last round that was better than the one before it; the first, if there is none."""
    return next((row for row in reversed(rounds) if row.gain["released"]), rounds[0])


class Rounds:
    """Fine-tuning of one recogniser on one corpus.

    Every phase is a stage. Those before the training of the first round are in `prepared`, the others in `work`.

    Args:
        corpus: rows of the stage `prepared/corpus`.
    Raises:
        UserError: `--nbest` asks for guesses that the recogniser cannot make.
    """

    def __init__(
        self,
        args: Wav2Vec2Arguments,
        gold_args: GoldArguments,
        llm: CorrectionArguments,
        lora_args: LoraArguments,
        training_args: Wav2Vec2TrainingArguments,
        corpus: datasets.Dataset,
        prepared: Path,
        work: Path,
    ):
        self.args = args
        self.gold_args = gold_args
        self.llm = llm
        self.lora_args = lora_args
        self.training_args = training_args
        self.corpus = corpus
        self.prepared = prepared
        self.work = work
        self.resume_prepared = args.resume or prepared != work
        self.model, self.processor = load_asr(args.model)
        if gold_args.nbest > 1 and not isinstance(family_of(self.model), Ctc):
            raise UserError(
                f"--nbest {gold_args.nbest} lists what a CTC model hears, and {args.model} is none; set it to 1"
            )
        self.family = family_of(self.model).name
        self.hears = {"batch_seconds": args.batch_seconds, "resume": self.resume_prepared}
        self.others: Mapping[str, Sequence[Heard]] = {}
        self.left_out: list[str] = []
        self.heard: list[str] = []

    def play(self) -> list[Round]:
        """All rounds, in order."""
        base = Transcriber(
            self.model,
            self.processor,
            batch_seconds=self.args.batch_seconds,
            word_confidences=bool(self.gold_args.recognisers),
        )
        said, guesses = self._hear(base, self.prepared, "baseline", "nbest", self.args.model, self.resume_prepared)
        self.heard = [one.text for one in said]
        others = hear_all(self.gold_args.recognisers, self.corpus, self.prepared, "recogniser", **self.hears)
        self.others = self._that_hear(others)
        rounds = [self._round(1, said, guesses, self.heard)]
        while len(rounds) < self.gold_args.rounds and rounds[-1].gain["released"]:
            number = len(rounds) + 1
            trained = rounds[-1].training
            tuned = self.tuned(trained, word_confidences=bool(self.gold_args.recognisers))
            heard = self._hear(tuned, self.work, f"heard_{number}", f"nbest_{number}", trained, self.args.resume)
            rounds.append(self._round(number, *heard, [one.text for one in heard[0]]))
        return rounds

    def _that_hear(self, others: Mapping[str, Sequence[Heard]]) -> dict[str, Sequence[Heard]]:
        """The other recognisers without those that do not hear these recordings.

        Raises:
            NothingToTrainOnError: none of them does.
        """
        texts = [self.heard, *([one.text for one in heard] for heard in others.values())]
        kept = {list(others)[i - 1] for i in listeners(texts) if i}
        self.left_out = [name for name in others if name not in kept]
        if others and not kept:
            raise NothingToTrainOnError(
                f"nobody can vote with {self.args.model}: what {' and '.join(self.left_out)} wrote of a recording is "
                "no more like its text than what they wrote of others; give other --recognisers, or check that they "
                "know the language, and that their texts belong to these recordings"
            )
        for name in self.left_out:
            logger.warning(
                "%s does not hear these recordings and has no vote: its text of a recording is no more like those of "
                "others than its texts of other recordings are",
                name,
            )
        return {name: heard for name, heard in others.items() if name in kept}

    def tuned(self, training: Path, *, word_confidences: bool = False) -> Transcriber:
        """The recogniser of a training stage."""
        return Transcriber.from_pretrained(
            self.args.model if self.args.use_lora else training / "model",
            adapter=[training / "adapter"] if self.args.use_lora else [],
            dtype="float32",
            batch_seconds=self.args.batch_seconds,
            word_confidences=word_confidences,
        )

    def _hear(
        self, transcriber: Transcriber, folder: Path, heard: str, nbest: str, source: str | Path, resume: bool
    ) -> tuple[list[Heard], list[list[str]]]:
        """What a recogniser hears in every recording, and its guesses for the LLM."""
        inputs = [self.prepared / "corpus", source]
        said = transcribe_rows(transcriber, self.corpus, folder / heard, inputs=inputs, resume=resume)
        guesses = guess_rows(
            transcriber,
            self.corpus,
            [one.text for one in said],
            self.gold_args.nbest,
            folder / nbest,
            inputs=[*inputs, folder / heard],
            resume=resume,
        )
        return said, guesses

    def _round(
        self, number: int, said: Sequence[Heard], guesses: Sequence[Sequence[str]], before: Sequence[str]
    ) -> Round:
        """One round; `before` are the texts that its recogniser must beat."""
        suffix = "" if number == 1 else f"_{number}"
        folder = self.prepared if number == 1 else self.work
        source = ("baseline" if number == 1 else f"heard_{number}") if self.gold_args.nbest == 1 else f"nbest{suffix}"
        corrections = folder / f"gold{suffix}" / CORRECTIONS if self.gold_args.gold in ASKED else None
        gold = find_gold(
            self.gold_args,
            self.llm,
            self.corpus,
            said,
            guesses,
            self.processor,
            folder / f"gold{suffix}",
            inputs=[folder / source, *self._heard_by_others()],
            resume=self.resume_prepared if number == 1 else self.args.resume,
            others=self.others,
        )
        samples = make_samples(self.corpus, self.heard, gold, self.gold_args)
        if number == 1:
            everywhere = measure(samples, self.heard)
            label = self.gold_args.label(self.llm.llm_model)
            title = f"all {len(samples)} recordings"
            show(describe("Baseline Metrics", everywhere, title, label), examples(samples))
        training = self.work / f"training{suffix}"
        read = [self.prepared / "corpus", folder / ("baseline" if number == 1 else f"heard_{number}"), self.args.model]
        read += [corrections.parent] if corrections else self._heard_by_others()
        figures = self._train(samples, training, read, number)
        rows = [i for i, row in enumerate(samples) if row.held_out or self.gold_args.evaluate_on_train]
        written = transcribe_rows(
            self.tuned(training),
            self.corpus.select(rows),
            self.work / f"finetuned{suffix}",
            inputs=[self.prepared / "corpus", training],
            resume=self.args.resume,
        )
        for i, one in zip(rows, written, strict=True):
            samples[i].finetuned = one.text
        release = self._judge(samples, self.heard)
        gain = release if number == 1 else self._judge(samples, before)
        lists = list(zip(said, *self.others.values(), strict=True))
        return Round(gold, lists, corrections, samples, training, figures, release, gain)

    def _heard_by_others(self) -> list[str | Path]:
        """What the other recognisers heard: their files, or the stages that have them."""
        return [
            name if name.endswith(".jsonl") else self.prepared / f"recogniser_{i}"
            for i, name in enumerate(self.gold_args.recognisers)
        ]

    def _train(self, samples: Sequence[Sample], folder: Path, inputs: Sequence[str | Path], number: int) -> dict:
        if number > 1:
            self.model, _ = load_asr(self.args.model)  # the round before it trained the one that was loaded
        gold_args = self.gold_args
        longest = family_of(self.model).longest_seconds
        chosen = choose_for_training(samples, gold_args.train_on, longest, gold_args.max_gold_wer)
        fastest = max(self.training_args.speed_factors, default=1.0)
        rows = keep_learnable(training_rows(self.corpus, chosen), self.model, self.processor, fastest)
        learnable = set(rows["id"])
        for row in chosen:
            row.trained_on = row.id in learnable
        return run_stage(
            folder,
            lambda stage: train(
                self.args, self.lora_args, self.training_args, self.model, self.processor, rows, stage
            ),
            config=(
                dataclasses.replace(gold_args, judges=[], rounds=1),  # they decide afterwards
                self.lora_args,
                self.training_args,
                {
                    "use_lora": self.args.use_lora,
                    "base_share": self.args.base_share,
                    "processes": self.training_args.world_size,
                },
            ),
            inputs=inputs,
            resume=self.args.resume,
        )

    def _judge(self, samples: Sequence[Sample], before: Sequence[str]) -> dict:
        held_out = [i for i, sample in enumerate(samples) if sample.held_out]
        is_known = any(samples[i].truth is not None for i in held_out)
        names = [] if is_known else self.gold_args.judges
        judges = hear_all(names, self.corpus.select(held_out), self.prepared, "judge", **self.hears)
        return judge(
            [samples[i] for i in held_out],
            [before[i] for i in held_out],
            {name: [one.text for one in texts] for name, texts in judges.items()},
            num_bootstrap=self.args.num_bootstrap,
            seed=self.training_args.seed,
        )


def train(
    args: Wav2Vec2Arguments,
    lora_args: LoraArguments,
    training_args: Wav2Vec2TrainingArguments,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: datasets.Dataset,
    folder: Path,
) -> dict:
    """Train a recogniser on rows, and save it to `folder`."""
    set_seed(training_args.seed)
    total = model.num_parameters()
    estimate = TimeEstimate()
    start = time.monotonic()
    settings = FinetuningSettings(
        FinetuningArguments("lora" if args.use_lora else "full", base_share=args.base_share),
        training_args,
        lora_args,
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
