"""Which of the trained systems is released: the best on speakers held out for it, and of equals the cheaper one."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_components.moe.benchmark.rows import SHARED
from hf_components.reporting import interval, percent
from hf_components.runtime import UserError, read_json_lines, read_record
from hf_components.scoring import compare

# What can be released, the cheaper and plainer first, and its row in the benchmark. `merge` is that of LoRAs trained
# apart, for as long as the mixture together; `moe_merge` is the mixture with the mean of its experts; `choose` decodes
# with each of the LoRAs of `merge` where their mean is not sure.
CANDIDATES = {
    "single_lora": "single_lora",
    "shared_lora": SHARED,
    "merge": "merge",
    "moe_merge": "moe_merge",
    "moe": "moe_top1",
    "choose": "choose",
}
RESAMPLES = 1000
UNCHOSEN = "no speakers were held out to choose a system, and a mixture must be shown to be better"


def read_candidates(joint: Any, selection: Any) -> dict:
    """`transcripts` and `has_shared` for `choose_shipped`.

    Args:
        joint: step that trained the mixture.
        selection: step that benchmarked what may be released; None: no speakers were held out.
    """
    judged = read_json_lines(selection / "transcripts.jsonl") if selection else []
    config = read_record(joint / "model" / "config.json", {"shared_expert": bool}, "train again")
    return {"transcripts": [line for _, line in judged], "has_shared": config["shared_expert"]}


def choose_shipped(
    transcripts: Sequence[Mapping[str, Any]], language: str, *, ship: str, has_shared: bool, seed: int
) -> dict:
    """Choose a system on utterances of speakers that none was trained on.

    The one with the lowest WER is the best. The first of `CANDIDATES` that is not worse than it, by a paired interval
    over speakers, is released: a mixture must earn its place.

    Args:
        transcripts: rows of a benchmark's `transcripts.jsonl`; none if no speakers were held out. Then the shared
            expert is released, which is cheaper than the mixture.
        language: language code of the texts.
        ship: "auto", or the system to release in any case.
        has_shared: whether the mixture has a shared expert.
        seed: seed of the resampling over speakers.
    Returns:
        `shipped`; `reason` in words; `candidates`: WER of each; `against_best`: comparison of each with the best.
    Raises:
        UserError: the requested system was not trained.
    """
    if not transcripts:
        chosen = {"shipped": "shared_lora" if has_shared else "moe", "reason": UNCHOSEN, "candidates": {}}
        return chosen if ship == "auto" else {**chosen, "shipped": ship, "reason": _asked(ship)}
    rows = {name: row for name, row in CANDIDATES.items() if row in transcripts[0]}
    references = [line["reference"] for line in transcripts]
    speakers = [line["speaker_id"] for line in transcripts]

    def against(a: str, b: str) -> dict:
        """WER of b minus that of a."""
        texts = ([line[rows[name]] for line in transcripts] for name in (a, b))
        return compare(*texts, references, speakers, language=language, num_bootstrap=RESAMPLES, seed=seed)

    first = next(iter(rows))
    wer = {name: against(first, name)["wer_b"] for name in rows}
    best = min(wer, key=wer.get)
    against_best = {name: against(best, name) for name in rows}
    equals = [name for name, line in against_best.items() if line["interval"] is None or line["interval"][0] <= 0]
    if ship != "auto" and ship not in rows:
        raise UserError(f"--ship {ship} was not trained in this run; choose one of {', '.join(rows)}")
    shipped = equals[0] if ship == "auto" else ship
    where = f"{len(references)} utterances of {len(set(speakers))} speakers held out of the training"
    reason = _reason(shipped, best, wer, against_best, where) if ship == "auto" else _asked(ship)
    return {"shipped": shipped, "reason": reason, "candidates": wer, "against_best": against_best}


def _asked(ship: str) -> str:
    return f"--ship {ship} asked for it"


def _reason(shipped: str, best: str, wer: Mapping[str, float], against_best: Mapping[str, dict], where: str) -> str:
    if shipped == best:
        others = [
            f"{name} {percent(wer[name])} (+{percent(line['difference'])}, {interval(line['interval'])})"
            for name, line in against_best.items()
            if name != best
        ]
        return f"{best} has the lowest WER on {where}: {percent(wer[best])} against {', '.join(others)}"
    line = against_best[shipped]
    return (
        f"{shipped} is the cheapest that is not worse than the best on {where}: WER {percent(wer[shipped])} against "
        f"{percent(wer[best])} of {best}, a difference of {percent(line['difference'])} ({interval(line['interval'])})"
    )
