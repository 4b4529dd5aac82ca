"""Gold texts, the division into parts, and what is trained on."""

from pathlib import Path

import datasets
import pytest
from parsing import parse
from tiny_ctc import tiny_ctc_processor
from tiny_recordings import scripted_corrector

from hf_components.asr import Heard, Word
from hf_components.correction.arguments import CorrectionArguments
from hf_components.correction.finetuning import gold
from hf_components.correction.finetuning.arguments import GoldArguments
from hf_components.correction.finetuning.consensus import combine
from hf_components.correction.finetuning.ensemble import Voters
from hf_components.correction.finetuning.gold import Corrections, Gold, find_gold, guesses_of_all
from hf_components.correction.finetuning.samples import Sample, choose_for_training, make_samples, training_rows
from hf_components.runtime.errors import UserError
from hf_components.runtime.stages import run_stage
from hf_components.training import WEIGHT

pytestmark = pytest.mark.unit


def corpus(count: int = 20) -> datasets.Dataset:
    names = [f"{('clean', 'noisy')[i >= count // 2]}/{i}.wav" for i in range(count)]
    return datasets.Dataset.from_dict(
        {
            "id": names,
            "group": [name.partition("/")[0] for name in names],
            "duration": [1.0] * count,
            "audio": [{"bytes": str(i).encode(), "path": None} for i in range(count)],
            "text": [f"truth {i}" for i in range(count)],
            "raw_text": [f"truth {i}" for i in range(count)],
        }
    )


def test_the_truth_is_plain_text_where_it_is_known():
    rows = corpus(10).remove_columns(["text", "raw_text"])
    rows = rows.add_column("text", ["it's"] * 5 + [""] * 5).add_column("raw_text", ["it\u2019s"] * 5 + [None] * 5)
    found = make_samples(rows, ["x"] * 10, Gold(["x"] * 10, ["stt"] * 10), GoldArguments())
    assert [row.truth for row in found] == ["it's"] * 5 + [None] * 5


def samples(args: GoldArguments, count: int = 20) -> list[Sample]:
    texts = [f"text {i}" for i in range(count)]
    return make_samples(corpus(count), texts, Gold(texts, ["stt"] * count), args)


def test_a_share_of_each_condition_is_held_out_and_another_seed_holds_out_others():
    held_out = {
        seed: {row.id for row in samples(GoldArguments(eval_ratio=0.3, split_seed=seed)) if row.held_out}
        for seed in (1, 2)
    }
    assert [sum(name.startswith(condition) for name in held_out[1]) for condition in ("clean", "noisy")] == [3, 3]
    assert held_out[1] != held_out[2]
    assert held_out[1] == {row.id for row in samples(GoldArguments(eval_ratio=0.3, split_seed=1)) if row.held_out}
    assert not any(row.held_out for row in samples(GoldArguments(evaluate_on_train=True)))


def test_one_utterance_in_both_conditions_or_under_two_names_is_never_trained_on_and_judged():
    rows = corpus()
    names = [f"{condition}/{i}.wav" for condition in ("clean", "noisy") for i in range(10)]
    texts = [""] * len(names)

    def held_out(ids: list[str], audio: list[dict], seed: int) -> dict[str, bool]:
        changed = rows.remove_columns(["id", "audio"]).add_column("id", ids).add_column("audio", audio)
        found = make_samples(changed, texts, Gold(texts, texts), GoldArguments(split_seed=seed))
        return {row.id: row.held_out for row in found}

    copied = [rows[0]["audio"], *rows["audio"][:-1]]
    for seed in range(10):
        found = held_out(names, rows["audio"][:], seed)
        assert all(found[f"clean/{i}.wav"] == found[f"noisy/{i}.wav"] for i in range(10)) and sum(found.values()) == 6
        found = held_out(rows["id"][:], copied, seed)
        assert found["clean/0.wav"] == found["clean/1.wav"]


def test_one_recording_cannot_be_divided():
    with pytest.raises(UserError, match="1 recordings are too few"):
        samples(GoldArguments(), count=1)


ROWS = [  # heard, gold, source, held out, seconds
    ("wrong", "i red", "i read", "corrected", False, 1),
    ("right", "i read", "I read.", "unchanged", False, 1),
    ("refused", "i red", "i red", "too much added: 12", False, 1),
    ("judged", "i red", "i read", "corrected", True, 1),
    ("silent", "", "", "nothing heard", False, 1),
    ("long", "i red", "i read", "corrected", False, 31),
]


def judged() -> list[Sample]:
    return [
        Sample(name, "clean", seconds, heard, text, source, None, held_out)
        for name, heard, text, source, held_out, seconds in ROWS
    ]


@pytest.mark.parametrize(
    ("train_on", "chosen"), [("errors", ["wrong"]), ("agreed", ["right"]), ("all", ["wrong", "right", "refused"])]
)
def test_what_is_trained_on_is_never_judged(train_on, chosen, caplog):
    assert [row.id for row in choose_for_training(judged(), train_on, 30)] == chosen
    assert ("longer than 30 s" in caplog.text) == (train_on != "agreed")
    assert ("no word in their gold" in caplog.text) == (train_on == "all")


