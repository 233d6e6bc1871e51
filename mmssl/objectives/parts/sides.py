"""What pairs of embeddings a loss is taken of: towers, views and masks, shared by contrastive and two-view objectives.

A side is one tower in one view behind one mask. Two sides of a tower differ in their view (augmentations), in their
mask (which costs nothing and needs no augmentation), or in both.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from ...errors import UserError
from ..options.sides import SideOptions

if TYPE_CHECKING:
    from ...models.modeling_mmssl import MMSSLModel
    from ...models.tower import Tower
    from ..step import Step


class Side(NamedTuple):
    """One side of a pair: what a tower makes of a view under a mask.

    Attributes:
        tower: name of the tower.
        view: name of the view it is given.
        mask: name of the mask, None for all patches.
        label: the side's name in the log.
    """

    tower: str
    view: str
    mask: str | None
    label: str


Pair = tuple[Side, Side]


def refuse_mask(where: str, model: MMSSLModel, name: str, mode: str) -> None:
    """UserError where a tower cannot do without masked patches in the way that `mode` says. where: the objective."""
    tower = model.tower(name)
    if not (tower.drops if mode == "drop" else tower.replaces):
        other = " (mode: replace may)" if mode == "drop" and tower.replaces else ""
        raise UserError(f"{where}: tower '{name}' cannot {mode} masked patches{other}")


def refuse_raw(where: str, model: MMSSLModel, name: str) -> None:
    """UserError where what a tower pools would tell of masked patches. where: the objective."""
    pooling = model.tower(name).pooling
    if pooling.raw:
        raise UserError(
            f"{where}: tower '{name}' has pooling: {pooling.how}, whose raw features tell of masked patches; expected "
            "a pooling without raw, or no mask"
        )


class Sides:
    """The sides and pairs of an objective's options. UserError for options that contradict each other."""

    def __init__(self, options: SideOptions, model: MMSSLModel, objective: str) -> None:
        self.options, self.where = options, f"objective {objective}"
        masks = options.masks if options.masks is not None else [options.mask]
        self.looks = self._looks(options.views, masks)
        kind = options.kind
        self.across = options.towers if kind in ("across", "both") else []
        self.within: list[str] = []
        if kind in ("within", "both"):
            self.within = options.towers if options.within_towers is None else options.within_towers
        elif options.within_towers is not None:
            raise UserError(f"{self.where}: within_towers needs pairs: within or both, found pairs: {kind}")
        self._refuse(options, model, kind)

    def _looks(self, views: list[str], masks: list[str] | list[str | None]) -> list[tuple[str, str | None]]:
        if self.options.mask is not None and self.options.masks is not None:
            raise UserError(f"{self.where}: found both mask and masks, expected one of them")
        count = max(len(views), len(masks))
        if not views or not masks or len(views) not in (1, count) or len(masks) not in (1, count):
            raise UserError(
                f"{self.where}: found {len(views)} views and {len(masks)} masks, expected as many, or one of either"
            )
        return [(views[i % len(views)], masks[i % len(masks)]) for i in range(count)]

    def _refuse(self, options: SideOptions, model: MMSSLModel, kind: str) -> None:
        if len(set(options.towers)) != len(options.towers) or not options.towers:
            raise UserError(f"{self.where}: towers: found {options.towers}, expected different towers")
        if self.across and len(self.across) < 2:
            raise UserError(f"{self.where}: pairs: {kind} needs at least two towers, found {options.towers}")
        if self.within and len(self.looks) < 2:
            raise UserError(
                f"{self.where}: one tower is compared between two views (or two masks), found views {options.views}; "
                "name two of either, or two towers to compare across modalities"
            )
        for key, names in (("hub_tower", [options.hub_tower]), ("within_towers", options.within_towers or [])):
            for name in names:
                if name is not None and name not in options.towers:
                    raise UserError(f"{self.where}: {key}: found '{name}', expected one of its towers {options.towers}")
        if options.hub_tower is not None and not self.across:
            raise UserError(f"{self.where}: hub_tower needs pairs: across or both, found pairs: {kind}")
        for name in options.towers:
            tower = model.tower(name)
            if options.cache_rows is not None and tower.mixes_rows:
                raise UserError(
                    f"{self.where}: cache_rows: found {options.cache_rows}, but tower '{name}' has batch norms, which "
                    "see a batch whole; expected null"
                )
            if any(mask for _, mask in self.looks):
                refuse_mask(self.where, model, name, options.mode)
                refuse_raw(self.where, model, name)

    def different(self, step: Step) -> dict[str, list[Side]]:
        """The sides of each tower. What a tower sees twice the same is one side."""
        sides: dict[str, list[Side]] = {}
        for tower in self.options.towers:
            different: dict[tuple[object, ...], tuple[str, str | None]] = {}
            for view, mask in self.looks:
                different.setdefault(step.look(tower, view, mask), (view, mask))
            looks = list(different.values())
            sides[tower] = [
                Side(tower, view, mask, tower if len(looks) == 1 else f"{tower}.{i + 1}")
                for i, (view, mask) in enumerate(looks)
            ]
        return sides

    def groups(self, step: Step) -> list[list[Side]]:
        """The sides that a sample has together: those of all towers where they are compared across, else of each."""
        sides = self.different(step)
        if self.across:
            return [[side for tower in self.across for side in sides[tower]]]
        for tower in self.within:
            self._refuse_one(tower, sides[tower])
        return [sides[tower] for tower in self.within]

    def check_groups(self, global_views: list[str] | None, heads: nn.ModuleDict, purpose: str) -> None:
        """UserError where the sides of a sample cannot be taken together, as `groups` has them.

        Args:
            global_views: those of the views that lead; None: all.
            heads: of the towers, whose outputs are compared.
            purpose: what is done with the sides, for the message.
        """
        o = self.options
        if o.kind == "both" or o.hub_tower is not None:
            raise UserError(
                f"{self.where}: {purpose}, found pairs: {o.kind}, hub_tower: {o.hub_tower}; expected pairs: across or "
                "within, and no hub_tower"
            )
        for view in global_views or []:
            if view not in o.views:
                raise UserError(f"{self.where}: global_views: found '{view}', expected some of views {o.views}")
        if global_views == []:
            raise UserError(f"{self.where}: global_views: found none, expected some, or null for all views")
        widths = {name: head.width for name, head in heads.items()}
        if len(set(widths.values())) > 1:
            raise UserError(f"{self.where}: {purpose}, found widths {widths}; expected head_layers of 1 or more")

    def leads(self, step: Step, side: Side, global_views: list[str] | None) -> bool:
        """Whether a side is what its tower makes of a global view, under whatever other names it goes too."""
        if global_views is None:
            return True
        look = step.look(side.tower, side.view, side.mask)
        named = [(view, mask) for view, mask in self.looks if view in global_views]
        return any(step.look(side.tower, view, mask) == look for view, mask in named)

    def _refuse_one(self, tower: str, sides: list[Side]) -> None:
        if len(sides) < 2:
            raise UserError(
                f"{self.where}: tower '{tower}' is compared between views {self.options.views}, but they leave its "
                "modalities alone; name others, two masks, or the other towers in within_towers"
            )

    def crossings(self) -> list[tuple[str, str]]:
        """The pairs of towers that are compared across."""
        return [(a, b) for a, b in combinations(self.across, 2) if self.options.hub_tower in (None, a, b)]

    def plan(self, step: Step) -> tuple[list[Pair], list[Pair]]:
        """(pairs across towers, pairs within towers)."""
        sides = self.different(step)
        across = [pair for a, b in self.crossings() for pair in product(sides[a], sides[b])]
        within: list[Pair] = []
        for tower in self.within:
            self._refuse_one(tower, sides[tower])
            within += combinations(sides[tower], 2)
        return across, within

    def pooled(self, step: Step, side: Side, net: Tower | None = None) -> tuple[Tensor, Tensor]:
        """(pooled (B, D), present (B,)) of a side; `net` stands in for the tower (a teacher)."""
        o = self.options
        return step.pooled(side.tower, side.view, side.mask, o.mode, net, o.cache_rows)
