"""A folder for `sentence_transformers.SentenceTransformer`: a text encoder, pooling, projection, and norm.

A text tower that looks both ways becomes an `EsmModel` (pre-norm blocks, learned positions), a causal one a
`CLIPTextModel`, a wrapped one stays what it is; an image tower with a text tower becomes a `CLIPModel`, which embeds
both. `encode` takes texts, and then pictures as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ....errors import UserError
from .. import images, pairs, texts, transfer
from ..compatibility import obstacles
from ..contract import Format
from ..exportable import Branch, Exportable
from ..job import Job, Trial
from ..needs import need
from . import clip

if TYPE_CHECKING:
    from transformers import EsmModel


TITLE = "sentence_transformers.SentenceTransformer"
REQUIRED = ("text",)
MASKED = need("modality", "attend_padding", False, why="its encoders do not look at padding")
READOUT = need(
    "tower", "readout", None, "mean", "cls", "last", why="it is read out by the mean, the first or the last token"
)
NEEDS = {
    "image": clip.NEEDS["image"],
    "text": (
        *[n for n in texts.NEEDS if n.key != "embed_norm"],
        MASKED,
        need("tower", "pooling", "mean", "last", why="it pools by the mean or the last token"),
        READOUT,
    ),
}
WRAPPED = (
    MASKED,
    need("modality", "special_tokens", True, why="stock tokenizers put special tokens around a text"),
    need("tower", "pooling", "mean", "cls", "last", why="it pools by the mean, the first or the last token"),
    READOUT,
)
BOTH_WAYS = (
    need("tower", "activation", "gelu", why="EsmModel, which expresses attention that looks both ways, has GELU"),
)
CAUSAL = (need("tower", "embed_norm", False, why="CLIPTextModel has no norm before its first block"),)
ESM_BLOCK = transfer.BlockNames(
    "attention.LayerNorm",
    ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.output.dense",
    "LayerNorm",
    ("intermediate.dense",),
    "output.dense",
)
POOLING = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
"""Our names of poolings -> those of the package."""
PAD_LIMIT = 1024
"""Largest id of padding: EsmModel numbers its positions from the one behind it."""


def check(source: Exportable) -> list[str]:
    """What depends on the other tower, on the direction of attention, and on what is wrapped."""
    text, image = source.part("text"), source.part("image") if source.parts("image") else None
    if image is not None:
        wrapped = [p for p in (image, text) if p.foreign]
        found = [
            f"model.towers.{p.tower_name}.from: it wraps a {p.wrapped}, expected a tower of mmssl's own in a pair "
            f"(or one alone, with --tower)"
            for p in wrapped
        ]
        return found or obstacles(text.values(), clip.NEEDS["text"], text.paths())
    if text.foreign:
        return _check_wrapped(text)
    both_ways = not text.options.causal
    found = obstacles(text.values(), BOTH_WAYS if both_ways else CAUSAL, text.paths())
    pad = texts.special_ids(text)["pad"]
    if both_ways and not 0 <= int(pad or 0) < PAD_LIMIT:
        found.append(
            f"modalities.{text.name}.tokenizer: its padding has the id {pad}, expected less than {PAD_LIMIT} "
            f"(EsmModel numbers its positions from there)"
        )
    return found


def _check_wrapped(text: Branch) -> list[str]:
    net: Any = text.tower.net
    encoder: Any = net["encoder"] if isinstance(net, nn.ModuleDict) else None
    if encoder is None or "projection" in net or encoder.config.model_type.endswith("_text_model"):
        return [
            f"model.towers.{text.tower_name}.from: it wraps the text half of a pair ({text.wrapped}), expected a "
            f"whole text encoder (such as BertModel)"
        ]
    return obstacles(text.values(), WRAPPED, text.paths())


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through `SentenceTransformer`, and say how to prove it."""
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    except ImportError as error:
        raise UserError(
            "format sentence-transformers needs a package that is not installed: "
            "pip install 'mmssl[sentence-transformers]'"
        ) from error
    pair = pairs.Pair.of(source)
    text = pair.text
    assert text is not None
    stock = clip.build(pair, "CLIPModel") if pair.image is not None else encoder_of(text)
    inner = source.scratch / "encoder"
    stock.save_pretrained(inner)
    texts.write_tokenizer(text, inner)
    if pair.image is not None:
        images.write_processor(pair.image, inner)
    modules: list[nn.Module] = [Transformer(str(inner))]
    if pair.image is None:
        modules.append(Pooling(text.tower.width, POOLING[text.readout]))
        if text.projection is not None:
            modules.append(_dense(Dense, text.projection))
    model = SentenceTransformer(modules=[*modules, Normalize()], device="cpu", similarity_fn_name="cosine")
    model.save(str(folder), create_model_card=False)
    texts.settle_config(folder, masked=True)
    return Job(
        "sentence_transformers",
        "",
        _probes(pair, source.scratch),
        usage=_usage(pair),
        without_pipeline="transformers' pipelines give tokens, not the embedding of a text",
        notes=[
            f"The encoder is a `{type(stock).__name__}`; embeddings are of length 1.",
            *(images.notes(pair.image) if pair.image else []),
        ],
        auto=False,
        pipeline_tag="sentence-similarity" if pair.image is None else None,
        tags=["sentence-transformers"],
    )


