"""The `Modality` contract, its `Preprocessor`, and the look-up by name.

A modality is a package `mmssl_<name>` (ours live under `modalities/`, a stranger's on PyPI), or any dotted path. It
exports three names::

    Config          a @strict dataclass of the options that a user may set in the recipe
    Preprocessor    raw samples -> tensors; saved with the model
    Modality        the only nn.Module that knows pixels, volts or cells

and, for `mmssl list modalities`, two that it may leave out::

    READS           what raw values it takes, in a line
    NEEDS           {import name: what pip installs} of packages that it imports only when such a file is read

Shapes: B batch, N patches, P numbers a patch, K coordinates, D width.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..draws import Draws
from ..errors import BadSample, UserError, nearest
from ..patches import Patches

Inputs = dict[str, Tensor]  # one modality, collated and padded; "present" (B,) bool
Batch = dict[str, Inputs]  # always every modality of the recipe, absent ones as all-invalid rows


class Preprocessor:
    """Raw samples to tensors: the modality's part of `MMSSLProcessor`, saved with the model.

    A subclass has `__init__(self, config: Config)`, keeps what `fit` learns in `self.state` (JSON values only) and
    files (a vocabulary) behind `save_files` / `load_files`.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.state: dict[str, Any] = {}

    def fit(self, samples: Iterable[Any]) -> Self:
        """Learn schema, vocabulary or statistics from raw samples, before the model exists. May stop early.

        Broken samples are among them: see `readable`.
        """
        return self

    def readable(self, samples: Iterable[Any]) -> Iterator[Any]:
        """What `read` makes of raw samples, for `fit`: absent ones are left out, and broken ones, which the data
        pipeline meets again and puts into quarantine. Raises UserError after the last one when none could be read."""
        tried, good, reason = 0, 0, ""
        for raw in samples:
            tried += 1
            try:
                value = None if raw is None else self.read(raw)
            except BadSample as error:
                reason = reason or str(error)
                continue
            if value is not None:
                good += 1
                yield value
        if not good:
            raise UserError(f"none of {tried} samples could be read" + (f": {reason}" if reason else ""))

    def read(self, raw: Any, choice: int = 0) -> Any:
        """One raw value (bytes, path, array, string, ...) to this modality's decoded form.

        `choice` is a large random integer for the sample, to pick by among several variants (one of five captions).
        Raises `BadSample` with the reason when the value is broken. Returns None when it is absent (null).
        """
        raise NotImplementedError

    def collate(self, samples: Sequence[Any]) -> Inputs:
        """Decoded samples (None = absent) to padded tensors with `present` (B,) bool. Owns the padding."""
        raise NotImplementedError

    def __call__(self, raw: Sequence[Any]) -> Inputs:
        return self.collate([None if value is None else self.read(value) for value in raw])

    def sizes(self) -> dict[str, Any]:
        """Keyword arguments (JSON values) that build this modality's `Modality`, after `fit`."""
        raise NotImplementedError

    def save_files(self, folder: Path) -> None:
        """Write what does not fit into JSON (a tokenizer) into `folder`."""

    def load_files(self, folder: Path) -> None:
        """Read back what `save_files` wrote."""

    def files(self) -> list[str]:
        """Names of the files that `save_files` writes, relative to its folder (to fetch them from the Hub)."""
        return []


