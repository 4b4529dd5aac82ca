"""Whether a corpus has what a voice for each speaker needs: known speakers, each in train and dev."""

from pathlib import Path

from hf_components.runtime import UserError
from hf_components.speech import DEV, TRAIN, known_speakers, load_corpus

REMEDY = "make a folder for each speaker and segment the recordings by --split_by recording"


def require_voices(corpus: str | Path) -> None:
    """Check that a voice for each speaker can be learnt from a prepared corpus.

    Raises:
        UserError: its speakers are unknown, or one of dev is not in train.
    """
    splits = load_corpus(corpus, shared_speakers=True)
    speakers = {split: set(splits[split].unique("speaker_id")) for split in (TRAIN, DEV) if split in splits}
    require_known_voices(set().union(*speakers.values()), corpus)
    if strangers := sorted(known_speakers(speakers.get(DEV, ()) - speakers.get(TRAIN, set()))):
        raise UserError(
            f"--speaker_embedding learns a voice for each speaker, but {strangers[0]} is in dev of {corpus} and not "
            "in train; segment the recordings again by --split_by recording"
        )


def require_known_voices(speakers: set[str], source: str | Path, split_by: str | None = None) -> None:
    """Check that `--speaker_embedding` has speakers to learn.

    Args:
        speakers: speakers of the corpus or of the recordings.
        source: name of either.
        split_by: what dev is to hold out.
    Raises:
        UserError: nobody is known, or speakers are to be held out.
    """
    if not known_speakers(speakers):
        raise UserError(
            f"--speaker_embedding learns a voice for each speaker, but the speakers of {source} are unknown; {REMEDY},"
            " or leave --speaker_embedding out"
        )
    if split_by == "speaker":
        raise UserError(
            "--speaker_embedding needs the same speakers in train and dev, and --split_by speaker keeps them apart; "
            "choose --split_by recording"
        )
