"""Rounds of fine-tuning: gold, a training on it, and whether the result is better.

In the first round the base votes on the gold, in each later one the recogniser that the round before it released.
Every training starts at the base. The rounds end with the first whose recogniser is not surely better.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_components.asr import Ctc, Heard, LanguageModel, Transcriber, family_of, load_asr
from hf_components.correction.finetuning.arguments import ASKED, FinetuningFlags
from hf_components.correction.finetuning.ensemble import Ensemble, Voters
from hf_components.correction.finetuning.gold import CORRECTIONS, Corrections, Gold, find_gold
from hf_components.correction.finetuning.improvement import describe, examples, measure
from hf_components.correction.finetuning.judging import judge
from hf_components.correction.finetuning.phases import Phases, train
from hf_components.correction.finetuning.samples import (
    Sample,
    choose_for_training,
    estimates,
    make_samples,
    training_rows,
)
from hf_components.correction.finetuning.transcribing import guess_rows, transcribe_as_stage
from hf_components.reporting import show
from hf_components.runtime import UserError, run_stage
from hf_components.training import keep_learnable


@dataclass
class Round:
    """A finished round.

    Attributes:
        voters: what those who voted on the gold heard.
        corrections: record of the LLM's replies, if one was asked.
        training: folder of the training stage.
        figures: figures of the training.
        release: whether the trained recogniser is better than the base, see `judge`.
        gain: the same against the recogniser of the round before it.
    """

    gold: Gold
    voters: Voters
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

    Every phase is a stage, see `Phases`.

    Args:
        corpus: rows of the stage `prepared/corpus`.
        prepared: folder of the stages before the training of the first round, perhaps those of another run.
        work: folder of all other stages.
    Raises:
        UserError: `--nbest` asks for guesses that the base cannot make.
    """

    def __init__(self, flags: FinetuningFlags, corpus: datasets.Dataset, prepared: Path, work: Path):
        args = self.args = flags.args
        self.flags = flags
        self.gold_args = flags.gold
        self.corpus = corpus
        self.prepared = prepared
        self.work = work
        self.resume_prepared = args.resume or prepared != work
        self.ensemble = Ensemble(
            args.model,
            flags.gold.recognisers,
            flags.gold.judges,
            corpus,
            prepared,
            batch_seconds=args.batch_seconds,
            resume=self.resume_prepared,
        )
        self.model, self.processor = load_asr(args.model)
        family = family_of(self.model)
        for name, lists, off in (("nbest", flags.gold.nbest > 1, 1), ("llm_choices", flags.gold.llm_choices, 0)):
            if lists and not isinstance(family, Ctc):
                raise UserError(
                    f"--{name} {getattr(flags.gold, name)} lists what a CTC model may have heard, and {args.model} is "
                    f"none; set it to {off}"
                )
        self.family = family.name
        self.others: dict[str, list[Heard]] = {}
        self.left_out: list[str] = []
        self.heard: list[str] = []  # text of the base for each recording

    def play(self) -> list[Round]:
        """All rounds, in order."""
        rounds: list[Round] = []
        source: str | Path = self.args.model
        asks_words = {"word_confidences": bool(self.gold_args.recognisers)}
        voter = Transcriber(self.model, self.processor, batch_seconds=self.args.batch_seconds, **asks_words)
        while True:
            phases = Phases.of_round(len(rounds) + 1, self.prepared, self.work)
            heard, said, guesses = self._hear(voter, source, phases)
            if phases.is_first:
                self.heard = heard
                self.others, self.left_out = self.ensemble.hear_others(heard)
            rounds.append(self._round(phases, Voters(said, guesses, self.others), heard))
            if len(rounds) == self.gold_args.rounds or not rounds[-1].gain["released"]:
                return rounds
            source = rounds[-1].training
            voter = self.tuned(source, **asks_words)

    def tuned(self, training: Path, *, word_confidences: bool = False) -> Transcriber:
        """The recogniser of a training stage."""
        return Transcriber.from_pretrained(
            self.args.model if self.args.use_lora else training / "model",
            adapter=[training / "adapter"] if self.args.use_lora else [],
            dtype="float32",
            batch_seconds=self.args.batch_seconds,
            word_confidences=word_confidences,
        )

    def _resume(self, phases: Phases) -> bool:
        """Whether the stages before the training of a round are continued or kept."""
        return self.resume_prepared if phases.is_first else self.args.resume

    def _hear(
        self, transcriber: Transcriber, source: str | Path, phases: Phases
    ) -> tuple[list[str], list[Heard], list[list[str]]]:
        """What the recogniser of a round hears in every recording.

        Args:
            source: its checkpoint, or the stage that trained it.
        Returns:
            its most probable text; the text with which the gold begins, which an LLM may have chosen; and its guesses
            for an LLM that corrects, that text first.
        """
        inputs = [self.prepared / "corpus", source]
        resume = self._resume(phases)
        said = transcribe_as_stage(transcriber, self.corpus, phases.heard, inputs=inputs, resume=resume)
        heard = [one.text for one in said]
        if self.gold_args.llm_choices:
            said = self._choose(transcriber, phases.chosen, [*inputs, self.flags.llm.llm_model], resume)
        guesses = guess_rows(
            transcriber,
            self.corpus,
            [one.text for one in said],
            self.gold_args.nbest,
            phases.nbest,
            inputs=[*inputs, phases.heard, *self._chosen(phases)],
            resume=resume,
        )
        return heard, said, guesses

    def _choose(
        self, transcriber: Transcriber, folder: Path, inputs: Sequence[str | Path], resume: bool
    ) -> list[Heard]:
        """What an LLM chooses among the texts that a recogniser may have heard. This is a stage."""
        llm = self.flags.llm
        plain = transcriber.family
        language_model = LanguageModel.from_pretrained(
            llm.llm_model, llm.gguf_file, quantization=llm.quantization, dtype=llm.llm_dtype
        )
        transcriber.choose_by(language_model, self.gold_args.llm_choices)
        chosen = transcribe_as_stage(transcriber, self.corpus, folder, inputs=inputs, resume=resume)
        transcriber.family = plain  # gives the LLM's memory back before the training
        return chosen

    def _chosen(self, phases: Phases) -> list[Path]:
        return [phases.chosen] if self.gold_args.llm_choices else []

    def _round(self, phases: Phases, voters: Voters, heard: Sequence[str]) -> Round:
        """One round; its recogniser must beat the base, and the one that votes in it.

        Args:
            heard: the most probable texts of the recogniser that votes.
        """
        corrections = phases.gold / CORRECTIONS if self.gold_args.gold in ASKED else None
        gold = self._find_gold(phases, voters)
        samples = make_samples(self.corpus, self.heard, gold, self.gold_args)
        if phases.is_first:
            self._show_baseline(samples)
        figures = self._train(samples, phases, corrections)
        self._transcribe(samples, phases)
        release = self._judge(samples, self.heard)
        gain = release if phases.is_first else self._judge(samples, heard)
        return Round(gold, voters, corrections, samples, phases.training, figures, release, gain)

    def _find_gold(self, phases: Phases, voters: Voters) -> Gold:
        heard = phases.heard if self.gold_args.nbest == 1 else phases.nbest
        corrections = Corrections(
            self.flags.llm,
            self.processor,
            phases.gold,
            inputs=[heard, *self._chosen(phases), *self.ensemble.sources_of_others()],
            resume=self._resume(phases),
        )
        return find_gold(self.gold_args, self.corpus, voters, corrections)

    def _show_baseline(self, samples: Sequence[Sample]) -> None:
        label = self.gold_args.label(self.flags.llm.llm_model)
        title = f"all {len(samples)} recordings"
        show(describe("Baseline Metrics", measure(samples, self.heard), title, label), examples(samples))

    def _train(self, samples: Sequence[Sample], phases: Phases, corrections: Path | None) -> dict:
        args = self.args
        if not phases.is_first:
            self.model, _ = load_asr(args.model)  # the round before it trained the one that was loaded
        gold_args = self.gold_args
        longest = family_of(self.model).longest_seconds
        chosen = choose_for_training(samples, gold_args.train_on, longest, gold_args.max_gold_wer)
        fastest = max(self.flags.training.speed_factors, default=1.0)
        rows = keep_learnable(
            training_rows(self.corpus, chosen, gold_args.weigh_gold), self.model, self.processor, fastest
        )
        learnable = set(rows["id"])
        for row in chosen:
            row.trained_on = row.id in learnable
        settings = {"use_lora": args.use_lora, "base_share": args.base_share}
        read = [corrections.parent] if corrections else self.ensemble.sources_of_others()
        return run_stage(
            phases.training,
            lambda stage: train(self.flags, self.model, self.processor, rows, stage),
            config=(
                dataclasses.replace(gold_args, judges=[], rounds=1),  # they decide afterwards
                self.flags.lora,
                self.flags.training,
                {**settings, "processes": self.flags.training.world_size},
            ),
            inputs=[self.prepared / "corpus", phases.heard, *self._chosen(phases), args.model, *read],
            resume=args.resume,
        )

    def _transcribe(self, samples: Sequence[Sample], phases: Phases) -> None:
        """Add what the trained recogniser hears in the recordings that are evaluated."""
        rows = [i for i, row in enumerate(samples) if row.held_out or self.gold_args.evaluate_on_train]
        written = transcribe_as_stage(
            self.tuned(phases.training),
            self.corpus.select(rows),
            phases.finetuned,
            inputs=[self.prepared / "corpus", phases.training],
            resume=self.args.resume,
        )
        for i, one in zip(rows, written, strict=True):
            samples[i].finetuned = one.text

    def _judge(self, samples: Sequence[Sample], before: Sequence[str]) -> dict:
        """Whether the trained recogniser is better than what was heard before."""
        held_out = [i for i, sample in enumerate(samples) if sample.held_out]
        is_known = any(samples[i].truth is not None for i in held_out)
        return judge(
            [samples[i] for i in held_out],
            [before[i] for i in held_out],
            {} if is_known else self.ensemble.hear_judges(held_out),
            num_bootstrap=self.args.num_bootstrap,
            seed=self.flags.training.seed,
        )
