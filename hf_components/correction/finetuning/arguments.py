"""Flags of fine-tuning a recogniser on recordings without transcripts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from hf_components.correction.arguments import CorrectionArguments
from hf_components.publishing import PublishModelArguments
from hf_components.runtime import SEEDS, PlotArguments, ResumeArguments, UserError, flag
from hf_components.training import BASE_SHARE, CtcTrainingArguments, LoraArguments

LABELS = {
    "llm": "the recogniser's text as {llm} corrects it; that favours the recogniser",
    "manifest": "the transcripts of the manifest",
    "consensus": "a vote of this recogniser and {recognisers} on every word",
    "best": "the best, by votes of this recogniser and {recognisers}, of their texts and what {llm} makes of the vote",
    "stt": "the recogniser's OWN TEXT, uncorrected, which is no measure of quality",
    "chosen": "what {llm} chooses among the texts that the recogniser may have heard; that favours the recogniser",
}
GOLDS = (
    "llm: the recogniser's text, corrected by an LLM; manifest: the texts of --truth; consensus: a vote of the "
    "recogniser and --recognisers on every word; best: for each recording what has the lowest expected WER of the "
    "vote, each recogniser's text and the LLM's; stt: the recogniser's text, best with --llm_choices"
)
ASKED = ("llm", "best")  # what an LLM is asked for
VOTED = ("llm", "consensus", "best")  # what other recognisers can vote on
HEARD = ("stt", *VOTED)  # what begins with the text of the base


@dataclass(kw_only=True)
class Wav2Vec2Arguments(ResumeArguments, PlotArguments):
    """Model, data and method of fine-tuning.

    Without the folders clean/ and noisy/, the recordings are split in half by name. `truth` has JSON lines of `file`
    (below `audio_dir`) and `text` for evaluation; the default is `audio_dir/truth.jsonl` if it exists. From `prepared`
    the transcripts and corrections are used again.
    """

    audio_dir: str = flag("folder of recordings, in clean/ and noisy/ or to be split in half by name")
    model: str = flag("recogniser of any family: folder or Hub id", default="facebook/wav2vec2-base-960h")
    truth: str | None = flag("JSON lines of file and text; default: audio_dir/truth.jsonl, if it exists", default=None)
    prepared: str | None = flag("output folder of another run on these recordings, to reuse its texts", default=None)
    use_lora: bool = flag("train a LoRA, written to <output_dir>/lora_adapters", default=True)
    no_lora: bool = flag("train all weights except convolutions, written to <output_dir>/model", default=False)
    merge: bool = flag(
        "also write the model with the merged LoRA to <output_dir>/model", default=False, needs="use_lora"
    )
    base_share: float = flag(BASE_SHARE, default=0.0, min=0, below=1)
    batch_seconds: float = flag("seconds of audio per batch in transcription, with padding", default=240.0, above=0)
    num_bootstrap: int = flag("number of bootstrap samples for each interval of an improvement", default=1000, min=0)

    def __post_init__(self):
        self.use_lora = self.use_lora and not self.no_lora
        if self.merge and not self.use_lora:
            raise UserError("--merge merges a LoRA, but there is none with --no_lora; leave one of them out")


@dataclass
class Wav2Vec2TrainingArguments(CtcTrainingArguments):
    """`CtcTrainingArguments` with defaults and short flags for fine-tuning a wav2vec2."""

    output_dir: str = flag("folder of the result", default="models/finetuned_wav2vec2")
    num_train_epochs: float = flag(
        "epochs of training", default=3, aliases=["--num_epochs"], above=0, needs={"max_steps": -1}
    )
    per_device_train_batch_size: int = flag(
        "recordings per step and device", default=4, aliases=["--batch_size"], min=1
    )
    learning_rate: float = flag("peak learning rate; a LoRA usually takes 3e-4 to 1e-3", default=3e-5, above=0)


@dataclass
class GoldArguments:
    """The gold texts, and the recordings for training and evaluation.

    With `evaluate_on_train` nothing is held out, and the table says so.
    """

    gold: Literal["llm", "manifest", "consensus", "best", "stt"] = flag(GOLDS, default="llm")
    recognisers: list[str] = flag(
        "other recognisers that vote on every word of the gold, two or more are best: folders or Hub ids of any "
        "family, pocketsphinx, or JSON lines of transcripts by any other tool. An LLM then gets all their texts, and "
        "may change only what they are not sure of",
        default=[],
        needs={"gold": VOTED},
    )
    sure_word: float = flag(
        "an LLM may not change a word that is right with at least this probability, by the votes of --recognisers",
        default=0.8,
        above=0,
        max=1,
        needs={"gold": ("llm", "best")},
    )
    max_gold_wer: float | None = flag(
        "do not train on a recording if the recognisers disagree so much that its gold is expected to have a higher "
        "WER; default: train on all",
        default=None,
        min=0,
        needs={"gold": VOTED},
    )
    weigh_gold: bool = flag(
        "the loss of a recording counts by the share of words that its gold is expected to have right",
        default=False,
        needs={"gold": VOTED},
    )
    judges: list[str] = flag(
        "recognisers that decide, where no truth is known, whether the trained one became better: folders or Hub ids "
        "of others than those that made the gold",
        default=[],
    )
    rounds: int = flag(
        "rounds of gold and training; in each further one the trained recogniser votes in place of the base, and the "
        "first that is not surely better ends them",
        default=1,
        min=1,
        needs={"gold": VOTED},
    )
    nbest: int = flag(
        "texts per recording that the LLM gets, by beam search (--gold llm or best)",
        default=1,
        min=1,
        needs={"gold": ASKED},
    )
    llm_choices: int = flag(
        "an LLM chooses among so many of the most probable texts of a CTC base, and gold and votes begin with its "
        "choice; 0: no LLM chooses, and they begin with the most probable text",
        default=0,
        min=0,
        needs={"gold": HEARD},
    )
    train_on: Literal["errors", "agreed", "all"] = flag(
        "train where recogniser and gold differ (errors), where they agree, or on all", default="errors"
    )
    eval_ratio: float = flag(
        "share of each condition that is held out", default=0.3, above=0, below=1, needs={"evaluate_on_train": False}
    )
    split_seed: int = flag("seed of the split", default=42, **SEEDS, needs={"evaluate_on_train": False})
    evaluate_on_train: bool = flag("hold nothing out; evaluate on the training recordings", default=False)

    def __post_init__(self):
        if self.gold not in ASKED:
            self.nbest = 1
        if self.gold not in HEARD:
            self.llm_choices = 0
        if self.gold not in VOTED:  # nobody votes
            self.recognisers = []
            self.max_gold_wer = None
            self.weigh_gold = False
        if self.gold in ("consensus", "best") and not self.recognisers:
            raise UserError(f"--gold {self.gold} is a vote of several: also give --recognisers, best two or more")
        estimated = {"max_gold_wer": self.max_gold_wer is not None, "weigh_gold": self.weigh_gold}
        for name, is_given in estimated.items():
            if is_given and not self.recognisers:
                raise UserError(f"--{name} needs an estimate of the WER: also give --recognisers")
        if both := set(self.recognisers) & set(self.judges):
            raise UserError(
                f"{min(both)} cannot vote on the gold and judge it too: give it to --recognisers or to --judges"
            )
        if self.gold == "stt" and self.train_on == "errors" and not self.llm_choices:
            raise UserError(
                "--gold stt is the recogniser's own text, so there are no errors to train on; also give --train_on "
                "all, let an LLM choose it by --llm_choices 24, or use another --gold"
            )

    def label(self, llm: str) -> str:
        kind = "chosen" if self.gold == "stt" and self.llm_choices else self.gold
        return LABELS[kind].format(llm=llm, recognisers=" and ".join(self.recognisers))


class FinetuningFlags(NamedTuple):
    """All flags of `finetune_wav2vec2_lora`."""

    args: Wav2Vec2Arguments
    gold: GoldArguments
    llm: CorrectionArguments
    lora: LoraArguments
    training: Wav2Vec2TrainingArguments
    publishing: PublishModelArguments


def work_of(output_dir: str | Path) -> Path:
    """The folder of the finished phases of a run."""
    return Path(output_dir).with_name(f"{Path(output_dir).name}_work")
