r"""Caption cleaning, as LlamaGen's text-to-image teachers were trained with it.

Captions of the web are full of addresses, sizes, file names and mark-up. The rules and their order
are those of language/t5.py in github.com/FoundationVision/LlamaGen (which has them from
DeepFloyd's IF); a caption that is cleaned otherwise is another caption to the teacher. Captions
of more than `LONGEST` characters are cut first.
"""

import html
import importlib
import re
import urllib.parse
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from ddjax.runtime.errors import UserError

# Characters that are looked at: some ten times what an encoder reads, and few enough that no
# caption, however hostile, keeps a rule busy.
LONGEST = 4096


class Rule(NamedTuple):
    """Replace a pattern by a text.

    Attributes:
      name: of what it finds.
      pattern: regex.
      text: what stands there instead.
    """

    name: str
    pattern: str
    text: str = ""


_FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DOMAINS = "com|co|ru|net|org|edu|gov|it"

# Before mark-up is parsed.
ADDRESSES = (
    Rule("a placeholder of a person", "<person>", "person"),
    Rule("addresses", rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|[a-z0-9.\-]+\.(?:{_DOMAINS})"
                      r"[\w/-]*\b/?(?!@))"),
    Rule("addresses without scheme", rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|[a-z0-9.\-]+\."
                                     rf"(?:{_DOMAINS})[\w/-]*\b/?(?!@))"),
)
# After it, before mojibake is repaired.
CHARACTERS = (
    Rule("mentions", r"@\w+\b"),
    Rule("CJK", "[\u31c0-\u4dbf]+|[\u4dc0-\u4dff]+|[\u4e00-\u9fff]+"),
    Rule("dashes", "[\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
                   "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+", "-"),
    Rule("double quotes", "[`´«»“”¨]", '"'),
    Rule("single quotes", "[‘’]", "'"),
    Rule("escaped quotes", "&quot;?"),
    Rule("escaped ampersands", "&amp"),
    Rule("IPv4", r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    Rule("times at the end", r"\d:\d\d\s+$"),
    Rule("escaped line ends", r"\\n", " "),
    Rule("small numbers of articles", r"#\d{1,3}\b"),
    Rule("large numbers of articles", r"#\d{5,}\b"),
    Rule("long numbers", r"\b\d{6,}\b"),
    Rule("names of files", rf"\S+\.(?:{_FILES})"),
    Rule("repeated quotes", r"[\"']{2,}", '"'),
    Rule("repeated dots", r"\.{2,}", " "),
    Rule("bad punctuation", r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]{1,}", " "),
    Rule("lone dots", r"\s+\.\s+", " "),
)
# After mojibake is repaired.
WORDS = (
    Rule("codes such as ab1234", r"\b[a-zA-Z]{1,3}\d{3,15}\b"),
    Rule("codes such as a1b", r"\b[a-zA-Z]+\d+[a-zA-Z]+\b"),
    Rule("codes such as 1a2", r"\b\d+[a-zA-Z]+\d+\b"),
    Rule("shipping", r"(?:worldwide\s+)?(?:free\s+)?shipping"),
    Rule("downloads", r"(?:free\s)?download(?:\sfree)?"),
    Rule("clicks", r"\bclick\b\s(?:for|on)\s\w+"),
    Rule("types of files", rf"\b(?:{_FILES})(?:\simages?)?"),
    Rule("pages", r"\bpage\s+\d+\b"),
    Rule("longer codes", r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    Rule("sizes", r"\b\d+\.?\d*[xх×]\d+\.?\d*\b"),
    Rule("spaces around a colon", r"\b\s+:\s+", ": "),
    Rule("no space behind punctuation", r"(\D[,./])\b", r"\1 "),
    Rule("white space", r"\s+", " "),
)
ENDS = (
    Rule("quotes around all", r"^[\"']([\w\W]+)[\"']$", r"\1"),
    Rule("punctuation in front", r"^['_,\-:;]"),
    Rule("punctuation behind", r"['_,\-:+]$"),
    Rule("a lone word behind a dot", r"^\.\S+$"),
)


def cleaner(name: str) -> Callable[[str], str]:
    """The function that cleans a caption.

    Args:
      name: "llamagen"; "lower" for lower case without white space around; "none".

    Raises:
      UserError: "llamagen" without the packages that it needs.
    """
    if name == "none":
        return lambda text: text
    if name == "lower":
        return lambda text: text.lower().strip()
    bs4, ftfy = (_needed(package) for package in ("bs4", "ftfy"))

    def once(text: str) -> str:
        text = urllib.parse.unquote_plus(text[:LONGEST]).strip().lower()
        text = _replaced(_without_markup(bs4, _replaced(text, ADDRESSES)), CHARACTERS)
        if len(re.findall(r"[-_]", text)) > 3:  # words that are joined, not hyphened
            text = re.sub(r"[-_]", " ", text)
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        return _replaced(_replaced(text, WORDS), ENDS).strip()

    # The original does it twice, so that teachers know what only a second time takes away.
    return lambda text: once(once(text))


def _without_markup(bs4: Any, text: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bs4.MarkupResemblesLocatorWarning)
        try:
            return bs4.BeautifulSoup(text, features="html.parser").text
        except bs4.exceptions.ParserRejectedMarkup:
            return text


def _replaced(text: str, rules: tuple[Rule, ...]) -> str:
    for rule in rules:
        text = re.sub(rule.pattern, rule.text, text)
    return text


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(
            f"config.text.clean: got llamagen, which needs {package}, and that is not installed; "
            "pip install -e '.[text]', or say --config.text.clean=lower"
        ) from None
