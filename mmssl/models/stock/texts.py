"""What text formats share: the tokenizer as a stock one, token and position tables, test texts.

A SentencePiece model that was trained here becomes a `tokenizers` one: same pieces, same normalisation, and it is
checked to cut texts the same way before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import RunError
from . import transfer
from .exportable import Branch
from .job import Pipeline
from .needs import ADDITIVE, ATTENDS, NO_MODES, UNGATED, Need, need

if TYPE_CHECKING:
    from tokenizers.models import Model
    from tokenizers.normalizers import Normalizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


NEEDS: tuple[Need, ...] = (
    ATTENDS,
    NO_MODES,
    ADDITIVE,
    UNGATED,
    need("tower", "embed_norm", False, why="it has no norm before its first block"),
    need("tower", "final_norm", True, why="it has a norm behind its last block"),
    need("tower", "prefix", 0, why="its text encoder has no tokens of its own in front"),
    need("modality", "special_tokens", True, why="stock tokenizers put special tokens around a text"),
    Need(
        "modality",
        "model_type",
        "bpe",
        lambda v: v in ("bpe", "unigram"),
        "bpe or unigram",
        "other SentencePiece models have no stock tokenizer",
    ),
)


def text_config(part: Branch) -> dict[str, Any]:
    """Fields of a stock text configuration."""
    options = transfer.stock_options(part.options)
    tokens = special_ids(part)
    return {
        **options,
        "vocab_size": int(part.modality.vocab_size),
        "max_position_embeddings": int(part.modality.max_length),
        "bos_token_id": tokens["bos"],
        "eos_token_id": tokens["eos"],
        "pad_token_id": tokens["pad"],
    }


def special_ids(part: Branch) -> dict[str, int | None]:
    """Ids of the first and the last special token and of padding."""
    tokenizer = part.preprocessor.tokenizer  # type: ignore[attr-defined]
    ids = tokenizer("a", 8).ids
    return {"bos": ids[0], "eos": ids[-1], "pad": tokenizer.pad}


def table_of(part: Branch) -> Tensor:
    """(L, D) positions of all max_length tokens, the modality's own vector in them."""
    length = part.modality.max_length
    with torch.no_grad():
        place = torch.arange(length, dtype=torch.float32)
        coords = torch.stack([place, place], -1)[None]
        return part.modality.position(coords)[0].float() + part.type_vector()


@torch.no_grad()
def tables(part: Branch, tokens: Tensor, positions: Tensor) -> None:
    """Fill stock token and position tables from ours; our scale of the embedding goes into the table."""
    tokens.copy_(part.modality.table.weight * part.modality.scale)
    positions.copy_(table_of(part))


def inputs_of(part: Branch, texts: list[str], fill: bool = False) -> dict[str, Tensor]:
    """{"input_ids", "attention_mask"} as the stock class takes them; fill: up to max_length, as open_clip does."""
    found = part.preprocessor(texts)
    ids, mask = found["input_ids"], found["attention_mask"]
    if fill:
        more = part.modality.max_length - ids.shape[1]
        pad = part.preprocessor.tokenizer.pad  # type: ignore[attr-defined]
        ids = torch.nn.functional.pad(ids, (0, more), value=pad)
        mask = torch.nn.functional.pad(mask, (0, more))
    return {"input_ids": ids, "attention_mask": mask}


def sample_texts(part: Branch, count: int) -> list[str]:
    """Texts of various lengths out of the vocabulary's own pieces; the same for the same tokenizer."""
    return list(_texts(part, count))


def _texts(part: Branch, count: int) -> Iterator[str]:
    tokenizer = part.preprocessor.tokenizer  # type: ignore[attr-defined]
    random = np.random.default_rng(17)
    pieces = vocabulary(tokenizer)
    for i in range(count):
        chosen = random.choice(len(pieces), size=2 + i % 11)
        text = "".join(pieces[j] for j in chosen).replace("\u2581", " ").replace("##", "").strip()
        yield text or "a"


def sentences(part: Branch, counts: Iterable[int]) -> list[str]:
    """Texts of so many pieces of the vocabulary with blanks in between; the same for the same tokenizer."""
    pieces = vocabulary(part.preprocessor.tokenizer)  # type: ignore[attr-defined]
    random = np.random.default_rng(19)
    chosen = [" ".join(pieces[j] for j in random.choice(len(pieces), size=n)) for n in counts]
    return [" ".join(text.replace("\u2581", " ").replace("##", "").split()) or "a" for text in chosen]


def by_length(part: Branch) -> list[str]:
    """Texts, that of the fewest tokens first."""
    return sorted(sentences(part, range(1, 13)), key=lambda text: trimmed(part, [text])["input_ids"].shape[1])


def trimmed(part: Branch, batch: list[str]) -> dict[str, Tensor]:
    """Inputs of the stock class, padded to the longest text and no further."""
    padded = inputs_of(part, batch)
    longest = int(padded["attention_mask"].sum(1).max())
    return {key: value[:, :longest] for key, value in padded.items()}


