"""Tokens of captions for CLIP: byte-pair encoding (BPE) of UTF-8, in lower case.

Follows the tokenizer of github.com/openai/CLIP and reads the file that comes with it,
`bpe_simple_vocab_16e6.txt.gz`. Text is repaired by ftfy, HTML unescaped, white space joined; then
it is cut into words, each byte of a word is a symbol, and pairs of symbols are merged in the order
of the file. Captions of more than `LONGEST` characters are cut first.
"""

import functools
import gzip
import html
import importlib
import itertools
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddjax.data.pieces import Tokens
from ddjax.runtime.errors import UserError

# Characters that are looked at: some ten times what CLIP reads.
LONGEST = 2048

START, END, PAD = "<|startoftext|>", "<|endoftext|>", 0

# A symbol at the end of a word is another than within.
_LAST = "</w>"
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)

# Bytes of the unpacked file: ten times the published one's.
_MOST = 2**25


def _characters() -> list[str]:
    """A printable character for each byte: itself, or one of those from 256 on in turn."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_CHARACTERS = _characters()
# Ids begin with the printable bytes, as themselves.
_ALPHABET = sorted(_CHARACTERS)


class BytePairs:
    """CLIP's vocabulary.

    Args:
      merges: pairs of symbols, the first to be merged first.

    Raises:
      UserError: ftfy or regex is not installed.
    """

    def __init__(self, merges: Iterable[tuple[str, str]]) -> None:
        self._ftfy, regex, ranked = _needed("ftfy"), _needed("regex"), list(merges)
        self._words = regex.compile(_WORDS, regex.IGNORECASE)
        symbols = [*_ALPHABET, *(symbol + _LAST for symbol in _ALPHABET), *map("".join, ranked)]
        self._ids = {symbol: i for i, symbol in enumerate([*symbols, START, END])}
        self._ranks = {pair: i for i, pair in enumerate(ranked)}
        self._of_word = functools.lru_cache(2**16)(self._word_ids)

    @classmethod
    def read(cls, path: Path, vocab_size: int) -> "BytePairs":
        """The vocabulary that came with CLIP.

        Args:
          path: its `bpe_simple_vocab_16e6.txt.gz`.
          vocab_size: rows of CLIP's embedding; the file has more merges than are used.

        Raises:
          UserError: the file is missing, damaged, or has too few merges; or as the class.
        """
        where = f"config.evaluate.clip.vocabulary: {path}"
        count = max(0, vocab_size - 2 * len(_ALPHABET) - 2)
        if not path.is_file():
            raise UserError(f"{where} is missing; give CLIP's bpe_simple_vocab_16e6.txt.gz")
        try:
            with gzip.open(path) as file:
                content = file.read(_MOST)
            lines = content.decode("utf-8").split("\n")[1 : count + 1]  # the first is a title
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise UserError(
                f"{where} is no gzipped list of merges ({error}); get it again"
            ) from None
        merges = [tuple(line.split()) for line in lines]
        wrong = next((i for i, merge in enumerate(merges) if len(merge) != 2), len(merges))
        if wrong < count:
            raise UserError(
                f"{where} has {wrong} merges, must have {count}, for the {vocab_size} tokens of "
                "the model; give the file that came with it"
            )
        return cls(merges)

    def __call__(self, texts: Sequence[str], tokens: int) -> Tokens:
        """Ids of `tokens` tokens for each text, start first; cut where it is longer, but its end.

        What stands behind the end is 0, which is a token too: `Tokens.mask_NT` tells.
        """
        ids_NT = np.full((len(texts), tokens), PAD, np.int32)
        mask_NT, cut_N = np.zeros((len(texts), tokens), bool), np.zeros(len(texts), bool)
        for row, text in enumerate(texts):
            words = self._words.findall(self.clean(text))
            found = [i for word in words for i in self._of_word(word)]
            ids = [self._ids[START], *found[: tokens - 2], self._ids[END]]
            ids_NT[row, : len(ids)], mask_NT[row, : len(ids)] = ids, True
            cut_N[row] = len(found) > tokens - 2
        return Tokens(ids_NT, mask_NT, cut_N)

    def clean(self, text: str) -> str:
        """A caption as CLIP knows it."""
        text = self._ftfy.fix_text(text[:LONGEST])
        return " ".join(html.unescape(html.unescape(text)).split()).lower()

    def _word_ids(self, word: str) -> tuple[int, ...]:
        if word in (START, END):
            return (self._ids[word],)
        symbols = [_CHARACTERS[byte] for byte in word.encode("utf-8")]
        symbols[-1] += _LAST
        return tuple(self._ids[symbol] for symbol in self._merged(symbols))

    def _merged(self, symbols: list[str]) -> list[str]:
        """Merge the pair that comes first in the file, wherever it stands, until there is none."""
        never = len(self._ranks)
        while len(symbols) > 1:
            pairs = itertools.pairwise(symbols)
            best = min(pairs, key=lambda pair: self._ranks.get(pair, never))
            if best not in self._ranks:
                break
            symbols = _joined(symbols, best)
        return symbols


def _joined(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """From left to right, each occurrence of a pair as one symbol."""
    found: list[str] = []
    rest = iter(range(len(symbols)))
    for i in rest:
        if tuple(symbols[i : i + 2]) == pair:
            found.append("".join(pair))
            next(rest)
        else:
            found.append(symbols[i])
    return found


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(
            f"config.evaluate.clip: CLIP's tokens need {package}, which is not installed; pip "
            "install -e '.[text]'"
        ) from None
