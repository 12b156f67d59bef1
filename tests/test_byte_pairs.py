"""CLIP's tokens against the tokenizer of transformers, with a small vocabulary of the same form."""

import gzip
import json

import numpy as np
import pytest
import tokenizers
import transformers

from ddjax.data import byte_pairs
from ddjax.data.byte_pairs import BytePairs
from ddjax.runtime.errors import UserError

# What ftfy and HTML's escapes leave as it is, so that transformers, which knows neither, agrees.
TEXTS = [
    "", "a", "A red fox in the snow", "an old lighthouse at dusk, oil on canvas.", "THE the Thé",
    "don't they'll I'm we've it's he'd you're 'tis o'clock", "2026 is 1/2 of 4052; v1.5, 3d",
    "naïve café déjà vu, Ünïcödé, Ærøskøbing, straße", "a fox 🦊 and a 👩‍👩‍👧 in 🇫🇷!!! ❤️",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "日本の古い灯台", "老灯塔在黄昏", "ⅷ ½ ² ٣ 七",
    "tab\tand\nnew  line \u00a0 spaces", "___under_score___ hy-phen--dash —", "(br) [x] {y}",
    "#hashtag @user $5.00 100% a+b=c ~/path", "x" * 50, "fox " * 30, "?!?!?!...", "' '' 's 'S",
    "before <|endoftext|> after <|startoftext|>", "İstanbul ΣΑΝ",
]


@pytest.fixture(scope="module")
def merges():
    """Learnt from the texts, by the library of transformers; the end of a word is </w>."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.WhitespaceSplit(),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    model.train_from_iterator([text.lower() for text in 4 * TEXTS], trainer)
    found = json.loads(model.to_str())["model"]["merges"]
    assert len(found) > 200
    return [tuple(pair) for pair in found]


@pytest.fixture(scope="module")
def file(merges, tmp_path_factory):
    """As published: a title, more merges than the model reads, an empty line."""
    path = tmp_path_factory.mktemp("clip") / "bpe_simple_vocab_16e6.txt.gz"
    lines = ["\"bpe_simple_vocab_16e6.txt#version: 0.2", *map(" ".join, merges), "un used", ""]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.fixture(scope="module")
def original(merges):
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    symbols = [*alphabet, *(x + "</w>" for x in alphabet), *map("".join, merges),
               "<|startoftext|>", "<|endoftext|>"]
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    return transformers.CLIPTokenizer(vocab=ids, merges=merges)


def vocab_size(merges):
    return 512 + len(merges) + 2


def test_ids_are_those_of_the_original(file, merges, original):
    """Of random texts behind the cleaning, since transformers knows no ftfy."""
    pairs, rng = BytePairs.read(file, vocab_size(merges)), np.random.default_rng(0)
    words = " ".join(TEXTS).split()
    mixed = [" ".join(rng.choice(words, 6)) for _ in range(200)]
    scripts = [(33, 127), (0xC0, 0x180), (0x391, 0x3CA), (0x5D0, 0x5EB), (0x4E00, 0x4F00),
               (0x1F600, 0x1F650)]
    random = ["".join(chr(rng.integers(*scripts[rng.integers(6)])) for _ in range(15))
              for _ in range(200)]
    texts = [*TEXTS, *map(pairs.clean, mixed + random)]
    found = pairs(texts, 77)
    wanted = original(texts, truncation=True, max_length=77)["input_ids"]
    for row, text in enumerate(texts):
        ids = found.ids_NT[row][found.mask_NT[row]]
        assert ids.tolist() == wanted[row], text
    assert not found.ids_NT[~found.mask_NT].any()
    assert len(np.unique(found.ids_NT)) > 300  # many of them of merged symbols


def test_contractions_are_told_in_any_case():
    """The long s counts as an s there, so that 's ends a word; ids of bytes by hand."""
    a, apostrophe, b = (ord(x) - 33 for x in "a'b")
    wanted = [512, a + 256, apostrophe, 129, 123 + 256, b + 256, 513]  # ſ is C5 BF
    assert BytePairs([])(["a'ſb"], 7).ids_NT.tolist() == [wanted]


