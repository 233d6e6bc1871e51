"""ONNX: encoders of any of mmssl's modalities, open in the batch and in length or size, checked in onnxruntime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import UserError
from ...processing_mmssl import MMSSLProcessor
from .. import images, texts
from ..contract import Format
from ..exportable import Branch, Exportable
from ..job import Job, Trial
from ..needs import Need
from ..tracing import SIGNATURES, Axis, Encoder, Signature, signature, to_ours

TITLE = "an encoder.onnx for onnxruntime"
REQUIRED = ()
NEEDS: dict[str, tuple[Need, ...]] = dict.fromkeys(SIGNATURES, ())
FILE = "encoder.onnx"
"""Of a model with one modality; with several, each has `NAME.onnx`."""
OUTPUTS = ("last_hidden_state", "mask", "embedding")


def write(source: Exportable, folder: Path) -> Job:
    """Write the folder through torch's exporter, and say how to prove it."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"format onnx needs the package '{error.name}': pip install 'mmssl[onnx]'") from error
    parts = [part for kind in NEEDS for part in source.parts(kind)]
    files = [FILE] if len(parts) == 1 else [f"{part.name}.onnx" for part in parts]
    trials, notes, usage = [], [], ["import onnxruntime"]
    for part, file in zip(parts, files, strict=True):
        called = signature(part)
        _export(part, called, folder / file)
        trials += _probes(part, called, file)
        notes.append(_note(part, called, file))
        usage += _usage(part, called, file)
    notes += _write_processors(parts, folder)
    kinds = {part.type for part in parts}
    return Job(
        "onnx",
        "",
        trials,
        usage="\n".join(usage),
        auto=False,
        file=files[0],
        without_pipeline="transformers' pipelines do not load this file",
        notes=notes,
        pipeline_tag="image-feature-extraction" if kinds == {"image"} else "feature-extraction",
        tags=["onnx"],
    )


def _names(called: Signature) -> list[str]:
    return [name for name in OUTPUTS if called.masked or name != "mask"]


def _export(part: Branch, called: Signature, path: Path) -> None:
    """UserError when the encoder cannot be traced."""
    from torch.export import Dim

    example = called.make(2, 0, torch.Generator().manual_seed(20))
    encoder = Encoder(part, list(example), called.masked).eval()
    dims: dict[str, Any] = {}

    def dim(axis: Axis) -> object:
        factor, name = axis if isinstance(axis, tuple) else (1, axis)
        if name not in dims:
            least, most = called.limits.get(name, (1, None))
            dims[name] = Dim(name, min=least) if most is None else Dim(name, min=least, max=most)
        return dims[name] if factor == 1 else factor * dims[name]

    shapes = tuple({number: dim(axis) for number, axis in called.axes[name].items()} for name in example)
    try:
        with torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                encoder,
                tuple(example.values()),
                input_names=list(example),
                dynamo=True,
                verbose=False,
                dynamic_shapes=(shapes,),
            )
            _name_outputs(program.model.graph, _names(called))
            program.save(str(path), external_data=False)
    except torch.onnx.OnnxExporterError as error:
        line = next((x for x in reversed(str(error).splitlines()) if x.strip()), "")
        raise UserError(
            f"format onnx: the tower '{part.tower_name}' cannot be traced for {part.name} ({line.strip()})"
        ) from error


def _name_outputs(graph: Any, names: list[str]) -> None:
    """Not by `output_names`: what is computed on the way may be called "embedding" as well, after torch's function."""
    for node in graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"{value.name}_inner"
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _probes(part: Branch, called: Signature, file: str) -> list[Trial]:
    """Two samples of the size that was traced, five of another one where the size is open."""
    found = []
    for batch, size in ((2, 0), (5, 1)):
        inputs = called.make(batch, size, torch.Generator().manual_seed(21 + size))

        def expect(dtype: torch.dtype, inputs: dict[str, Tensor] = inputs) -> dict[str, Tensor]:
            encoded = part.encode(to_ours(part, inputs))
            embedding = part.embed(encoded) if part.projection is not None else part.summary(encoded)
            if part.projection is not None:
                embedding = embedding * encoded.present(part.name)[:, None]
            every = {
                "last_hidden_state": part.states(encoded),
                "embedding": embedding,
                "mask": encoded.patches[part.name].valid,
            }
            return {name: every[name] for name in _names(called)}

        shape = " x ".join(str(n) for n in next(iter(inputs.values())).shape)
        names = _names(called)
        found.append(
            Trial(
                f"{part.name} {shape}",
                inputs,
                dict(zip(names, names, strict=True)),
                expect,
                dtypes=("float32",),
                load={"file": file},
            )
        )
    return found


def _note(part: Branch, called: Signature, file: str) -> str:
    free: list[str] = []
    for axes in called.axes.values():
        free += [name for name in (a[1] if isinstance(a, tuple) else a for a in axes.values()) if name not in free]
    bounds = [f"{name} at most {called.limits[name][1]}" for name in free if called.limits.get(name, (1, None))[1]]
    fixed = [called.fixed] if called.fixed else []
    return (
        f"`{file}` ({part.name}): float32, open in {', '.join(free)}"
        + (f"; {'; '.join([*bounds, *fixed])}" if bounds or fixed else "")
        + ". `embedding` is projected and normalised where the model has a projection"
        + ("; `mask` says which tokens, behind the prefix, there are." if called.masked else ".")
    )


def _write_processors(parts: list[Branch], folder: Path) -> list[str]:
    """Stock processors where they do what ours does, else mmssl's own; a note where that is so."""
    own: list[Branch] = []
    for part in parts:
        if part.type == "image" and part.preprocessor.config.resize in ("crop", "squash"):
            images.write_processor(part, folder)
        elif part.type == "text" and part.preprocessor.config.special_tokens and _stock_tokenizer(part):
            texts.write_tokenizer(part, folder)
        elif part.type != "audio":
            own.append(part)
    if not own:
        return []
    made = MMSSLProcessor({part.name: part.preprocessor for part in own}, {part.name: part.type for part in own})
    made.save_pretrained(folder)
    names = " and ".join(part.name for part in own)
    return [
        f"`processor_config.json` holds what prepares {names}: `MMSSLProcessor.from_pretrained(FOLDER)` of mmssl "
        f"does it; the encoder itself needs no mmssl."
    ]


def _stock_tokenizer(part: Branch) -> bool:
    tokenizer: Any = part.preprocessor.tokenizer  # type: ignore[attr-defined]
    return not hasattr(tokenizer, "processor") or part.preprocessor.config.model_type in ("bpe", "unigram")


def _usage(part: Branch, called: Signature, file: str) -> list[str]:
    names = list(called.axes)
    feed = ", ".join(f'"{name}": {name}' for name in names)
    found = ", ".join(_names(called))
    return [
        "",
        f'session = onnxruntime.InferenceSession("FOLDER/{file}")',
        *(f"# {name}: {words}" for name, words in called.inputs.items()),
        f"{found} = session.run(None, {{{feed}}})",
    ]


FORMAT = Format(title=TITLE, needs=NEEDS, write=write)
