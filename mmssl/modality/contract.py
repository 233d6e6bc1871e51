"""The `Modality` contract and its `Preprocessor`.

What a package exports, and how it is found: `mmssl.modality.lookup`.

Shapes: B batch, N patches, n patches at hand, P numbers a patch, K coordinates, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from torch import Tensor, nn

from ..boundary import good_samples, reading_sample
from ..draws import Draws
from ..errors import UserError, nearest
from ..patches import Patches
from .carrying import Carrying
from .cutting import Cutter
from .inputs import Inputs
from .known import Known
from .looked import Looked
from .places import Placed
from .shown import Visible
from .table import Column, Table, joined

Decoded = TypeVar("Decoded")
"""What one raw value becomes before it is collated: an array, tokens, a recording."""
Seen = TypeVar("Seen")
"""What `fit` looks at of one raw value."""


class Preprocessor(Generic[Decoded]):
    """Raw samples to tensors: the modality's part of `MMSSLProcessor`, saved with the model.

    A subclass has `__init__(self, config: Config)`, implements `read`, `collate` and `sizes`, keeps what `fit` learns
    in `self.state` (JSON values only) and files (a vocabulary) behind `save_files` / `load_files`. `Preprocessor[X]`
    says that `read` returns X.
    """

    noun: ClassVar[str] = ""
    """What one raw value is, for messages: "an image", "sound"."""
    fitted_by: ClassVar[str] = "call fit(samples)"
    """What a user does who meets an unfitted preprocessor, for the message."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Endings, in small letters, of the files that are a sample each: what `data.path=FOLDER` looks for."""
    reads_else: ClassVar[tuple[str, ...]] = ()
    """Endings of files that may be samples (the sound of videos, arrays, tables of numbers), which are looked for where
    a folder holds none of `reads`."""
    reads_beside: ClassVar[tuple[str, ...]] = ()
    """Endings of files that are samples where they lie beside another modality's file of the same stem (captions)."""
    takes_the_rest: ClassVar[bool] = False
    """True where `default_columns` takes what no other modality has: it is asked last."""
    kept_on_disk: ClassVar[bool] = False
    """True where `read` takes long and returns an array, or a tuple of arrays: `data.cache` keeps them."""
    beside: ClassVar[bool] = False
    """True where it reads no input but what is said of a row beside them: a label."""
    read_from: str | list[str] | None = None
    further: Mapping[str, str | list[str]] = MappingProxyType({})
    """The column(s) that it was fitted on; and of the same kind, by name, further ones (`.columns`)."""

    def __init__(self, config: Any) -> None:
        self.config, self.state = config, dict[str, Any]()

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Put every subclass's `read` behind the boundary, so that no decoder has to know what else it may raise."""
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("read")
        if own is None:
            return

        @functools.wraps(own)
        def read(self: Any, raw: object, choice: int = 0) -> Any:
            with reading_sample():
                return own(self, raw, choice)

        cls.read = read  # type: ignore[method-assign]

    @property
    def seconds(self) -> float | None:
        """How long a sample is of a longer recording; None: nothing that is read here takes time, or all of it is
        taken. Longer ones are cut into windows (`mmssl.data.windows`), which `read` gets with "start" and "stop" in
        seconds: {"bytes", "path"} of a file, {"array"} of an array, a struct's or columns' fields, and these."""
        return None

    def stretches(self, raw: object) -> Sequence[tuple[float, float]] | None:
        """(begin, end) in seconds of what was recorded in a raw value, by its header or shape alone: one, or several
        with gaps between them; None where nothing says how long it is.

        Args:
            raw: the path of a file (a `Path`), or what `read` takes.

        Raises BadSample for what cannot be read.
        """
        return None

    def parts(self, path: Path) -> Iterable[Path]:
        """Further files of the sample in the file `path`: no samples of their own, and not left out either."""
        return ()

    def holds(self, path: Path) -> bool:
        """Whether a file of `reads_else` is a sample, by a look at its beginning."""
        return True

    def look(self, raw: object) -> Looked | None:
        """What `mmssl check` tells of a raw value: how large it is, and its channels as they were recorded. None: it is
        null. Raises BadSample for what cannot be read."""
        return Looked()

    def value(self, path: str) -> Any:
        """What a row holds of the file `path`; all rows of a column hold the same kind of value."""
        return {"bytes": None, "path": path}

    def open_rows(self, path: Path, split: str) -> Any:
        """The rows (a `datasets.Dataset`) of a file or folder that is a data set in this modality's own way; None where
        it is none. The modality's column comes first.

        Raises UserError for one that cannot be read, or has no such split.
        """
        return None

    def fits(self, column: Column) -> bool:
        """Whether a column's values look like this modality's. By default none does: the user names it."""
        return False

    def default_columns(self, table: Table) -> str | list[str] | None:
        """The column(s) to read where nobody named any, and none is called like the modality: the only one that `fits`.

        Args:
            table: the data, with what has been taken. Whoever takes many columns notes in `table.left_out` why others
                are not among them.

        Returns None where there is nothing to choose; raises UserError where several would do.
        """
        found = [column.name for column in table.free() if self.fits(column)]
        if len(found) > 1:
            raise UserError(f"several columns may hold {self.noun or 'it'}: {joined(found)}")
        return found[0] if found else None

    def own_columns(self) -> str | list[str] | None:
        """The column(s) that a fitted preprocessor reads when nobody names any; None where it remembers none."""
        return self.read_from

    def fit(self, samples: Iterable[object]) -> Self:
        """Learn schema, vocabulary or statistics from raw samples, before the model exists. May stop early.

        Broken samples are among them: go through `readable`.
        """
        return self

    def suggest(self, samples: Iterable[object]) -> tuple[dict[str, Any], str]:
        """Options that fit these raw samples better than the recipe's, which are the most that is wanted, and why.

        Asked of an unfitted preprocessor where a recipe has presets; what the user sets himself stays. Broken samples
        are among them.
        """
        return {}, ""

    @overload
    def readable(self, samples: Iterable[object]) -> Iterator[Decoded]: ...
    @overload
    def readable(self, samples: Iterable[object], decode: Callable[[object], Seen | None]) -> Iterator[Seen]: ...
    def readable(self, samples: Iterable[object], decode: Callable[[object], object] | None = None) -> Iterator[object]:
        """What `fit` can learn from: absent samples are left out, and broken ones, which the data pipeline meets again
        and puts into quarantine.

        Args:
            samples: raw values.
            decode: one raw value to what is looked at, None when it is absent; default `read`. Given where `read`
                itself needs what is learned here.

        Raises:
            UserError: after the last sample, when none could be read; with the first reason.
        """
        look: Callable[[object], object] = self.read if decode is None else decode
        return good_samples(samples, look, self.noun)

    def fitted(self) -> dict[str, Any]:
        """`state`; UserError when there is none yet."""
        if not self.state:
            raise UserError(f"the preprocessor is not fitted: {self.fitted_by}")
        return self.state

    def read(self, raw: object, choice: int = 0) -> Decoded | None:
        """One raw value to this modality's decoded form.

        Args:
            raw: bytes, a path, an array, a string, ...: whatever the data has in the modality's column.
            choice: a large random integer for the sample, to pick by among several variants (one of five captions).

        Returns:
            None when the value is absent (null).

        Raises:
            BadSample: the value is broken, with the reason; also for whatever else a subclass's own `read` raises,
                but for what is no fault of the sample's (`mmssl.boundary`).
        """
        raise NotImplementedError

    def variants(self, raw: object) -> int | None:
        """How many different samples `read` makes of a raw value: by `choice` modulo that number. None: any number (a
        stretch of a long recording), so that what a frozen tower makes of them cannot be stored."""
        return None

    def collate(self, samples: Sequence[Decoded | None]) -> Inputs:
        """Decoded samples (None = absent) to padded tensors. Owns the padding; see `with_present`."""
        raise NotImplementedError

    def cutter(self, views: Mapping[str, Mapping[str, Any]]) -> Cutter[Any] | None:
        """What reads training rows of which some of these views (name -> options of `Modality.augment`) are cut out
        before a sample gets the model's size. None: all views are made of what `collate` gives."""
        return None

    def __call__(self, raw: Sequence[object]) -> Inputs:
        """Raw values (None = absent) to padded tensors."""
        return self.collate([None if value is None else self.read(value) for value in raw])

    def sizes(self) -> dict[str, object]:
        """Keyword arguments (JSON values) that build this modality's `Modality`, after `fit`."""
        raise NotImplementedError

    def save_files(self, folder: Path) -> None:
        """Write what does not fit into JSON (a tokenizer) into `folder`."""

    def load_files(self, folder: Path) -> None:
        """Read back what `save_files` wrote."""

    def restore(self, state: dict[str, Any], folder: Path | None) -> None:
        """Take back what a saved model has of this preprocessor.

        Args:
            state: what `fit` had learned.
            folder: where the files of `save_files` lie; None where the model lists none.
        """
        self.state = state
        if folder is not None:
            self.load_files(folder)

    def files(self) -> list[str]:
        """Names of the files that `save_files` writes, relative to its folder (to fetch them from the Hub)."""
        return []


