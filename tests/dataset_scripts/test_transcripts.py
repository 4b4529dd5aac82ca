import random
import re

import pytest

from dataset_scripts.transcripts import clean_transcript, count_unintelligible

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "raw, keep, drop, unintelligible",
    [
        ("Set a  timer,\n please.", "Set a timer, please.", "Set a timer, please.", 0),
        ("hello [cough] world", "hello world", "hello world", 0),
        ("[background noise]", "", "", 0),
        ("{w:3} went {w:1} home", "went home", "went home", 4),
        ("{u: maybe} then { } and {}", "then and", "then and", 3),
        ("{cs: hola amigo} he said", "hola amigo he said", "hola amigo he said", 0),
        ("(um) I (I) went", "um I I went", "I went", 0),
        ("{g: yes (uh [laughs] no) {w:2} ok}", "yes uh no ok", "yes ok", 2),
        ("Well [sigh], there [noise].", "Well, there.", "Well, there.", 0),
        ("(uh), hello", "uh, hello", "hello", 0),
        ("wait, [x], go", "wait, go", "wait, go", 0),
        ("at {5:30 sharp}", "at 5:30 sharp", "at 5:30 sharp", 0),
        ("...", "", "", 0),
        ("", "", "", 0),
        ("bonjour , madame !", "bonjour , madame !", "bonjour , madame !", 0),
        ("नमस्ते [x] दुनिया", "नमस्ते दुनिया", "नमस्ते दुनिया", 0),
        ("(cs: Go ahead.) What time is it?", "Go ahead. What time is it?", "Go ahead. What time is it?", 0),
        ("Call the shop. (ss: Hope it is open)", *["Call the shop. Hope it is open"] * 2, 0),
        ("My name is ~J ~O from ~NPR.", *["My name is J O from NPR."] * 2, 0),
        ("(f-*) Find my phone.", "f- Find my phone.", "Find my phone.", 0),
        ("find--* my (pho---*) phone", "find- my pho- phone", "find- my phone", 0),
        ("#dis\nTurn on the light.", *["Turn on the light."] * 2, 0),
        ("#DIS\r\n(SS: I like ~t~v.) (um, wor*) yes", "I like tv. um, wor yes", "I like tv. yes", 0),
        ("(cs: what (um) is {w:2}) that", "what um is that", "what is that", 2),
        ("about ~5, f*** and 3*4 #dis", *["about ~5, f*** and 3*4 #dis"] * 2, 0),
        ("(cs: open", "open", "open", 0),
        ("#dis", "", "", 0),
    ],
)
def test_markup(raw, keep, drop, unintelligible):
    assert clean_transcript(raw) == keep
    assert clean_transcript(raw, "drop") == drop
    assert count_unintelligible(raw) == unintelligible


@pytest.mark.parametrize(
    "raw, text",
    [
        ("I (uh went home", "I uh went home"),
        ("I uh) went home", "I uh went home"),
        ("[a b", "a b"),
        ("a ] b } c", "a b c"),
        ("{g: a b", "a b"),
        ("{w:3 a b", "a b"),
        ("(a [b) c", "a b c"),
    ],
)
def test_a_bracket_without_partner_costs_no_word(raw, text):
    assert clean_transcript(raw) == text


def test_any_nesting_is_survived_and_words_outside_of_marks_stay():
    assert clean_transcript("(" * 20_000 + "word") == "word"
    generator = random.Random(0)
    for _ in range(300):
        raw = "".join(generator.choice(["[", "]", "{", "}", "(", ")", "{w:2}", " ", "a:"]) for _ in range(20))
        for disfluencies in ("keep", "drop"):
            text = clean_transcript(f"first {raw} ", disfluencies)
            assert not re.search(r"[\[\]{}()]", text)
            assert text.startswith("first")