def test_nothing_to_train_on_is_told():
    with pytest.raises(UserError, match="0 of 1 recordings have errors against the gold, and --train_on is errors"):
        choose_for_training(judged()[1:2], "errors", 30)
    with pytest.raises(UserError, match="give --train_on all"):
        GoldArguments(gold="stt")
    with pytest.raises(UserError, match=r"--eval_ratio must lie in \(0, 1\), got 1.0"):
        parse(GoldArguments, eval_ratio=1.0)


def test_training_rows_have_the_gold_for_text():
    rows = training_rows(
        corpus(4), [row for row in samples(GoldArguments(), 4) if row.id in ("clean/1.wav", "noisy/2.wav")]
    )
    assert list(zip(rows["id"], rows["text"], strict=True)) == [("clean/1.wav", "text 1"), ("noisy/2.wav", "text 2")]


def test_doubtful_gold_counts_less():
    rows = samples(GoldArguments(), 4)
    for row, wrong in zip(rows, (0.5, None, 0.0, 1.4), strict=True):
        row.estimated_wer = wrong
    assert training_rows(corpus(4), rows, weigh=True)[WEIGHT] == pytest.approx([0.8, 1.6, 1.6, 0.0])
    assert WEIGHT not in training_rows(corpus(4), rows).column_names
    with pytest.raises(UserError, match="--weigh_gold needs an estimate of the WER: also give --recognisers"):
        GoldArguments(gold="llm", weigh_gold=True)


def find(work: Path, heard: list[str], **options) -> Gold:
    run_stage(work / "baseline", lambda folder: {}, config={}, resume=True)
    args = {"gold": "llm", "train_on": "all"} | options
    llm = CorrectionArguments(llm_model=str(work))
    corrections = Corrections(llm, tiny_ctc_processor(), work / "gold", inputs=[work / "baseline"], resume=True)
    voters = Voters([Heard(text) for text in heard], [[text] for text in heard])
    return find_gold(GoldArguments(**args), corpus(len(heard)), voters, corrections)


def test_gold_of_every_source(tmp_path, monkeypatch):
    corrector, asked = scripted_corrector(
        tmp_path / "llm", lambda text: {"i red": "I read.", "poem": "Roses are red."}.get(text, text)
    )
    monkeypatch.setattr(gold, "load_corrector", lambda args, alphabet: corrector)
    heard = ["I RED", "THE CAT", "POEM", ""]
    assert find(tmp_path, heard, gold="manifest").texts == [f"truth {i}" for i in range(4)]
    assert find(tmp_path, heard, gold="stt").texts == heard
    found = find(tmp_path, heard)
    assert found.texts == ["I READ", "THE CAT", "POEM", ""]
    assert found.sources[:2] == ["corrected", "unchanged"] and found.corrections["rejected"] == 2
    times = len(asked)
    assert find(tmp_path, heard) == found and len(asked) == times  # not loaded, let alone asked


def test_the_llm_sees_all_recognisers_with_their_doubts():
    texts = [("the cat sat on a mat", [0.9, 0.8, 0.9, 0.9, 0.9, 0.2]), ("the cat sat on a hat", None), ("a cat", None)]
    heard = [
        Heard(text, told and [Word(word, sure) for word, sure in zip(text.split(), told, strict=True)])
        for text, told in texts
    ]
    vote = combine([[*heard, heard[1]], [Heard("so it is")] * 4, [Heard("")] * 4])
    guesses, same, nothing = guesses_of_all(vote, [[*heard, heard[1]], [Heard("so it is")] * 4, [Heard("")] * 4], 0.8)
    assert [guess.text for guess in guesses][0] == vote.texts[0]
    assert sorted(guess.text for guess in guesses) == sorted({vote.texts[0], *(text for text, _ in texts)})
    assert all(told is None or told <= 0.8 for guess in guesses for told in guess.confidences)
    unsure = next(guess for guess in guesses if guess.text == heard[0].text)
    assert unsure.confidences[-1] < 0.8 and unsure.confidences[2] is None
    assert [guess.text for guess in same] == ["so it is"] and [guess.text for guess in nothing] == [""]


def test_an_llm_that_cannot_be_loaded_ends_with_status_1(tmp_path):
    with pytest.raises(SystemExit) as stop:
        find(tmp_path / "models", ["I RED"])
    assert (
        "cannot be loaded" in stop.value.code and "check_llm.py" in stop.value.code and "--gold stt" in stop.value.code
    )


def test_the_label_says_what_the_gold_is():
    labels = [GoldArguments(gold=name, train_on="all").label("smol") for name in ("llm", "manifest", "stt")]
    assert "as smol corrects it; that favours the recogniser" in labels[0] and "manifest" in labels[1]
    assert "OWN TEXT, uncorrected" in labels[2]
