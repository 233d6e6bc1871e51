"""`mmssl export ADAPTER --to FORMAT --adapter`: the base as a stock class, the adapter as one for that class, unmerged.

`base/` is an ordinary export of the model under the adapter, `adapter/` a PEFT adapter for it. The proof is that of
every export, with the adapter put on: `PeftModel.from_pretrained(stock base, adapter)`, in a process that cannot import
mmssl, gives what our model with its adapter gives.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from torch import Tensor, nn

from ..errors import RunError, UserError
from ..files import whole_folder
from ..models.adapter_files import AdapterSpec
from ..models.locating import WORDS, locate
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import adapter_spec, load_adapter, load_base, merged
from ..models.processing_mmssl import MMSSLProcessor
from ..models.saving import no_progress_bars
from ..models.stock.contract import Format
from ..models.stock.exportable import Branch, Exportable
from ..models.stock.formats import load_format
from ..models.stock.job import Job
from ..models.stock.transfer import BlockNames
from .adapter_weights import adapted_modules, block_modules, convert_adapter, refuse_unconvertible, wrapped_modules
from .card import proof_text
from .proof import prove
from .writing import Exported, export_model

TOLERANCE = 1e-5
"""float32: largest absolute difference, over the largest absolute value (at least 1)."""
LOADERS = {
    "transformers": "from transformers import {cls}\n\nbase = {cls}.from_pretrained(BASE)",
    "timm": 'import timm\n\nbase = timm.create_model("local-dir:" + BASE, pretrained=True)',
}


def export_adapter(
    adapter: str | Path, to: str, output: str | Path, tower: str | None = None, base: str | None = None
) -> Exported:
    """Write the adapter's base as format `to` into `output/base`, the adapter for it into `output/adapter`.

    base: the model that the adapter belongs on, where it is not at the place that it remembers. UserError when this is
    no adapter, when its type or a module that it changes has no counterpart in the stock class, or when the format
    cannot express the base; RunError when the two together do not give the model's numbers. Nothing is left then.
    """
    chosen, output = load_format(to), Path(output)
    names = chosen.adapted
    if names is None:
        raise UserError(
            f"--adapter: format {to} has no place for an adapter by itself; export the merged model (without --adapter)"
        )
    found = locate(adapter)
    if found.kind not in ("adapter", "peft"):
        raise UserError(f"--adapter: {adapter} is {WORDS[found.kind]}; export it without --adapter")
    folder, spec = adapter_spec(found)
    refuse_unconvertible(folder)
    if output.exists():
        raise UserError(f"--output: {output} is there already, expected a folder that is not")
    with no_progress_bars():
        model, processor = load_base(folder, spec, base), MMSSLProcessor.from_pretrained(folder)
    try:
        with whole_folder(output) as partial:
            exported = export_model(_base_path(folder, spec, base) or (model, processor), to, partial / "base", tower)
            source = Exportable(model.float().eval(), processor, partial, folder.name, "", tower)
            where, scales = stock_modules(source, chosen, exported, adapted_modules(folder))
            convert_adapter(folder, partial / "adapter", where, scales=scales)
            job, proof = _proven(folder, base, chosen, partial, tower, processor)
            (partial / "adapter" / "README.md").write_text(_card(output, to, chosen, exported, job, proof))
    except OSError as error:
        raise RunError(f"the export could not be written: {error}") from error
    return Exported(to, output, job, proof)


def _base_path(folder: Path, spec: AdapterSpec, base: str | None) -> str | None:
    """Where the base is, for its card and name; None where it was only ever built from pretrained towers."""
    if base is not None:
        return base
    path = spec["base_path"]
    if path is None:
        return None
    there = folder / path
    return str(there.resolve()) if there.exists() else str(path)


def _proven(
    folder: Path, base: str | None, chosen: Format, partial: Path, tower: str | None, processor: MMSSLProcessor
) -> tuple[Job, Any]:
    """The format's own trials, with what our model with the adapter gives, on the base with the converted adapter."""
    with tempfile.TemporaryDirectory(prefix="mmssl-adapter-") as temporary:
        scratch = Path(temporary)
        with no_progress_bars():
            model: MMSSLModel = merged(load_adapter(folder, base), folder)
            for name in ("inputs", "merged"):
                (scratch / name).mkdir()
            source = Exportable(model.float().eval(), processor, scratch / "inputs", folder.name, "", tower)
            job: Job = chosen.write(source, scratch / "merged")
        job = dataclasses.replace(
            job,
            pipelines=[],
            without_pipeline="an adapter has none of its own",
            auto=False,
            adapter=str((partial / "adapter").resolve()),
        )
        proof = prove([partial / "base"], [job])[0]
    bad = [r for r in proof.rows if r.dtype == "float32" and not r.difference <= TOLERANCE * max(r.largest, 1.0)]
    failures = [f"{r.output} at {r.trial} differs by {r.difference:.2g}" for r in bad] or proof.failures
    if failures:
        raise RunError(f"the base with the adapter is not the model: {failures[0]}; nothing was kept")
    return job, proof


