"""Who speaks: speakers that are known, and speakers that nobody named."""

from collections.abc import Iterable

UNKNOWN = "unknown"  # `speaker_id` of a row whose speaker nobody named; it stands for any number of people


def known_speakers(names: Iterable[str | None]) -> set[str]:
    """The speakers among the values of `speaker_id`."""
    return {name for name in names if is_known(name)}


def is_known(name: str | None) -> bool:
    """Whether a value of `speaker_id` names somebody."""
    return (name or UNKNOWN).strip().lower() not in ("", UNKNOWN)


def count_speakers(names: Iterable[str | None]) -> int | None:
    """The number of speakers; None if nobody is known."""
    return len(known_speakers(names)) or None


def say_speakers(names: Iterable[str | None]) -> str:
    """The number of speakers in words: "3 speakers", "1 speaker and unknown ones" or "speakers unknown"."""
    names = set(names)
    known = known_speakers(names)
    if not known:
        return "speakers unknown"
    return f"{len(known)} speaker{'s' * (len(known) > 1)}{' and unknown ones' * (len(names) > len(known))}"


def describe_dev(train: Iterable[str | None], dev: Iterable[str | None], last_part: bool = False) -> str:
    """What is held out in dev, in words.

    Args:
        train, dev: values of `speaker_id` in each split.
        last_part: whether dev has later parts of the recordings in train.
    """
    train = set(train)
    dev = set(dev)
    known = known_speakers(dev)
    what = "the last part of each recording" if last_part else "held-out recordings"
    if not known:
        return f"{what}; speakers unknown, so the same voices may be in train"
    if known != dev:
        return f"{what}; some speakers unknown, so the same voices may be in train"
    if known <= train:
        return f"{what} of the same speakers as in train"
    if known & train:
        return f"{what}; {len(known & train)} of {len(known)} speakers are in train too"
    if known_speakers(train) != train:
        return "held-out speakers, who are not among the known speakers of train; others in train are unknown"
    return "held-out speakers: none of them is in train"