class Modality(Placed, Known, Visible, Carrying, nn.Module):
    """The only place that knows pixels, volts or cells. Built as `Modality(width, **preprocessor.sizes())`.

    Where a token is one linear map of a patch's numbers, `mmssl.modality.linear.LinearPatches` has the rest.
    """

    ids: ClassVar[bool] = False
    """True when `Patches.values` are int64 ids (targets by cross-entropy) instead of numbers."""
    has_links: ClassVar[bool] = False
    """True when patches carry `links` (edges)."""
    targets: ClassVar[tuple[str, ...]] = ()
    """Kinds of reconstruction target; the first is the default."""
    local_targets: ClassVar[bool] = False
    """True when `target` looks at nothing but the values of each patch by itself: it is then given the hidden patches
    alone, with the inputs as they are."""
    plain = True
    """True when a token is made of its patch's values as they are, so that a trunk may look at those instead."""
    views: ClassVar[tuple[str, ...]] = ()
    """Options that `augment` understands (see `mmssl.modality.view`); empty = this modality has no augmented views."""
    crossing: ClassVar[tuple[str, ...]] = ()
    """Those of them that take from other rows of the batch (`View.crossing`)."""
    corruptible: ClassVar[bool] = False
    """True when `raster` says what boxes of a corrupted view (`mmssl.masking.corruption`) lie in."""
    coordinates: ClassVar[tuple[str, ...]] = ()
    """What the K coordinates are, with units, e.g. ("row [patches]", "column [patches]")."""
    bounded: ClassVar[bool] = False
    """True when its patches say how far the whole input reaches (`Patches.extent`), as `positions: dinov3` needs."""
    readouts: ClassVar[tuple[str, ...]] = ("mean+std",)
    """How the tokens of a tower that learned through their mean are read out (`TowerConfig.readout`), the best first:
    the first that is not too wide is taken."""

    def patchify(self, inputs: Inputs) -> Patches:
        """Cut into patches. No parameters, no loss of what `unpatchify` needs.

        Returns:
            N patches with coordinates in the units that `coordinates` names; NaN where an element does not exist, and
            invalid where a patch does not.
        """
        raise NotImplementedError

    def tile(self) -> tuple[int, ...]:
        """How the numbers of a patch lie: channels, then how many along each axis of `Patches.grid`, in the order of
        `Patches.values`; 0 along leads or electrodes, which lie side by side by chance. Empty: on no grid."""
        return ()

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """The inverse of `patchify`, for pictures and foreign towers.

        Args:
            values: (B, N, P) as `Patches.values`.
            like: inputs whose size and masks the result has.
        """
        raise NotImplementedError

    def positions(self, width: int) -> nn.Module:
        """A new module coords (B, n, K) -> (B, n, width). Encoder, decoder and predictor each make their own."""
        raise NotImplementedError

    def relations(self, heads: int) -> nn.Module | None:
        """A new module Patches -> (B, heads, n, n) attention bias, or None when nothing lies between patches."""
        return None

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """Tokens (B, n, D) of patches, positions included.

        Args:
            patches: n of a sample's patches, in any order.
            hidden: (B, n) bool; there the mask token replaces the content, never the position, before any message
                passes between patches.
        """
        raise NotImplementedError

    def pred_width(self, kind: str | None = None) -> int:
        """How many numbers a prediction for one patch has, for this kind of target."""
        raise NotImplementedError

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """What a masked patch should be predicted as.

        Args:
            inputs: the raw inputs of any view.
            patches: all patches of `inputs`; with `local_targets` possibly some of them.
            kind: one of `targets`; None: the first.

        Returns:
            (B, N, ...) for the patches given, gathered later.
        """
        raise NotImplementedError

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """The loss of each patch, (B, n).

        Args:
            pred: (B, n, pred_width) float32.
            target: (B, n, ...) what `target` gave for these patches: float32 or ids.
            patches: those n patches.
            kind: one of `targets`; None: the first.
        """
        raise NotImplementedError

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """One augmented view of a whole batch, drawn per sample.

        Args:
            inputs: the batch as it came, or what the preprocessor's `cutter` cut for this view; never changed in place.
            draws: random numbers that follow the sample, not the batch or the process.
            spec: options of the recipe's view; their names are checked against `views`.
        """
        raise NotImplementedError(f"{type(self).__module__} declares no augmented views")

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """What boxes of a corrupted view extend over.

        Returns:
            Inputs, the key in them, and its axes: `patchify` takes the inputs with other values (B, ...) under that
            key, and only moves them about. NaN there: nothing exists.
        """
        raise NotImplementedError(f"{type(self).__module__} declares no corrupted views")

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, F) float32: the field's honest raw-feature baseline (pixels, word counts, spectrum, ...)."""
        raise NotImplementedError

    def tree_features(self, inputs: Inputs) -> tuple[Tensor, tuple[bool, ...]]:
        """Raw features as decision trees take them, for boosting; by default `raw_features`, none of them a category.

        Returns:
            (B, F) float32, NaN where nothing is, and which of the F are codes of categories (0 to 254).
        """
        features = self.raw_features(inputs)
        return features, (False,) * features.shape[1]

    def kind(self, kind: str | None) -> str:
        """The kind of target asked for, or the default one; UserError for one this modality does not have."""
        kind = self.targets[0] if kind is None else kind
        if kind not in self.targets:
            raise UserError(f"target '{kind}' is not one of {', '.join(self.targets)}{nearest(kind, self.targets)}")
        return kind
