"""A tower that sees a batch chunk by chunk, and again in the backward pass.

So the activations of one chunk are in memory instead of the batch's. Loss and gradient stay those of the whole batch
(GradCache, Gao et al. 2021, arXiv 2101.06983), but for the draws of dropout.

Shapes: B batch, n tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..patches import Patches
from .tower import Encoded, Tower

T = TypeVar("T")


def pool(
    encoder: Tower, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None, rows: int | None
) -> tuple[Tensor, Tensor]:
    """(pooled (B, D), present (B,)) of a tower on these patches.

    Args:
        encoder: the tower.
        patches: modality -> patches.
        hidden: modality -> (B, n) bool: behind mask tokens.
        rows: the tower sees that many samples at a time, and only the pooled embeddings are kept. None: all at once.
    """
    hidden = hidden or {}
    if rows is None:
        encoded = encoder(patches, hidden)
        return encoded.pooled(), encoded.present()

    def part(at: slice) -> Tensor:
        few = {name: p.rows(at) for name, p in patches.items()}
        pooled: Tensor = encoder(few, {name: h[at] for name, h in hidden.items()}).pooled()
        return pooled

    parts = list(patches.values())
    return torch.cat(_chunked(part, parts[0].batch, rows)), torch.stack([p.present for p in parts]).any(0)


def tower_output(
    encoder: Tower,
    patches: Mapping[str, Patches],
    hidden: Mapping[str, Tensor],
    layers: Sequence[int],
    rows: int | None,
) -> Encoded:
    """A tower's output on these patches; with `rows` as in `pool`, but that the tokens stay in memory."""
    if rows is None:
        return encoder(patches, hidden, layers)

    def part(at: slice) -> Encoded:
        few = {name: p.rows(at) for name, p in patches.items()}
        return encoder(few, {name: h[at] for name, h in hidden.items()}, layers)

    done = _chunked(part, next(iter(patches.values())).batch, rows)

    def whole(of: Callable[[Encoded], dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([of(e)[name] for e in done]) for name in of(done[0])}

    return replace(
        done[0],
        tokens=whole(lambda e: e.tokens),
        patches={name: patches[name] for name in done[0].patches},
        prefix=torch.cat([e.prefix for e in done]),
        layers={layer: whole(lambda e, at=layer: e.layers[at]) for layer in done[0].layers},  # type: ignore[misc]
    )


def square(gradient: Tensor) -> Tensor:
    """() float32: the squared norm of a gradient."""
    return gradient.detach().float().square().sum()


def token_square(
    encoder: Tower, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None, rows: int, gradient: Tensor
) -> Tensor:
    """() `square` of the gradient of the tokens and prefix that `pool` did not keep.

    They are computed once more, a chunk at a time. gradient: (B, D), of what `pool` gave.
    """
    total = gradient.new_zeros((), dtype=torch.float32)
    with torch.random.fork_rng():  # nothing of the training may change
        for at in _slices(len(gradient), rows):
            few = {name: p.rows(at) for name, p in patches.items()}
            with torch.no_grad():
                encoded = encoder(few, {name: h[at] for name, h in (hidden or {}).items()})
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in (encoded.prefix, *encoded.tokens.values())]
                tokens = dict(zip(encoded.tokens, leaves[1:], strict=True))
                pooled = replace(encoded, prefix=leaves[0], tokens=tokens).pooled()
                found = torch.autograd.grad(pooled, leaves, gradient[at].to(pooled), allow_unused=True)
            total = total + sum(square(g) for g in found if g is not None)
    return total


def _slices(batch: int, rows: int) -> list[slice]:
    return [slice(start, start + rows) for start in range(0, batch, rows)]


def _chunked(part: Callable[[slice], T], batch: int, rows: int) -> list[T]:
    """`part` of `rows` rows after the other, each computed again in the backward pass instead of kept."""
    pieces = _slices(batch, rows)
    if not torch.is_grad_enabled():
        return [part(at) for at in pieces]
    # forgets the activations of a chunk, and computes them again when its gradient comes
    return [checkpoint(part, at, use_reentrant=False) for at in pieces]
