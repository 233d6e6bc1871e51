"""`Step`: one batch. Named views and masks are drawn once, every forward is done once, objectives share the rest."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..data.stored import POOLED
from ..distributed import global_mean
from ..draws import Draws
from ..masking import mode_numbers
from ..masking.replacement import Replacement, replaced
from ..modality import Batch, Inputs
from ..modality.columns import COLUMN, without_column
from ..modality.cutting import cut_of, drawn_as, variant_name
from ..modality.places import Places
from ..models.chunked import pool, square, token_square, tower_output
from ..models.tower import Encoded, Tower
from ..patches import Patches, Split
from .options.labels import LabelColumn
from .parts.derived import Derived, changed, derive, is_derived, transform_of, unmoved

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from ..schedules import RampConfig

Mask = Callable[[dict[str, Patches], Draws], dict[str, Split]]
Views = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""View -> modality -> options of its `augment`, and which further column it reads (`mmssl.modality.columns`)."""
Key = tuple[Hashable, ...]
"""All that something memoised depends on."""
T = TypeVar("T")
Mode = str | Mapping[str, str | Replacement]
CLEAN = "clean"


@dataclass
class Part:
    """One of the passes that an optimiser step is made of (`mmssl.objectives.accumulation`).

    Attributes:
        asked: names of the objectives that take part in it.
        totals: objective -> what it divides by, by name, summed over the whole step; of those that see the step whole
            nothing is there.
        last: no pass with these objectives follows in this step.
        final: no pass at all follows in this step.
        held: what passes of one step hand on to the last of them.
        objective: the one that is being asked.
    """

    asked: Sequence[str]
    totals: Mapping[str, Mapping[str, Tensor]]
    last: bool
    final: bool
    held: dict[Any, Any] = field(default_factory=dict)
    objective: str = ""


