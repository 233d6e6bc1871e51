"""Options of the text modality, and its `Preprocessor`: strings to padded token ids."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from mmssl import modality as base
from mmssl.errors import BadSample, UserError
from mmssl.modality import Inputs, with_present
from mmssl.modality.looked import Looked
from mmssl.modality.table import Table, joined

from .options import Config
from .tokenizers import MODEL_FILE, NO_WORD, Pretrained, SentencePiece, Tokenizer, Tokens

NOTHING = Tokens([], [], [])
logger = logging.getLogger("mmssl")
FAR_LONGER = 2.5
"""How many times more words a column has than others that it is chosen among."""
ROUND_UP_TO = 8  # lengths are multiples of it: fewer shapes, and what matrix units like


class Preprocessor(base.Preprocessor[Tokens]):
    """Texts to token ids.

    {"input_ids", "attention_mask", "word_ids": (B, N) int64, "special_tokens_mask": the same, where the tokenizer adds
    special tokens, "present": (B,) bool, left out when all are}. N is the longest text's length rounded up to a
    multiple of 8, at most max_length.
    """

    reads_beside = (".txt",)
    noun = "text"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._tokenizer: Tokenizer | None = None

    def value(self, path: str) -> str:
        """The text of a file."""
        return Path(path).read_text(encoding="utf-8-sig", errors="replace").strip()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded at first use. Raises UserError when it is to be trained and is not yet."""
        return self._load() if self._tokenizer is None else self._tokenizer

    def _load(self) -> Tokenizer:
        if self.config.tokenizer is None:
            raise UserError("the text preprocessor has no tokenizer yet: call fit(samples), or set tokenizer")
        tokenizer = Pretrained(self.config.tokenizer, self.config.special_tokens)
        self._keep(tokenizer, tokenizer.file_names())
        return tokenizer

    def _keep(self, tokenizer: Tokenizer, files: list[str]) -> None:
        self._tokenizer = tokenizer
        self.state = {"vocab_size": tokenizer.vocab_size, "files": files}

    def default_columns(self, table: Table) -> str | None:
        """The column of running text; of several the one with by far the longest texts; else the only one of words.

        Raises UserError where several are about as long.
        """
        free = [column for column in table.free() if column.is_running_text]
        free = free or [column for column in table.free() if column.texts is not None and column.identifier is None]
        free.sort(key=lambda column: -column.words)
        if len(free) > 1 and free[0].words < FAR_LONGER * free[1].words:
            raise UserError(f"several columns may hold text: {joined([column.name for column in free])}")
        return free[0].name if free else None

    def fit(self, samples: Iterable[object]) -> Self:
        """Load the configured tokenizer, or train one on all texts (of a list of captions: on each).

        Raises:
            UserError: the tokenizer cannot be loaded, or no sample has any text to train one on.
        """
        if self.config.tokenizer is not None:
            self._load()
            return self
        texts = [text for variants in self.readable(samples, self._variants) for text in variants]
        if not texts:
            raise UserError("no sample has any text to train a tokenizer on; map the right column to this modality")
        config = self.config
        model = SentencePiece.train(texts, config.vocab_size, config.model_type, config.special_tokens)
        self._keep(model, [MODEL_FILE])
        if config.vocab_size is None:
            logger.warning(
                "a vocabulary of %d pieces was trained on %d texts (modalities.text.vocab_size says another size)",
                model.vocab_size,
                len(texts),
            )
        return self

    def _variants(self, raw: object) -> list[str]:
        """The texts of one raw value that are not blank. Raises BadSample for what is no text."""
        if isinstance(raw, Mapping):  # several columns: as many variants
            raw = [text for value in raw.values() for text in (value if isinstance(value, list) else [value])]
        texts: list[str] = []
        for value in raw if isinstance(raw, (list, tuple)) else [raw]:
            if value is not None and not isinstance(value, str):
                raise BadSample(f"expected text or a list of texts, found {type(value).__name__}")
            if value and value.strip():
                texts.append(value.lower() if self.config.lowercase else value)
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise BadSample(f"text is not valid Unicode: {error.reason}") from error
        return texts

    def read(self, raw: object, choice: int = 0) -> Tokens | None:
        """One text to its tokens.

        Args:
            raw: a string, a list of strings (captions), or a mapping of several columns of these.
            choice: picks one of several texts.

        Returns:
            None for null and for blank texts.

        Raises:
            BadSample: what is no text, and text without any token.
        """
        texts = self._variants(raw)
        if not texts:
            return None
        # of one text nothing is drawn: it may be kept (`mmssl.data.memory`)
        text = texts[0] if len(texts) == 1 else texts[choice % len(texts)]
        tokens = self.tokenizer(text, self.config.max_length)
        if all(tokens.special):  # also without any token: nothing but characters that the tokenizer drops
            raise BadSample("text has no tokens but special ones")
        return tokens

    def look(self, raw: object) -> Looked | None:
        """Words and characters, of several texts of the first."""
        texts = self._variants(raw)
        if not texts:
            return None
        sizes = {"words": float(len(texts[0].split())), "characters": float(len(texts[0]))}
        return Looked(sizes, text=texts[0])

    def variants(self, raw: object) -> int:
        """How many texts there are to choose among; 1 where there is none, or something else."""
        try:
            return max(len(self._variants(raw)), 1)
        except BadSample:
            return 1

    def collate(self, samples: Sequence[Tokens | None]) -> Inputs:
        """What `read` returned (None = absent) to padded ids."""
        longest = max((len(tokens.ids) for tokens in samples if tokens is not None), default=1)
        length = min(-(-longest // ROUND_UP_TO) * ROUND_UP_TO, self.config.max_length)
        filled = self.config.attend_padding  # then padding is seen like a token, and is no word
        if filled:
            length = self.config.max_length
        there = [NOTHING if tokens is None else tokens for tokens in samples]

        def padded(rows: Iterable[list[int]], value: int) -> Tensor:
            """(B, N) int64, by one conversion: one a row would take longer than the tokenization."""
            return torch.from_numpy(np.array([row + [value] * (length - len(row)) for row in rows], dtype=np.int64))

        ids = padded((tokens.ids for tokens in there), self.tokenizer.pad)
        mask = padded(([1] * (length if filled and tokens is not NOTHING else len(tokens.ids)) for tokens in there), 0)
        words = padded((tokens.words for tokens in there), NO_WORD if filled else 0)
        inputs = {"input_ids": ids, "attention_mask": mask, "word_ids": words}
        if self.config.special_tokens or filled:
            special = (list(map(int, tokens.special)) for tokens in there)
            inputs["special_tokens_mask"] = padded(special, int(filled))
        return with_present(inputs, samples)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Ids as people read them: a space where a word begins."""
        return self.tokenizer.pieces(ids)

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        return {
            "vocab_size": self.tokenizer.vocab_size,
            "max_length": self.config.max_length,
            "positions": self.config.positions,
        }

    def save_files(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.tokenizer.save(folder)

    def load_files(self, folder: Path) -> None:
        """Read the tokenizer."""
        if self.config.tokenizer is None:
            self._tokenizer = SentencePiece.load(folder, self.config.special_tokens)
        else:
            self._tokenizer = Pretrained(folder, self.config.special_tokens)

    def restore(self, state: dict[str, object], folder: Path | None) -> None:
        """As `base.Preprocessor.restore`; a tokenizer comes with the model's files alone, never from where it once was.

        Raises UserError when the model lists no files.
        """
        if folder is None:
            raise UserError("found no files of its tokenizer, expected those that were saved with it")
        super().restore(state, folder)

    def files(self) -> list[str]:
        """Names of the tokenizer's files."""
        if not self.state and self.config.tokenizer is not None:
            self._load()  # to learn what it writes
        return list(self.state.get("files", []))
