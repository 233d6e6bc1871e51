"""Which formats a model exports to, and what keeps it from the others: said before training, not after."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ...errors import UserError
from ..modeling_mmssl import MMSSLModel
from ..processing_mmssl import MMSSLProcessor
from .contract import Format
from .exportable import Exportable, refuse
from .formats import format_names, load_format

STOCK = "stock"
"""The format of wrapped towers, of no use to say where there is none."""


def export_targets(model: MMSSLModel, processor: MMSSLProcessor) -> tuple[list[str], dict[str, str]]:
    """Names of the formats that the model exports to; and of those of its modalities that it does not: name -> why.

    Weights and data are not looked at, so that it is known before training.
    """
    able: list[str] = []
    unable: dict[str, str] = {}
    kinds = set(processor.types.values())
    with tempfile.TemporaryDirectory() as scratch:
        source = Exportable(model, processor, Path(scratch), "this model")
        for name in format_names():
            chosen = load_format(name)
            if not kinds & set(chosen.needs) or not set(chosen.required) <= kinds or name == STOCK:
                continue
            try:
                refuse(source, name, chosen)
            except UserError as error:
                unable[name] = str(error).partition(": ")[2]
            else:
                able.append(name)
    return able, unable


def refuse_with_ways(source: Exportable, name: str, chosen: Format) -> None:
    """`refuse`, and what would work in its place."""
    try:
        refuse(source, name, chosen)
    except UserError as error:
        able = export_targets(source.model, source.processor)[0]
        ways = f"it exports to {', '.join(able)}" if able else "no format takes it as it is"
        raise UserError(f"{error}; {ways}") from error


def said_of_targets(model: MMSSLModel, processor: MMSSLProcessor) -> str:
    """One line: "exports to: vit, onnx; not to: clip (...)", of each of the latter the first reason."""
    able, unable = export_targets(model, processor)
    why = "; ".join(f"{name} ({reason.partition('; ')[0].partition(' (')[0]})" for name, reason in unable.items())
    return f"exports to: {', '.join(able) or 'no stock format'}" + (f"; not to: {why}" if why else "")
