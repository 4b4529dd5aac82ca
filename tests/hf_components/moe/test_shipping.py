"""Which system is released: the best, or a cheaper one that is not worse beyond the noise."""

import pytest

from hf_components.moe.shipping import choose_shipped
from hf_components.runtime.errors import UserError

pytestmark = pytest.mark.unit

SPEAKERS = 12


def transcripts(**right: float) -> list[dict]:
    """Two words per utterance, two utterances per speaker; each system is right for this share of the speakers."""
    rows = []
    for speaker in range(SPEAKERS):
        for clip in range(2):
            texts = {name: "one two" if speaker < share * SPEAKERS else "one" for name, share in right.items()}
            rows.append({"reference": "one two", "speaker_id": f"s{speaker}", "id": f"{speaker}-{clip}", **texts})
    return rows


def choose(lines, ship="auto", has_shared=True):
    return choose_shipped(lines, "en", ship=ship, has_shared=has_shared, seed=1)


def test_a_mixture_that_is_clearly_better_is_released():
    chosen = choose(transcripts(single_lora=0.1, moe_shared=0.2, moe_merge=0.2, moe_top1=0.9))
    assert chosen["shipped"] == "moe"
    assert "moe has the lowest WER on 24 utterances of 12 speakers held out" in chosen["reason"]
    assert chosen["candidates"]["moe"] == pytest.approx(1 / 12)
    assert chosen["against_best"]["single_lora"]["interval"][0] > 0


@pytest.mark.parametrize(
    ("right", "shipped"),
    [
        ({"single_lora": 0.5, "moe_shared": 0.5, "moe_merge": 0.5, "moe_top1": 0.5}, "single_lora"),
        ({"single_lora": 0.1, "moe_shared": 0.8, "moe_merge": 0.8, "moe_top1": 0.9}, "shared_lora"),
        ({"single_lora": 0.1, "merge": 0.8, "moe_shared": 0.2, "moe_top1": 0.9}, "merge"),
        ({"single_lora": 0.1, "moe_shared": 0.2, "moe_merge": 0.8, "moe_top1": 0.9}, "moe_merge"),
    ],
)
def test_of_equals_the_cheaper_is_released(right, shipped):
    chosen = choose(transcripts(**right))
    assert chosen["shipped"] == shipped
    if max(right.values()) > 0.5:
        assert f"{shipped} is the cheapest that is not worse than the best" in chosen["reason"]


def test_a_wish_wins():
    lines = transcripts(single_lora=0.9, moe_shared=0.5, moe_top1=0.1)
    assert choose(lines, ship="moe") | {"candidates": 0, "against_best": 0} == {
        "shipped": "moe",
        "reason": "--ship moe asked for it",
        "candidates": 0,
        "against_best": 0,
    }
    with pytest.raises(
        UserError, match="--ship merge was not trained in this run; choose one of single_lora, shared_lora, moe"
    ):
        choose(lines, ship="merge")


def test_without_speakers_to_choose_on_it_is_the_shared_expert():
    assert choose([])["shipped"] == "shared_lora"
    assert choose([], has_shared=False)["shipped"] == "moe"
    asked = choose([], ship="moe")
    assert (asked["shipped"], asked["reason"]) == ("moe", "--ship moe asked for it")
    assert "no speakers were held out" in choose([])["reason"]


def test_one_speaker_shows_no_difference():
    lines = [line for line in transcripts(single_lora=0.0, moe_top1=1.0) if line["speaker_id"] == "s0"]
    assert choose(lines)["shipped"] == "single_lora"
