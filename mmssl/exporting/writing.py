"""`mmssl export`: write a model as a stock class, prove it, describe it; the folder appears whole or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError, UserError
from ..files import whole_folder
from ..models.locating import locate
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.processing_mmssl import MMSSLProcessor
from ..models.saving import no_progress_bars
from ..models.stock.exportable import Exportable
from ..models.stock.formats import load_format
from ..models.stock.job import Job
from ..models.stock.record import write_record
from ..models.stock.targets import refuse_with_ways
from ..saying import doing
from .card import card_text
from .proof import Proof, prove


@dataclass
class Exported:
    """folder: what was written; job: how it is loaded; proof: what was measured."""

    format: str
    folder: Path
    job: Job
    proof: Proof


def export_model(
    model: str | Path | tuple[MMSSLModel, MMSSLProcessor],
    to: str,
    output: str | Path,
    tower: str | None = None,
    base: str | None = None,
) -> Exported:
    """Write a model (any MODEL, or model and processor) as the stock class of format `to` into `output`.

    tower: which one, where several would do. base: the model that an adapter belongs on, where it has moved; the two
    are merged. UserError when the format cannot express the model, with the options that
    stand in the way; RunError when what was written does not give the model's numbers. Nothing is left then.
    """
    return export_models(model, [(to, Path(output))], tower, base)[0]


def export_models(
    model: str | Path | tuple[MMSSLModel, MMSSLProcessor],
    wanted: Sequence[tuple[str, Path]],
    tower: str | None = None,
    base: str | None = None,
) -> list[Exported]:
    """Several formats of one model, proven in one fresh process."""
    return export_several([(model, to, output, tower) for to, output in wanted], base)


def export_several(wanted: Sequence[tuple[object, str, Path, str | None]], base: str | None = None) -> list[Exported]:
    """(model, format, output, tower) each; all are proven in one fresh process, and all appear or none."""
    formats = [load_format(to) for _, to, _, _ in wanted]
    for _, _, output, _ in wanted:
        if output.exists():
            raise UserError(f"--output: {output} is there already, expected a folder that is not")
    try:
        with (
            doing("exporting", 2 * len(wanted) + 1) as advance,  # each is read and written; all are proven at once
            tempfile.TemporaryDirectory(prefix="mmssl-export-") as scratch,
            contextlib.ExitStack() as folders,
        ):
            jobs, sources, partials = [], [], []
            for i, ((model, to, output, tower), chosen) in enumerate(zip(wanted, formats, strict=True)):
                with doing("reading the model"):
                    source = open_source_model(model, Path(scratch) / str(i), tower, base)
                refuse_with_ways(source, to, chosen)
                advance(2 * i + 1)
                partials.append(folders.enter_context(whole_folder(output)))
                with no_progress_bars(), doing(f"writing {to}"):
                    jobs.append(chosen.write(source, partials[-1]))
                if jobs[-1].library in ("transformers", "sentence_transformers"):
                    write_record(source, to, list(chosen.needs), partials[-1])
                sources.append(source)
                advance(2 * i + 2)
            out = []
            for (_, to, output, _), chosen, partial, job, proof, source in zip(
                wanted, formats, partials, jobs, prove(partials, jobs), sources, strict=True
            ):
                if proof.failures:
                    raise RunError(f"{to}: what was written is not the model: {proof.failures[0]}; nothing was kept")
                (partial / "README.md").write_text(card_text(source, to, chosen.title, job, proof), encoding="utf-8")
                out.append(Exported(to, output, job, proof))
            return out
    except OSError as error:
        raise RunError(f"the export could not be written: {error}") from error


def open_source_model(model: Any, scratch: Path, tower: str | None, base: str | None = None) -> Exportable:
    """The loaded model, in float32; an adapter merged into its base."""
    scratch.mkdir(parents=True, exist_ok=True)
    card, origin = "", "mmssl model"
    if not isinstance(model, tuple):
        found = locate(model)
        card, origin = found.text("README.md"), found.title
        model = open_model(found, base)
    source = Exportable(model[0].float().eval(), model[1], scratch, origin, card, tower)
    source.check_tower()
    return source