def encoder_of(part: Branch) -> Any:
    """A text tower as a stock encoder."""
    import transformers

    if part.foreign:
        return part.tower.net["encoder"]  # type: ignore[index]
    config = texts.text_config(part)
    if part.options.causal:
        stock: Any = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))
        clip.fill_text(part, getattr(stock, "text_model", stock))
        return stock
    first = int(config["pad_token_id"] or 0) + 1
    config["max_position_embeddings"] += first
    stock = transformers.EsmModel(
        transformers.EsmConfig(
            **config,
            position_embedding_type="absolute",
            token_dropout=False,
            emb_layer_norm_before=part.tower.embed_norm is not None,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    fill_esm(part, stock, first)
    return stock


@torch.no_grad()
def fill_esm(part: Branch, stock: EsmModel, first: int) -> None:
    """Our weights into an `EsmModel`. first: its position of the first token. Its pooler and its head, which nobody
    asks here, become zero."""
    embeddings = stock.embeddings
    embeddings.position_embeddings.weight.zero_()
    texts.tables(part, embeddings.word_embeddings.weight, embeddings.position_embeddings.weight[first:])
    if part.tower.embed_norm is not None:
        transfer.norm(part.tower.embed_norm, embeddings.layer_norm, True)
    transfer.blocks(part.tower.trunk.blocks, stock.encoder.layer, ESM_BLOCK, True)
    transfer.norm(part.tower.trunk.norm, stock.encoder.emb_layer_norm_after, True)
    assert stock.pooler is not None
    for unused in (stock.pooler, stock.contact_head):
        for parameter in unused.parameters():
            parameter.zero_()


def _dense(cls: Any, projection: nn.Linear) -> nn.Module:
    dense: nn.Module = cls(
        projection.in_features,
        projection.out_features,
        bias=False,
        activation_function=nn.Identity(),
        init_weight=projection.weight.detach().clone(),
    )
    return dense


def _probes(pair: pairs.Pair, scratch: Path) -> list[Trial]:
    """Three short texts, three longer ones, a picture where the model takes them: raw samples, as a user has them."""
    text, image = pair.text, pair.image
    assert text is not None
    found = []
    for i in range(2):
        chosen = texts.sentences(text, range(6, 12, 2) if i else range(1, 4))
        count = text.preprocessor(chosen)["input_ids"].shape[1]
        found.append(_probe(f"texts of up to {count} tokens", pair, text, chosen, chosen))
    if image is not None:
        path = scratch / "encoded.png"
        found.append(_probe("a picture", pair, image, [str(path)], [images.save_picture(image, path)]))
    return found


def _probe(name: str, pair: pairs.Pair, part: Branch, given: list[str], samples: list[Any]) -> Trial:
    def expect(dtype: torch.dtype) -> dict[str, Tensor]:
        used = part if dtype == torch.float32 else _changed(pair, part, dtype)
        return {"sentence_embedding": used.embed(used.encode(part.preprocessor(samples)))}

    return Trial(
        name,
        {},
        {"sentence_embedding": ""},
        expect,
        kwargs={"convert_to_tensor": True},
        arguments=[given],
        method="encode",
    )


def _changed(pair: pairs.Pair, part: Branch, dtype: torch.dtype) -> Branch:
    if part.foreign:
        return part.changed(dtype)
    changed = pair.changed(dtype)
    found = changed.image if part.type == "image" else changed.text
    assert found is not None
    return found


def _usage(pair: pairs.Pair) -> str:
    lines = [
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("PATH_OR_ID")',
        'texts = model.encode(["a text", "another"])',
    ]
    if pair.image is not None:
        lines += ['pictures = model.encode(["PICTURE.png"])', "print(model.similarity(texts, pictures))"]
    return "\n".join(lines)


FORMAT = Format(title=TITLE, needs=NEEDS, write=write, required=REQUIRED, wrapped=True, check=check, projects=True)