class Modality(nn.Module):
    """The only place that knows pixels, volts or cells. Built as `Modality(width, **preprocessor.sizes())`."""

    ids: ClassVar[bool] = False
    """True when `Patches.values` are int64 ids (targets by cross-entropy) instead of numbers."""
    has_links: ClassVar[bool] = False
    """True when patches carry `links` (edges)."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Kinds of reconstruction target; the first is the default."""
    local_targets: ClassVar[bool] = False
    """True when `target` looks at nothing but the values of each patch by itself: it is then given the hidden patches
    alone, with the inputs as they are."""
    views: ClassVar[tuple[str, ...]] = ()
    """Options that `augment` understands; empty = this modality has no augmented views."""
    corruptible: ClassVar[bool] = False
    """True when `raster` says what boxes of a corrupted view (`mmssl.masking.corruption`) lie in."""
    coordinates: ClassVar[tuple[str, ...]] = ()
    """What the K coordinates are, with units, e.g. ("row [patches]", "column [patches]")."""

    def patchify(self, inputs: Inputs) -> Patches:
        """Cut into patches. No parameters, no loss of what `unpatchify` needs."""
        raise NotImplementedError

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """Inverse of `patchify` on `values` (B, N, P), shaped like the inputs `like`: for pictures, foreign towers."""
        raise NotImplementedError

    def positions(self, width: int) -> nn.Module:
        """A new module coords (B, n, K) -> (B, n, width). Encoder, decoder and predictor each make their own."""
        raise NotImplementedError

    def axes(self) -> tuple[float, ...]:
        """For rotary positions: a factor for each of the first coordinates, which brings it to steps of one patch;
        empty where coordinates are no places. A modality with axes adds `self.position(coords)` in `embed`."""
        return ()

    def relations(self, heads: int) -> nn.Module | None:
        """A new module Patches -> (B, heads, n, n) attention bias, or None when nothing lies between patches."""
        return None

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """Tokens (B, n, D) of patches, positions included.

        hidden: (B, n) bool; there the mask token replaces the content, never the position, before any message passes
        between patches.
        """
        raise NotImplementedError

    def pred_width(self, kind: str | None = None) -> int:
        """How many numbers a prediction for one patch has, for this kind of target."""
        raise NotImplementedError

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, N, ...) what a masked patch should be predicted as, for ALL patches, gathered later; or for those given,
        with `local_targets`."""
        raise NotImplementedError

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n) loss of each patch; pred (B, n, pred_width), target (B, n, ...), both float32 or ids."""
        raise NotImplementedError

    def augment(self, inputs: Inputs, draws: Draws, **spec: Any) -> Inputs:
        """One augmented view of a whole batch, drawn per sample; `spec` is checked against `views`."""
        raise NotImplementedError(f"{type(self).__module__} declares no augmented views")

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """(inputs, the key in them, its axes) that boxes of a corrupted view extend over: `patchify` takes the inputs
        with other values (B, ...) under that key, and only moves them about. NaN there: nothing exists."""
        raise NotImplementedError(f"{type(self).__module__} declares no corrupted views")

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, F) float32: the field's honest raw-feature baseline (pixels, word counts, spectrum, ...)."""
        raise NotImplementedError

    def kind(self, kind: str | None) -> str:
        """The kind of target asked for, or the default one; ValueError for one this modality does not have."""
        if kind is None:
            return self.targets[0]
        if kind not in self.targets:
            raise UserError(f"target '{kind}' is not one of {', '.join(self.targets)}{nearest(kind, self.targets)}")
        return kind


class MaskToken(nn.Module):
    """A learned token that takes the place of hidden content."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.token, std=0.02)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """tokens (B, n, D) with those at hidden (B, n) replaced."""
        return torch.where(hidden[..., None], self.token.to(tokens.dtype), tokens)


def modality_names() -> list[str]:
    """Names of all installed modality packages (`mmssl_<name>`)."""
    return sorted(m.name.removeprefix("mmssl_") for m in pkgutil.iter_modules() if m.name.startswith("mmssl_"))


def load_modality(name: str) -> ModuleType:
    """The package of modality `name`: `image` -> `mmssl_image`; a dotted path is imported as it is.

    Raises UserError when there is none, or when a package that it needs is not installed.
    """
    module_name = name if "." in name else f"mmssl_{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            known = modality_names()
            raise UserError(
                f"unknown modality '{name}', expected one of {', '.join(known)} or a dotted path{nearest(name, known)}"
            ) from None
        raise UserError(
            f"modality '{name}' needs the package '{error.name}', which is not installed: pip install 'mmssl[{name}]'"
        ) from error
    for part in ("Config", "Preprocessor", "Modality"):
        if not hasattr(module, part):
            raise UserError(f"modality package '{module_name}' has no '{part}' (see mmssl.modality)")
    return module


def installed(package: str) -> bool:
    """Whether a package can be found, by its import name, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


def select(raw: Mapping[str, Any], columns: str | Sequence[str]) -> Any:
    """The value(s) of a modality in one row: a column's value, or a dict of several columns' values."""
    if isinstance(columns, str):
        return raw[columns]
    return {column: raw[column] for column in columns}