# ------------------------------------------------------------------------------------------------------ which modules


def stock_modules(
    source: Exportable, chosen: Format, exported: Exported, changed: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, Tensor]]:
    """(our module -> the stock modules that hold its rows, our module -> factors that the export put into its rows)."""
    stock = load_stock(exported)
    where: dict[str, list[str]] = {}
    scales: dict[str, Tensor] = {}
    for kind in chosen.needs:
        for part in source.parts(kind):
            if part.foreign:
                where |= _wrapped(part, stock, changed)
                continue
            assert chosen.adapted is not None, "asked for above"
            path, names = find_blocks(stock, part, chosen.adapted[kind])
            where |= block_modules(
                part.tower_name, len(part.tower.trunk.blocks), path, names.qkv, names.proj, names.fc1, names.fc2
            )
            scales |= _folded(part, names)
            projection = chosen.projections.get(kind)
            if projection is not None and part.projection is not None and _has(stock, projection):
                where[f"projections.{part.tower_name}"] = [projection]
    return where, scales


def load_stock(exported: Exported) -> Any:
    """The stock model that was written, in this process, to be looked at."""
    with no_progress_bars():
        if exported.job.library == "timm":
            import timm

            return timm.create_model(f"local-dir:{exported.folder}", pretrained=True)
        import transformers

        return getattr(transformers, exported.job.cls).from_pretrained(exported.folder)


def find_blocks(stock: nn.Module, part: Branch, alternatives: Sequence[BlockNames]) -> tuple[str, BlockNames]:
    """(path of the list of blocks, what their parts are called) of this tower in the stock model."""
    depth = len(part.tower.trunk.blocks)
    found = [
        (path, names)
        for path, module in stock.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == depth > 0
        for names in alternatives
        if all(_has(module[0], n) for n in (*names.qkv, names.proj, *names.fc1, names.fc2))
        and (names.scale1 is None or any(n == names.scale1 for n, _ in module[0].named_parameters()))
    ]
    half = {"image": "vision", "text": "text"}.get(part.type, part.type)
    own = [item for item in found if half in item[0]] or found
    if not own:
        raise UserError(f"--adapter: {type(stock).__name__} has no blocks that the adapter's modules could be found in")
    return own[0]


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _folded(part: Branch, names: BlockNames) -> dict[str, Tensor]:
    """A layer scale that the stock class lacks was multiplied into the maps before it."""
    out: dict[str, Tensor] = {}
    for i, block in enumerate(part.tower.trunk.blocks):
        ours: Any = block
        start = f"towers.{part.tower_name}.trunk.blocks.{i}"
        for residual, scale, name in (
            (ours.residual1, names.scale1, "attention.proj"),
            (ours.residual2, names.scale2, "mlp.fc2"),
        ):
            if scale is None and residual.scale is not None:
                out[f"{start}.{name}"] = residual.scale.gamma.detach()
    return out


def _wrapped(part: Branch, stock: nn.Module, changed: Sequence[str]) -> dict[str, list[str]]:
    """A wrapped model's own modules, which lie at the top of the stock class or in one half of it."""
    for inner in ("", "vision_model.", "text_model."):
        where = wrapped_modules(changed, part.tower_name, inner)
        if all(_has(stock, names[0]) for names in where.values()):
            return where
    return {}


# --------------------------------------------------------------------------------------------------------------- card


def _card(output: Path, to: str, chosen: Format, exported: Exported, job: Job, proof: Any) -> str:
    from huggingface_hub import ModelCardData

    from ..files import shipped_folder
    from ..hub.card import software_versions

    template = Template((shipped_folder("hub_cards") / "adapter_export_card.md").read_text(encoding="utf-8"))
    data = ModelCardData(library_name="peft", tags=["mmssl", "adapter", to])
    cls = f"transformers.{job.cls}" if job.library == "transformers" else chosen.title
    body = template.substitute(
        title=f"{output.name} (an adapter for {to})",
        cls=cls,
        usage=LOADERS[job.library].format(cls=job.cls),
        proof=re.sub(r"\n+No pipeline: .*", "", proof_text(job, proof)),
        versions=", ".join(f"{k} {v}" for k, v in software_versions().items()),
    )
    return f"---\n{str(data.to_yaml()).strip()}\n---\n\n{body.rstrip()}\n"
