"""The two kinds of tokenizer behind one face: strings to `Tokens`.

`Pretrained` is any tokenizer of transformers; `SentencePiece` is trained on the user's corpus (Kudo and Richardson
2018) and needs the package `sentencepiece` alone.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

from mmssl.errors import UserError, one_line

PAD, UNK, BEGIN, END = 0, 1, 2, 3  # of a SentencePiece model trained here; the last two with special tokens only
MODEL_FILE = "spiece.model"
WORD_MARK = "\u2581"  # SentencePiece's sign for "a word begins here"
BYTE_MARK = "\u0120"  # the same of byte-level BPE (GPT-2, RoBERTa)
LONGEST_SENTENCE = 4000  # bytes; SentencePiece's trainer skips what is longer than 4,192
NO_WORD = -1
PIECES = 4000
"""Of a vocabulary whose size nobody says, at most, but where there are more characters."""


@dataclass(frozen=True)
class Tokens:
    """One text.

    Attributes:
        ids: of its tokens.
        words: each token's word number, -1 for special tokens.
        special: which tokens are special.
    """

    ids: list[int]
    words: list[int]
    special: list[bool]


class Tokenizer(Protocol):
    """What both kinds are: `vocab_size` counts ids, `pad` is the id that fills up."""

    vocab_size: int
    pad: int

    def __call__(self, text: str, max_length: int) -> Tokens:
        """Tokens of a text, at most `max_length` of them."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Ids as text, a space where a word begins."""

    def save(self, folder: Path) -> list[str]:
        """Write into `folder`; the names of the files."""


# ----------------------------------------------------------------------------------------------------- SentencePiece


