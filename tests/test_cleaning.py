"""Caption cleaning: a case for each rule, and captions that are meant to break it."""

import sys

import pytest

from ddjax.data import cleaning
from ddjax.runtime.errors import UserError

CASES = {
    "a plus is a space": ("red+fox%21", "red fox!"),
    "lower case, no space around": ("  A Red FOX ", "a red fox"),
    "a person": ("<person> with a dog", "person with a dog"),
    "an address": ("fox https://example.com/a-b photo", "fox photo"),
    "an address that begins with www:": ("fox www:/x here", "fox x here"),
    "an address without scheme": ("fox at example.org/x today", "fox at today"),
    "mark-up": ("a <b>red</b> fox<br>", "a red fox"),
    "a mention": ("fox by @anna_1 here", "fox by here"),
    "CJK": ("fox 狐狸 here", "fox here"),
    "dashes": ("a fox — red – small", "a fox - red - small"),
    "curly quotes": ("the “fox” isn’t here", "the \"fox\" isn't here"),
    "other quotes": ("the «fox» is `here` now", 'the "fox" is "here" now'),
    "mojibake": ("fox â€¦ here", "fox … here"),
    "an escaped quote": ("a &amp;quot;fox&amp;quot; here", "a fox here"),
    "an escaped ampersand": ("salt &amp;amp; pepper", "salt ; pepper"),
    "an IPv4": ("fox 10.0.0.1 here", "fox here"),
    "a time at the end": ("fox 4:56 https://a.com/b", "fox"),
    "an escaped line end": (r"fox\nhere", "fox here"),
    "a small number of an article": ("fox #12 here", "fox here"),
    "a large number of an article": ("fox #12345 here", "fox here"),
    "a long number": ("fox 123456 here", "fox here"),
    "a name of a file": ("fox img_2.jpg here", "fox here"),
    "repeated quotes": ('the ""fox"" here', 'the "fox" here'),
    "repeated dots": ("fox... here", "fox here"),
    "bad punctuation": ("fox (red) [x] * here", "fox red x here"),
    "a lone dot": ("fox . here", "fox here"),
    "words that are joined": ("a_red_fox_in_snow", "a red fox in snow"),
    "words that are hyphened": ("a well-known fox", "a well-known fox"),
    "ligatures and full width": ("a ﬁne ｆｏｘ", "a fine fox"),
    "what is escaped twice": ("fox &amp;lt; here", "fox lt; here"),
    "a code of letters and numbers": ("fox ab1234 here", "fox here"),
    "a code of letters around a number": ("fox a1b here", "fox here"),
    "a code of numbers around a letter": ("fox 1a2 here", "fox here"),
    "a longer code": ("fox a1b2c here", "fox here"),
    "shipping": ("fox worldwide free shipping here", "fox here"),
    "a download": ("fox free download here", "fox here"),
    "a click": ("fox click here", "fox click here"),
    "a click on something": ("fox click for more here", "fox here"),
    "types of files": ("fox png images here", "fox here"),
    "a page": ("fox page 3 here", "fox here"),
    "a size": ("fox 100×200 here", "fox here"),
    "spaces around a colon": ("fox : red", "fox: red"),
    "no space behind a comma": ("fox,red,small", "fox, red, small"),
    "quotes around all": ('"a red fox"', "a red fox"),
    "punctuation at the ends": ("-a red fox:", "a red fox"),
    "what the second time takes away": ('-"a fox"-', "a fox"),
    "punctuation behind a space stays": ("ab123 -:foo", ":foo"),
    "a lone word behind a dot": (".fox", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_rules(name):
    text, wanted = CASES[name]
    assert cleaning.cleaner("llamagen")(text) == wanted


@pytest.mark.parametrize("text", [
    "", " ", "\n\t", "'", '"', "🦊" * 300, "ثعلب أحمر في الثلج", "<" * 5000, "&" * 5000,
    "a" * 100_000,
    "a-" * 5000, "\x00\x01", "<script>alert(1)</script>", "%ff%fe", "＜ｂ＞", "a.b" * 3000,
    "<![foo[ x", "((((((((((" * 500, "[x](http://a.com)", "\ud7ff\u202e", "1:23" * 100, "#" * 1000,
])
def test_hostile_captions_become_text(text):
    cleaned = cleaning.cleaner("llamagen")(text)
    assert isinstance(cleaned, str) and cleaned == cleaned.strip()


def test_other_ways():
    assert cleaning.cleaner("lower")("  A+Fox <b> ") == "a+fox <b>"
    assert cleaning.cleaner("none")("  A+Fox ") == "  A+Fox "


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UserError, match=r"text\.clean: got llamagen, .*needs ftfy.*\[text\]"):
        cleaning.cleaner("llamagen")
    assert cleaning.cleaner("lower")("A") == "a"
