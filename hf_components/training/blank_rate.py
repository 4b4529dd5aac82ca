"""How much a model with one token per frame writes: the share of blanks, and a warning if it writes almost nothing."""

import logging

import torch
from accelerate import Accelerator
from transformers import TrainerState

from hf_components.asr import Scores
from hf_components.training.arguments import SpeechTrainingArguments

logger = logging.getLogger(__name__)

SILENT_BELOW = 0.1  # lowest usual ratio of frames with a token to tokens of the transcripts
SETTLED = 0.2  # share of training in which a new model may write only blanks, as it may during warm-up


class BlankRate:
    """Counts the frames in which the blank is most likely, between two log entries.

    After warm-up and a fifth of training, a warning appears if the model writes almost nothing: CTC gets stuck there
    if the learning rate is too high or transcripts do not fit.

    Args:
        blank: token of a frame without text.
        args: arguments of the training.
    """

    def __init__(self, blank: int, args: SpeechTrainingArguments):
        self.blank = blank
        self.args = args
        self.counts = torch.zeros(3, device=args.device)  # frames, blanks, tokens
        self.warned = False

    @torch.no_grad()
    def count(self, scores: Scores, tokens: torch.Tensor) -> None:
        """Args: scores of a batch, and its number of tokens."""
        blank = scores.logits.argmax(-1) == self.blank
        self.counts += torch.stack([scores.real.sum(), (blank & scores.real).sum(), tokens])

    def report(self, accelerator: Accelerator, state: TrainerState) -> dict[str, float]:
        """Entry for the log since the last one, over all processes; every process must call this."""
        frames, blanks, tokens = accelerator.reduce(self.counts).tolist()
        self.counts.zero_()
        if not frames:
            return {}
        settled = max(self.args.get_warmup_steps(state.max_steps), SETTLED * state.max_steps)
        if state.global_step > settled and not self.warned and frames - blanks < SILENT_BELOW * tokens:
            self.warned = True
            logger.warning(
                "at step %d the model writes almost nothing: %.1f %% of its frames are blank, and %d frames "
                "have a token, while the transcripts have %d. If this continues, lower learning_rate, increase "
                "warmup_steps, or check that the transcripts belong to their audio",
                state.global_step,
                100 * blanks / frames,
                frames - blanks,
                tokens,
            )
        return {"blank_rate": round(blanks / frames, 4)}