def vocabulary(tokenizer: Any) -> list[str]:
    """Ordinary pieces: no special tokens, no bytes."""
    if hasattr(tokenizer, "processor"):
        model = tokenizer.processor
        ids = range(int(model.vocab_size()))
        return [
            model.id_to_piece(i) for i in ids if not (model.is_byte(i) or model.is_control(i) or model.is_unknown(i))
        ]
    stock = tokenizer.tokenizer
    special = set(stock.all_special_tokens)
    return sorted(piece for piece in stock.get_vocab() if piece not in special and piece.isprintable())


# --------------------------------------------------------------------------------------------------------- tokenizer


def write_tokenizer(part: Branch, folder: Path) -> PreTrainedTokenizerBase:
    """Write the tokenizer as a stock one into `folder`, and return it. RunError when it would cut texts differently."""
    from transformers import AutoTokenizer

    config: Any = part.preprocessor.config
    ours: Any = part.preprocessor.tokenizer  # type: ignore[attr-defined]
    length = int(part.modality.max_length)
    stock: PreTrainedTokenizerBase
    if hasattr(ours, "processor"):
        stock = from_sentencepiece(ours, config, length)
    else:
        stock = ours.tokenizer
        stock.model_max_length = length
    stock.save_pretrained(folder)
    settle_config(folder, masked=not config.attend_padding)
    stock = AutoTokenizer.from_pretrained(str(folder))
    for text in [*sample_texts(part, 300), "Zahl\u00e4gypt  \u4e00 \U0001f600 \tx", "A  B", "\ufb01n \u00bd", "7."]:
        if config.lowercase:
            text = text.lower()
        mine, theirs = ours(text, length).ids, stock(text, truncation=True, max_length=length)["input_ids"]
        if mine != theirs:
            raise RunError(
                f"the tokenizer cannot be written as a stock one: {text!r} is {mine[:12]} here, {theirs[:12]} there"
            )
    return stock


def settle_config(folder: Path, masked: bool) -> None:
    """Take out where a tokenizer was loaded from, which may be a path on the user's machine; masked: it tells the model
    what is padding."""
    path = folder / "tokenizer_config.json"
    found = json.loads(path.read_text())
    for key in ("name_or_path", "vocab_file", "tokenizer_file"):
        found.pop(key, None)
    found["model_input_names"] = ["input_ids", "attention_mask"] if masked else ["input_ids"]
    path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


def from_sentencepiece(ours: Any, config: Any, length: int) -> PreTrainedTokenizerFast:
    """A `PreTrainedTokenizerFast` with the pieces of a SentencePiece model."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    model = ours.processor
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(int(model.vocab_size()))]
    pad, unknown, begin, end = (pieces[i][0] for i in range(4))
    if config.model_type == "unigram":
        core: Model = models.Unigram(pieces, unk_id=1, byte_fallback=True)
    else:
        ids = {piece: i for i, (piece, _) in enumerate(pieces)}
        core = models.BPE(ids, merges(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(core)
    steps: list[Normalizer] = [normalizers.Lowercase()] if config.lowercase else []
    chars = charsmap(model.serialized_model_proto())
    steps += [normalizers.Precompiled(chars)] if chars else []
    steps += [normalizers.Replace(Regex(r" {2,}"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} $B {end}", special_tokens=[(begin, 2), (end, 3)]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (pad, unknown, begin, end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token=unknown,
        bos_token=begin,
        eos_token=end,
        model_max_length=length,
        padding_side="right",
    )


def merges(pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """The merges that a SentencePiece BPE model stands for: every piece from any two others, best score first."""
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    found = []
    for piece, score in pieces:
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [(a, b) for a, b in splits if a in ids and b in ids]
        found += [(-score, ids[a], ids[b], a, b) for a, b in pairs]
    return [(a, b) for _, _, _, a, b in sorted(found)]


def charsmap(proto: bytes) -> bytes:
    """The table of character replacements in a SentencePiece model: field 2 of its field 3 (normalizer_spec).

    Read straight from the protocol buffer's wire format, so that no further package is needed.
    """
    return _field(_field(proto, 3), 2)


def _field(message: bytes, wanted: int) -> bytes:
    """The last value of a length-delimited field; empty when there is none."""
    at, found = 0, b""
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            size, at = _varint(message, at)
            if number == wanted:
                found = message[at : at + size]
            at += size
        else:
            raise RunError("the SentencePiece model is damaged")
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def feature_pipelines(part: Branch) -> list[Pipeline]:
    """`feature-extraction` on a text, against our own processor and model."""
    text = sample_texts(part, 7)[6]
    inputs = part.preprocessor([text])
    encoded = part.encode(inputs)
    count = int(inputs["attention_mask"].sum())
    filled = bool(part.preprocessor.config.attend_padding)
    options = {"padding": "max_length", "max_length": int(part.modality.max_length)} if filled else {}
    return [
        Pipeline(
            "feature-extraction",
            text,
            part.states(encoded)[:, :count],
            options={"tokenize_kwargs": {**options, "truncation": True}},
        )
    ]