def test_a_long_text_is_cut_and_keeps_its_end(file, merges):
    pairs, last = BytePairs.read(file, vocab_size(merges)), vocab_size(merges) - 1
    long, exact, empty = "7 " * 100, "7 " * 6, " "
    found = pairs([long, exact, empty], 8)
    seven = pairs(["7"], 8).ids_NT[0, 1]
    np.testing.assert_array_equal(found.ids_NT[:2], [[last - 1, *[seven] * 6, last]] * 2)
    np.testing.assert_array_equal(found.ids_NT[2], [last - 1, last, *[0] * 6])
    np.testing.assert_array_equal(found.cut_N, [True, False, False])
    np.testing.assert_array_equal(found.mask_NT.sum(axis=1), [8, 8, 2])
    assert (found.ids_NT.argmax(axis=1) == [7, 7, 1]).all()  # how CLIP finds the end


@pytest.mark.parametrize(("text", "wanted"), [
    ("  Two\n\n Words\t", "two words"),
    ("fish &amp;amp; chips &lt;b&gt;", "fish & chips <b>"),  # unescaped twice
    ("schÃ¶n &eacute;", "schön é"),  # mojibake
    ("‘curly’ “quotes”", "'curly' \"quotes\""),
    ("ﬁne\u200b \x00\x1bｆｕｌｌ", "fine\u200b full"),
    ("half \ud83e a pair", "half \ufffd a pair"),
])
def test_texts_are_cleaned_as_in_the_original(text, wanted, file, merges):
    """By ftfy.fix_text, html.unescape twice, white space to one space, and lower case."""
    assert BytePairs.read(file, vocab_size(merges)).clean(text) == wanted


@pytest.mark.parametrize("text", [
    "\x00" * 5000, "&" * 5000, "&#" + "9" * 5000 + ";", "\ud800\udfff" * 10, "🦊" * 5000,
    "<" * 3000 + ">" * 3000, "\u202e" + "a" * 10000, "&lt;" * 3000, "\ufffe\uffff\U0010ffff",
])
def test_hostile_texts_become_tokens(text, file, merges):
    found = BytePairs.read(file, vocab_size(merges))([text], 77)
    assert found.ids_NT.max() == vocab_size(merges) - 1 and found.ids_NT.min() >= 0
    assert found.mask_NT[0, :2].all()


def refused(path, size, message):
    where = r"config\.evaluate\.clip\.vocabulary: "
    with pytest.raises(UserError, match=f"{where}.*{message}") as error:
        BytePairs.read(path, size)
    assert "\n" not in str(error.value)


def test_files_that_are_no_vocabulary_are_refused(file, merges, tmp_path, monkeypatch):
    size, content, path = vocab_size(merges), file.read_bytes(), tmp_path / "x.gz"
    refused(path, size, r"x\.gz is missing; give CLIP's bpe_simple_vocab_16e6\.txt\.gz")
    refused(tmp_path, size, "is missing")
    for wrong in (b"", b"a b\n" * 1000, content[: len(content) // 2], gzip.compress(b"\n\xff\xfe"),
                  content[:40] + bytes([content[40] ^ 255]) + content[41:]):
        path.write_bytes(wrong)
        refused(path, size, r"x\.gz (is no gzipped list of merges \(.*; get it|has \d+ merges)")
    path.write_bytes(gzip.compress(b"title\na b\nc d e\n" + b"f g\n" * 1000))
    refused(path, size, rf"x\.gz has 1 merges, must have {len(merges)}, for the {size} tokens of")
    refused(file, size + 2, rf"has {len(merges) + 1} merges, must have {len(merges) + 2}, for")
    monkeypatch.setattr(byte_pairs, "_MOST", 1000)  # a small file that unpacks to a large one
    refused(file, size, r"has \d+ merges, must have|is no gzipped list")


@pytest.mark.parametrize("package", ["ftfy", "regex"])
def test_missing_packages_are_named(package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=f"tokens need {package}, which is not installed; pip"):
        BytePairs([])