class SentencePiece:
    """A SentencePiece model. A word starts at every piece that begins with the word mark.

    special_tokens: the model was trained with a token for the beginning and one for the end; they are put around.
    """

    pad = PAD

    def __init__(self, model: bytes, special_tokens: bool = False) -> None:
        self.special_tokens = special_tokens
        self.processor = _sentencepiece().SentencePieceProcessor(model_proto=model)
        self.vocab_size = int(self.processor.vocab_size())

    @classmethod
    def load(cls, folder: Path, special_tokens: bool = False) -> SentencePiece:
        """The model that `save` wrote; UserError where it cannot be read."""
        path = folder / MODEL_FILE
        try:
            return cls(path.read_bytes(), special_tokens)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: not a readable SentencePiece model ({error})") from error

    @classmethod
    def train(
        cls, texts: Sequence[str], vocab_size: int | None, model_type: str, special_tokens: bool = False
    ) -> SentencePiece:
        """A model of the corpus, the same for the same texts.

        Characters outside the vocabulary fall back to bytes, so that no text has unknown tokens.

        Args:
            texts: the corpus.
            vocab_size: pieces at most; fewer when the corpus has not enough. None: `PIECES`, more where the corpus has
                more characters than that.
            model_type: "bpe", "unigram", "word" or "char".
            special_tokens: with tokens for the beginning and the end.

        Raises:
            UserError: the vocabulary is too small for the corpus, or SentencePiece fails.
        """
        trainer = _sentencepiece().SentencePieceTrainer
        model = io.BytesIO()
        options = {
            "vocab_size": PIECES if vocab_size is None else vocab_size,
            "model_type": model_type,
            "byte_fallback": True,
            "hard_vocab_limit": False,
            "pad_id": PAD,
            "unk_id": UNK,
            "bos_id": BEGIN if special_tokens else -1,
            "eos_id": END if special_tokens else -1,
            "num_threads": 1,  # with several the pieces depend on which one is ready first
            "shuffle_input_sentence": False,
            "minloglevel": 2,
        }
        try:
            trainer.train(sentence_iterator=_sentences(texts), model_writer=model, **options)
        except RuntimeError as error:
            reason = one_line(error)
            needed = re.search(r"smaller than required_chars\. \d+ vs (\d+)", reason)
            if needed and vocab_size is None:
                return cls.train(texts, int(needed[1]) + PIECES // 4, model_type, special_tokens)
            if needed:
                raise UserError(
                    f"vocab_size: found {vocab_size}, this corpus needs at least {needed[1]} (characters, bytes); null "
                    "takes as many as it has"
                ) from error
            raise UserError(f"SentencePiece could not be trained: {reason}") from error
        return cls(model.getvalue(), special_tokens)

    def __call__(self, text: str, max_length: int) -> Tokens:
        if self.special_tokens:
            inner = self._plain(text, max(max_length - 2, 0))
            ids = [BEGIN, *inner.ids, END][:max_length]
            words = [NO_WORD, *inner.words, NO_WORD][:max_length]
            return Tokens(ids, words, [word == NO_WORD for word in words])
        return self._plain(text, max_length)

    def _plain(self, text: str, max_length: int) -> Tokens:
        ids = self.processor.encode(text, out_type=int)[:max_length]
        words, word = [], -1
        for piece in self.processor.id_to_piece(ids):
            word += word < 0 or piece.startswith(WORD_MARK)
            words.append(word)
        return Tokens(ids, words, [False] * len(ids))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Ids as text; those outside the vocabulary as a sign for that."""
        known = [min(max(int(number), 0), self.vocab_size - 1) for number in ids]
        return [piece.replace(WORD_MARK, " ") for piece in self.processor.id_to_piece(known)]

    def save(self, folder: Path) -> list[str]:
        """Write the model into `folder`; the name of its file."""
        (folder / MODEL_FILE).write_bytes(self.processor.serialized_model_proto())
        return [MODEL_FILE]


def _sentencepiece() -> ModuleType:
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            f"training a tokenizer needs sentencepiece, which cannot be imported ({error}): "
            "pip install sentencepiece, or set tokenizer"
        ) from error
    return sentencepiece


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines of the texts, cut between words where they are longer than the trainer takes."""
    for text in texts:
        for line in text.splitlines():
            part: list[str] = []
            size = 0
            for word in line.split():
                length = len(word.encode(errors="replace")) + 1
                if part and size + length > LONGEST_SENTENCE:
                    yield " ".join(part)
                    part, size = [], 0
                part.append(word)
                size += length
            if part:
                yield " ".join(part)


# -------------------------------------------------------------------------------------------------------- pretrained


class Pretrained:
    """A tokenizer of transformers, from a folder or a Hub id. It is the same model's vocabulary, never trained here."""

    def __init__(self, source: str | Path, special_tokens: bool) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            reason = one_line(error)
            raise UserError(
                f"tokenizer: '{source}' could not be loaded, expected a folder with a tokenizer's files or a Hub id "
                f"({reason[:300]})"
            ) from error
        self.special_tokens = special_tokens
        self._cut_at: int | None = None
        # len(tokenizer) counts entries; ids may have gaps
        self.vocab_size = max(max(self.tokenizer.get_vocab().values()) + 1, len(self.tokenizer))
        self.pad = 0 if self.tokenizer.pad_token_id is None else int(self.tokenizer.pad_token_id)

    def __call__(self, text: str, max_length: int) -> Tokens:
        if self.tokenizer.is_fast:
            return self._fast(text, max_length)
        encoded = self.tokenizer(
            text,
            add_special_tokens=self.special_tokens,
            truncation=True,
            max_length=max_length,
            return_special_tokens_mask=True,
            return_attention_mask=False,
        )
        ids = list(encoded["input_ids"])
        special = [bool(s) for s in encoded["special_tokens_mask"]]
        # tokenizers in Python do not tell words: every token is its own
        words = [NO_WORD if s else n for n, s in enumerate(special)]
        return Tokens(ids, words, special)

    def _fast(self, text: str, max_length: int) -> Tokens:
        """By the tokenizer in Rust behind transformers' one: a call of the latter for a single text takes longer than
        the tokenization."""
        backend = self.tokenizer.backend_tokenizer
        if self._cut_at != max_length:  # kept in the tokenizer, as transformers does
            backend.no_padding()
            backend.enable_truncation(max_length, direction=self.tokenizer.truncation_side)
            self._cut_at = max_length
        encoding = backend.encode(text, add_special_tokens=self.special_tokens)
        words = [NO_WORD if word is None else word for word in encoding.word_ids]
        return Tokens(encoding.ids, words, [bool(s) for s in encoding.special_tokens_mask])

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Ids as text, each by itself: WordPiece's `##` joins, other vocabularies mark where a word begins."""
        found = [str(piece) for piece in self.tokenizer.convert_ids_to_tokens([int(number) for number in ids])]
        return [piece.replace(WORD_MARK, " ").replace(BYTE_MARK, " ") for piece in found]

    def save(self, folder: Path) -> list[str]:
        """Write the tokenizer's files into `folder`; their names."""
        self.tokenizer.save_pretrained(folder)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def file_names(self) -> list[str]:
        """Names of the files that `save` writes."""
        with tempfile.TemporaryDirectory() as folder:
            return self.save(Path(folder))
