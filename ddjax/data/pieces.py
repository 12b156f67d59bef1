"""Tokens of captions: SentencePiece, with the vocabulary of a T5 encoder."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddjax.runtime.errors import UserError

PAD, END = 0, 1

# T5 has 32,128 rows for 32,000 pieces and 100 sentinels.
UNUSED = 128


class Tokens(NamedTuple):
    """Token ids of captions.

    Attributes:
      ids_NT: int32, the caption first, its end, then padding.
      mask_NT: bool, which are the caption's, its end included.
      cut_N: bool, which captions were longer.
    """

    ids_NT: np.ndarray
    mask_NT: np.ndarray
    cut_N: np.ndarray


class Pieces:
    """A vocabulary of SentencePiece.

    Args:
      processor: a `sentencepiece.SentencePieceProcessor` with T5's padding and end.
    """

    def __init__(self, processor: Any) -> None:
        self._pieces = processor

    @classmethod
    def read(cls, path: Path, vocab_size: int) -> "Pieces":
        """The vocabulary that came with an encoder.

        Args:
          path: its `spiece.model`.
          vocab_size: rows of the encoder's embedding, of which the last may have no piece.

        Raises:
          UserError: sentencepiece is not installed, or the file is missing, damaged, or of another
            vocabulary.
        """
        where, sentencepiece = f"config.text.pieces: {path}", _sentencepiece()
        if not path.is_file():
            raise UserError(f"{where} is missing; give the spiece.model that came with the encoder")
        try:
            pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError, TypeError) as error:
            why = str(error).partition("\n")[0]
            raise UserError(f"{where} is no SentencePiece model ({why}); get it again") from None
        count, ends = pieces.vocab_size(), (pieces.pad_id(), pieces.eos_id())
        if not vocab_size - UNUSED <= count <= vocab_size:
            raise UserError(
                f"{where} has {count} pieces, must be at most {vocab_size}, the encoder's "
                f"vocabulary, and at most {UNUSED} less; give the spiece.model that came with it"
            )
        if ends != (PAD, END):
            raise UserError(
                f"{where} has padding {ends[0]} and end {ends[1]}, must be {PAD} and {END}, as "
                "T5's; give the spiece.model that came with the encoder"
            )
        return cls(pieces)

    @classmethod
    def trained(cls, texts: Iterable[str], vocab_size: int) -> "Pieces":
        """A vocabulary of at most `vocab_size` pieces made from these texts, always the same.

        Raises:
          UserError: sentencepiece is not installed, or the texts have more characters than that.
        """
        sentencepiece, model = _sentencepiece(), io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=model, vocab_size=vocab_size,
                hard_vocab_limit=False, model_type="bpe", pad_id=PAD, eos_id=END, unk_id=2,
                bos_id=-1, num_threads=1, minloglevel=2,
            )
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            raise UserError(
                f"config.text.pieces: no vocabulary of {vocab_size} pieces can be made from these "
                f"captions ({why}); give a spiece.model, or a larger text.model.vocab_size"
            ) from None
        return cls(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()))

    def digest(self) -> str:
        """SHA-256 of the pieces and their scores, which decide the tokens of a text."""
        count = self._pieces.vocab_size()
        rows = [(self._pieces.id_to_piece(i), self._pieces.get_score(i)) for i in range(count)]
        return hashlib.sha256(repr(rows).encode("utf-8")).hexdigest()

    def __call__(self, texts: Sequence[str], tokens: int) -> Tokens:
        """Ids of `tokens` tokens for each text, cut where it is longer; its end always stays."""
        ids_NT = np.full((len(texts), tokens), PAD, np.int32)
        mask_NT, cut_N = np.zeros((len(texts), tokens), bool), np.zeros(len(texts), bool)
        for row, found in enumerate(self._pieces.encode(list(texts))):
            ids = [*found[: tokens - 1], END]
            ids_NT[row, : len(ids)], mask_NT[row, : len(ids)] = ids, True
            cut_N[row] = len(found) > tokens - 1
        return Tokens(ids_NT, mask_NT, cut_N)


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ModuleNotFoundError:
        raise UserError(
            "config.data.captions: texts need sentencepiece, which is not installed; pip install "
            "-e '.[text]'"
        ) from None
    return sentencepiece
