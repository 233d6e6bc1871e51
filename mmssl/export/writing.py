"""`mmssl export`: write a model as a stock class, prove it, describe it; the folder appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError

from ..errors import RunError, UserError
from ..hub.opening import load_any
from ..models.modeling_mmssl import MMSSLModel
from ..models.processing_mmssl import MMSSLProcessor
from ..models.saving import no_progress_bars
from ..models.stock.formats import load_format
from ..models.stock.job import Job
from ..models.stock.record import write_record
from ..models.stock.source import Source, refuse
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
    model: str | Path | tuple[MMSSLModel, MMSSLProcessor], to: str, output: str | Path, tower: str | None = None
) -> Exported:
    """Write a model (a folder, a Hub id, or model and processor) as the stock class of format `to` into `output`.

    tower: which one, where several would do. UserError when the format cannot express the model, with the options that
    stand in the way; RunError when what was written does not give the model's numbers. Nothing is left then.
    """
    return export_models(model, [(to, Path(output))], tower)[0]


def export_models(
    model: str | Path | tuple[MMSSLModel, MMSSLProcessor], wanted: Sequence[tuple[str, Path]], tower: str | None = None
) -> list[Exported]:
    """Several formats of one model, proven in one fresh process."""
    return export_several([(model, to, output, tower) for to, output in wanted])


def export_several(wanted: Sequence[tuple[Any, str, Path, str | None]]) -> list[Exported]:
    """(model, format, output, tower) each; all are proven in one fresh process, and all appear or none."""
    formats = [load_format(to) for _, to, _, _ in wanted]
    for _, _, output, _ in wanted:
        if output.exists():
            raise UserError(f"--output: {output} is there already, expected a folder that is not")
    partials = [output.with_name(f".{output.name}.partial") for _, _, output, _ in wanted]
    with tempfile.TemporaryDirectory(prefix="mmssl-export-") as scratch:
        try:
            jobs, sources = [], []
            for i, ((model, to, _, tower), chosen, partial) in enumerate(zip(wanted, formats, partials, strict=True)):
                source = open_source_model(model, Path(scratch) / str(i), tower)
                refuse(source, to, chosen)
                shutil.rmtree(partial, ignore_errors=True)
                jobs.append(_write(chosen, source, partial))
                if jobs[-1].library in ("transformers", "sentence_transformers"):
                    write_record(source, to, list(chosen.NEEDS), partial)
                sources.append(source)
            proofs = prove(partials, jobs)
            out = []
            for (_, to, output, _), chosen, partial, job, proof, source in zip(
                wanted, formats, partials, jobs, proofs, sources, strict=True
            ):
                if proof.failures:
                    raise RunError(f"{to}: what was written is not the model: {proof.failures[0]}; nothing was kept")
                _card(partial, card_text(source, to, chosen.TITLE, job, proof))
                out.append(Exported(to, output, job, proof))
            for (_, _, output, _), partial in zip(wanted, partials, strict=True):
                partial.rename(output)
            return out
        except (OSError, SafetensorError) as error:
            raise RunError(f"the export could not be written: {error}") from error
        finally:
            for partial in partials:
                shutil.rmtree(partial, ignore_errors=True)


def open_source_model(model: Any, scratch: Path, tower: str | None) -> Source:
    """The loaded model, in float32; an adapter merged into its base."""
    scratch.mkdir(parents=True, exist_ok=True)
    card, origin = "", "mmssl model"
    if not isinstance(model, tuple):
        path = Path(model)
        inner = path / "model"  # the folder of a run
        name = str(inner if (inner / "config.json").is_file() else model)
        origin = path.resolve().name if path.exists() else str(model)
        if origin == "model":  # the `model` of a run
            origin = path.resolve().parent.name
        readme = Path(name) / "README.md"
        card = readme.read_text(encoding="utf-8") if readme.is_file() else ""
        model = load_any(name)
    source = Source(model[0].float().eval(), model[1], scratch, origin, card, tower)
    source.check_tower()
    return source


def _write(chosen: ModuleType, source: Source, folder: Path) -> Job:
    folder.mkdir(parents=True)
    with no_progress_bars():
        job: Job = chosen.write(source, folder)
    return job


def _card(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(text, encoding="utf-8")