class Step:
    """What objectives see of one batch. Everything is memoised under all that it depends on.

    Attributes:
        batch: as it came: the view "clean", the further columns that views read, and what readers cut for views.
        model: its towers encode.
        views: view name -> modality -> options of its `augment`; what a view does not name stays clean in it.
        masks: mask name -> mask.
        draws: of the views, masks and objectives.
        part: which part of an optimiser step this is; None: all of it.
        rows: towers see so many rows at a time, and see them again in the backward pass; None: all at once.
        progress, steps: share of the run that is done, in [0, 1); steps of the run.
    """

    rows: int | None = None
    progress, steps = 0.0, 1

    def __init__(
        self,
        batch: Batch,
        model: MMSSLModel,
        views: Views,
        masks: Mapping[str, Mask],
        draws: Draws,
        part: Part | None = None,
    ) -> None:
        self.batch, self.model, self.views, self.masks, self.draws, self.part = batch, model, views, masks, draws, part
        self._memo: dict[Any, Any] = {}
        self._squares: dict[int, Callable[[Tensor], Tensor]] = {}

    def _totals(self) -> Mapping[str, Tensor] | None:
        return None if self.part is None else self.part.totals.get(self.part.objective)

    def mean(self, name: str, values: Tensor, counts: Tensor) -> Tensor:
        """`global_mean` of values where `counts` (the same shape) is set, over all rows of the optimiser step.

        Of a part of the step its share: the shares of all parts add up to the mean. `Objective.counts` says, under the
        same name, what `counts` is.
        """
        totals = self._totals()
        return global_mean(values, counts, None if totals is None else totals[name])

    def ramped(self, value: float, ramp: RampConfig | None) -> float:
        """A number as its ramp has it in this step."""
        return value if ramp is None else value * ramp.factor(self.progress, self.steps)

    def collected(self, name: str, *rows: Tensor) -> tuple[Tensor, ...] | None:
        """These tensors (rows first) of all parts of the step, one behind the other, for statistics of the log that are
        no means; None but in the last part."""
        if self.part is None or self._totals() is None:
            return rows
        held = self.part.held.setdefault((self.part.objective, name), [])
        held.append(rows)
        return tuple(torch.cat(each) for each in zip(*held, strict=True)) if self.part.last else None

    def _once(self, key: Key, make: Callable[[], T]) -> T:
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def pieces(self) -> Sequence[Step]:
        """Itself, or the steps of parts of its rows that it was joined from: those whose inputs are to be had."""
        return [self]

    def forget(self) -> None:
        """Drop everything that was computed; it comes out the same when it is asked for again."""
        self._memo.clear()

    def _view_of(self, name: str, view: str) -> str:
        """The view as far as this modality goes: clean, where the view leaves it alone."""
        return view if view != CLEAN and name in self.views[view] else CLEAN

    def inputs(self, name: str, view: str = CLEAN) -> Inputs:
        """The inputs of modality `name` in this view."""
        view = self._view_of(name, view)
        if view == CLEAN:
            return self._whole(name)
        if is_derived(self.views[view][name]):
            return self._derived(name, view).inputs
        read, options = self._read(name, view)
        if not options and COLUMN in self.views[view][name]:
            return read  # another column as it is

        def make() -> Inputs:
            with torch.no_grad():
                draws = self.draws("view", drawn_as(view), name)
                return self.model.modality(name).augment(read, draws, **options)

        return self._once(("inputs", name, view), make)

    def _read(self, name: str, view: str) -> tuple[Inputs, dict[str, Any]]:
        """(what a view is made of: a column of the modality, or what was cut of it; options of its `augment`)."""
        spec = self.views[view][name] if view != CLEAN else {}
        column = spec.get(COLUMN, name)
        return self.batch.get(cut_of(column, view)) or self._whole(column), without_column(spec)

    def _whole(self, column: str) -> Inputs:
        try:
            return self.batch[column]
        except KeyError:
            raise RuntimeError(f"of '{column}' only views were read: an objective asks for more than it says") from None

    def column(self, wanted: LabelColumn) -> tuple[Tensor, Tensor]:
        """(value (B,) or (B, C), present (B,) bool) of a column that an objective's config names in `label_columns`;
        where it is not present the value says nothing."""
        said = self.batch[wanted.key]
        return said["value"], said["present"]

    def variant(self, view: str, changes: Mapping[str, Any]) -> str:
        """The name of a view that is this one with some options of `augment` changed and with its draws: the same crop
        of each sample, only larger. Modalities that have no such options see it as it is."""
        if view == CLEAN:
            return view
        name = variant_name(view, changes)
        if name not in self.views:
            known = {modality: self.model.modality(modality).views for modality in self.views[view]}
            self.views = {**self.views, name: changed(self.views[view], changes, known)}
        return name

    def _derived(self, name: str, view: str) -> Derived:
        return self._once(("derived", name, view), lambda: derive(self, name, view))

    def drawn(self, name: str, view: str) -> Tensor:
        """(B,) int64: by which of its transformations each sample of modality `name` was transformed in a view that is
        a transformed one, or made of one."""
        at, options = transform_of(self.views, view, name)
        return options.label(options.drawn(self.draws("view", at, name)))

    def corrupted(self, name: str, view: str) -> Tensor | None:
        """(B, N, P) bool: which numbers of the patches a view overwrote; None where it is no corrupted view."""
        view = self._view_of(name, view)
        return self._derived(name, view).hit if view != CLEAN and "corrupt" in self.views[view][name] else None

    def patches(self, name: str, view: str = CLEAN) -> Patches:
        """What modality `name` is cut into in this view, without gradient."""
        view = self._view_of(name, view)

        def make() -> Patches:
            with torch.no_grad():
                return self.model.modality(name).patchify(self.inputs(name, view))

        return self._once(("patches", name, view), make)

    def places(self, name: str, view: str = CLEAN) -> Places:
        """Where the patches of modality `name` in this view lie in the sample as it came (in the column it reads)."""
        view = self._view_of(name, view)

        def make() -> Places:
            spec = self.views[view][name] if view != CLEAN else {}
            if is_derived(spec):
                return self.places(name, unmoved(spec, f"views.{view}.{name}"))
            draws = self.draws("view", drawn_as(view), name)
            with torch.no_grad():
                read, options = self._read(name, view)
                return self.model.modality(name).places(read, self.patches(name, view), draws, **options)

        return self._once(("places", name, view), make)

    def target(self, name: str, view: str = CLEAN, kind: str | None = None) -> Tensor:
        """(B, N, ...) reconstruction targets for all patches."""
        view = self._view_of(name, view)

        def make() -> Tensor:
            with torch.no_grad():
                return self.model.modality(name).target(self.inputs(name, view), self.patches(name, view), kind)

        return self._once(("target", name, view, kind), make)

    def splits(self, tower: str, mask: str, view: str = CLEAN) -> dict[str, Split]:
        """What the named mask says of a tower's modalities; those it leaves out are seen whole."""

        def make() -> dict[str, Split]:
            patches = {name: self.patches(name, view) for name in self.model.tower(tower).modalities}
            with torch.no_grad():
                return self.masks[mask](patches, self.draws("mask", mask))

        return self._once(("splits", tower, mask, view), make)

    def split(self, name: str, mask: str, view: str = CLEAN) -> Split | None:
        """What the named mask says of one modality; None: it is seen whole."""
        return self.splits(self.model.tower_of(name), mask, view).get(name)

    def encode(
        self,
        tower: str,
        view: str = CLEAN,
        mask: str | None = None,
        mode: Mode = "drop",
        net: Tower | None = None,
        layers: Sequence[int] = (),
    ) -> Encoded:
        """A tower's output for this view and mask.

        Computed once for the same arguments and gradient mode; what was computed with more `layers` does for fewer.

        Args:
            tower: its name.
            view: what it is given.
            mask: what of that it does not see; None: it sees all.
            mode: "drop" (masked patches never reach `embed`) or "replace" (mask tokens), or one a modality, which may
                be a `Replacement` (mask tokens for a share of the masked ids; the rest are shown as they are, or
                others).
            net: stands in for the tower (a teacher).
            layers: blocks whose output is kept as well.
        """
        encoder = net if net is not None else self.model.tower(tower)
        seen = ("encode", *self._key(tower, view, mask, mode, net))
        for key, value in self._memo.items():
            if key[:-1] == seen and set(layers) <= set(key[-1]):
                return value

        def make() -> Encoded:
            return tower_output(encoder, *self._seen(tower, view, mask, mode), layers, self.rows)

        return self._once((*seen, tuple(layers)), make)

    def present(self, tower: str, view: str = CLEAN, mask: str | None = None, mode: Mode = "drop") -> Tensor:
        """(B,) bool: what `encode` would say is `present`, without encoding anything."""
        patches, _ = self._seen(tower, view, mask, mode)
        return torch.stack([p.present for p in patches.values()]).any(0)

    def pooled(
        self,
        tower: str,
        view: str = CLEAN,
        mask: str | None = None,
        mode: Mode = "drop",
        net: Tower | None = None,
        rows: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(pooled (B, D), present (B,)) of `encode`, or with `rows` of `pool`, which keeps nothing else in memory; of a
        frozen tower what was stored."""
        kept = self.stored(tower) if net is None else None
        if kept is not None:
            return kept
        if rows is None and self.rows is None:
            encoded = self.encode(tower, view, mask, mode, net)
            return encoded.pooled(), encoded.present()
        encoder = net if net is not None else self.model.tower(tower)
        key = ("pooled", *self._key(tower, view, mask, mode, net), rows)
        return self._once(key, lambda: self._pool(encoder, *self._seen(tower, view, mask, mode), rows))

    def stored(self, tower: str) -> tuple[Tensor, Tensor] | None:
        """(pooled (B, D), present (B,)) where the batch has a tower's outputs in place of its inputs."""
        name = next(iter(self.model.tower(tower).modalities))
        inputs = self.batch.get(name, {})
        return (inputs[POOLED], inputs["present"]) if POOLED in inputs else None

    def _pool(
        self, encoder: Tower, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None, rows: int | None
    ) -> tuple[Tensor, Tensor]:
        """`pool` of at most `self.rows` at a time, of which the objective asks for `rows` or, with None, for all."""
        few = min(found for found in (rows, self.rows) if found is not None)
        pooled, present = pool(encoder, patches, hidden, few)
        if rows is None:  # who asked for no chunks has tokens in one pass, and the shares of gradients are theirs
            self._squares[id(pooled)] = partial(token_square, encoder, patches, hidden, few)
        return pooled, present

    def pooled_of(
        self, tower: str, name: Key, make: Callable[[], dict[str, Patches]], rows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """(pooled (B, D), present (B,)) of a tower on patches that are no view of the recipe, such as mixed or swapped
        inputs: what `make` returns. Computed once for the same `name`, which says what they are."""
        encoder, seen = self.model.tower(tower), (tower, name, None, (), None, torch.is_grad_enabled())
        if rows is None and self.rows is None:
            encoded = self.encode_of(tower, name, lambda: (make(), {}))
            return encoded.pooled(), encoded.present()
        return self._once(("pooled", *seen, rows), lambda: self._pool(encoder, make(), None, rows))

    def encode_of(
        self, tower: str, name: Key, make: Callable[[], tuple[dict[str, Patches], dict[str, Tensor]]]
    ) -> Encoded:
        """A tower's output on such patches, and with mask tokens where `make` says besides."""
        seen = ("encode", tower, name, None, (), None, torch.is_grad_enabled(), ())
        return self._once(seen, lambda: tower_output(self.model.tower(tower), *make(), (), self.rows))

    def look(self, tower: str, view: str = CLEAN, mask: str | None = None) -> tuple[object, ...]:
        """What tells apart what a tower sees: equal for a view or a mask that leaves all its modalities alone."""
        names = self.model.tower(tower).modalities
        masked = mask is not None and any(name in self.splits(tower, mask, view) for name in names)
        return tuple(self._view_of(name, view) for name in names), mask if masked else None

    def encodings(self) -> dict[str, list[Tensor]]:
        """Tower -> what its trained forwards of this step gave to the objectives: tokens and prefix of every view and
        mask, of the layers asked for, what `pooled` made in chunks, and what `pooled_of` made. None of them depends on
        another; teachers are left out."""
        found: dict[str, list[Tensor]] = {}
        for key, value in self._memo.items():
            if key[0] not in ("encode", "pooled") or key[5] is not None:  # 5: the net that stands in for the tower
                continue
            if key[0] == "pooled":
                tensors = [value[0]]
            else:
                layers = [tensor for layer in value.layers.values() for tensor in layer.values()]
                tensors = [value.prefix, *value.tokens.values(), *layers]
            found.setdefault(key[1], []).extend(t for t in tensors if t.requires_grad)
        return {tower: tensors for tower, tensors in found.items() if tensors}

    def square(self, encoding: Tensor, gradient: Tensor) -> Tensor:
        """() float32: the squared norm of the gradient of one of the `encodings`."""
        return self._squares.get(id(encoding), square)(gradient)

    def _modes(self, tower: str, mode: Mode) -> dict[str, str | Replacement]:
        names = self.model.tower(tower).modalities
        return {n: mode if isinstance(mode, str) else mode.get(n, "drop") for n in names}

    def _key(self, tower: str, view: str, mask: str | None, mode: Mode, net: Tower | None) -> Key:
        modes = tuple(self._modes(tower, mode).items()) if mask else ()
        if all(self._view_of(name, view) == CLEAN for name in self.model.tower(tower).modalities):
            view = CLEAN  # which is what the tower sees of it
        # with and without gradient are two entries: a graph must neither be missing nor be kept for nothing
        return tower, view, mask, modes, id(net) if net is not None else None, torch.is_grad_enabled()

    def _seen(
        self, tower: str, view: str, mask: str | None, mode: Mode
    ) -> tuple[dict[str, Patches], dict[str, Tensor]]:
        """(patches that the tower is given, (B, n) of them hidden behind mask tokens) by modality."""
        splits = self.splits(tower, mask, view) if mask else {}
        patches: dict[str, Patches] = {}
        hidden: dict[str, Tensor] = {}
        for name, how in self._modes(tower, mode).items():
            whole = self.patches(name, view)
            split, modes = splits.get(name), self.model.tower(tower).mode_names
            if split is not None and modes:
                whole = whole.replace(mode=mode_numbers(self.masks[str(mask)], split, modes, tower))
            if split is None:
                patches[name] = whole
            elif how == "drop":
                patches[name] = whole.take(split.keep, split.full)
            else:
                patches[name] = whole
                # the tower sees every place, and at the hidden ones a mask token
                hidden[name] = whole.hidden_by(split.hide)
                if isinstance(how, Replacement):
                    ids, draws = self.model.modality(name).pred_width(), self.draws("replacement", str(mask), name)
                    patches[name], hidden[name] = replaced(whole, hidden[name], how, ids, draws)
        return patches, hidden
