"""Transcripts as word processors, web pages, subtitle files and recognisers write them."""

import pytest

from hf_components.scoring import utterance_errors
from hf_components.speech.plain_text import has_words, plain_text

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "text, plain",
    [
        ("I don\u2019t", "I don't"),
        ("we won\u2018t", "we won't"),
        ("it\u02bcs", "it's"),
        ("it\uff07s", "it's"),
        ("it\u00b4s, it`s, it\u2032s", "it's, it's, it's"),
        ("the dogs\u2019 house, \u2019cause", "the dogs' house, 'cause"),
        ("I don\u00e2\u20ac\u2122t", "I don't"),
        ("it&#39;s, it&rsquo;s, it&#x2019;s, it&amp;#39;s", "it's, it's, it's, it's"),
        ("she said \u2018I don\u2019t\u2019 twice", 'she said "I don\'t" twice'),
        ("AT&amp;T &quot;now&quot;&nbsp;here", 'AT&T "now" here'),
        ("R&D; Q&A &unknown; & co", "R&D; Q&A &unknown; & co"),
        ("a\u00adb x\u200by \ufeffz \u202ew\u202c \u2060v", "ab xy z w v"),
        ("red\u2028green\u0085blue\x0bgrey\x1cpink", "red green blue grey pink"),
        ("a\x00b\x1b\x7f", "ab"),
        ("a\u00a0b\u3000c\u2009d\u3164e", "a b c d e"),
        ("cafe\u0301 nai\u0308ve", "caf\u00e9 na\u00efve"),
        ("<|startoftranscript|><|en|> hello<|endoftext|>", "hello"),
        ("hello <|0.00|> there <|im_end|>", "hello there"),
        ("<i>Hello</i>, <b>w</b>orld<br/>again<p>", "Hello, world again"),
        ('<font color="#ff0">hi</font> <v.loud Bob>there</v> &lt;i&gt;you', "hi there you"),
        ("a <bold> b<c", "a <bold> b<c"),
        ("5\u2032 10, f<|b, a < b | c > d", "5\u2032 10, f<|b, a < b | c > d"),
        ("<| I love |> you", "<| I love |> you"),
        ("\u2018", "\u2018"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\u0915\u094d\u200d\u0937 a\u200db", "\u0915\u094d\u200d\u0937 ab"),
        ("\u2764\ufe0f love", "\u2764 love"),
        ("Plain text, 'quoted' -- it's  5.30!", "Plain text, 'quoted' -- it's 5.30!"),
    ],
)
def test_plain_text(text, plain):
    assert plain_text(text) == plain
    assert plain_text(plain) == plain


@pytest.mark.parametrize("said", ["I don't know", "it's here", "we won't", "they'd've gone", "o'clock, y'all"])
@pytest.mark.parametrize("apostrophe", ["\u2019", "\u2018", "\u02bc", "&#39;", "&apos;", "\u00b4", "'\u200b"])
def test_a_perfect_transcript_has_no_errors(said, apostrophe):
    reference = plain_text(said.replace("'", apostrophe))
    assert utterance_errors([said], [reference])["errors"].tolist() == [0]


@pytest.mark.parametrize(
    "text", ["\u2026", "\u266a", "-- !", "\u200b", "\u3164", "\U0001f600", "<|nospeech|>", "&nbsp;"]
)
def test_a_text_without_a_word(text):
    assert not has_words(plain_text(text))


@pytest.mark.parametrize("text", ["a", "5", "\u4f60", "\u0939\u093f", "\u0e01"])
def test_a_letter_or_a_digit_is_a_word(text):
    assert has_words(text)
