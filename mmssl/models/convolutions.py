"""Residual convolutions over a raster of patches: the trunk of `trunk: resnet`.

A residual network (He et al. 2015, arXiv 1512.03385) of pre-activation blocks (He et al. 2016, arXiv 1603.05027) whose
shortcuts average before their 1x1 map (ResNet-D, He et al. 2018, arXiv 1812.01187), over pictures (2-D), clips (3-D)
and signals (1-D). It shrinks a patch to one place, never more, and no stride crosses the edge of a patch.

What is not there (patches that were dropped, padding, absent channels) is zero before every convolution, as sparse
convolutions have it (SparK, Tian et al. 2023, arXiv 2301.03580), and counts in no norm. So nothing depends on how far
the raster reaches, and dropped patches are as if they had never been. Norms are group norms of one sample (Wu and He
2018, arXiv 1803.08494), where residual networks have batch norms: those mix the samples of a batch, so that
accumulation, processes and padding would change what is learned.

Shapes: B batch, S the sizes of the raster (two, three of clips; signals are pictures of one row), G those of its grid
of patches, C channels, D width. Channels lie behind the places: torch's `channels_last`, the faster layout on CPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .trunk import ACTIVATIONS, Residual

MOST_STAGES = 4
"""As in the paper. Each halves the raster, or more, and doubles the channels."""
Sizes = tuple[int, ...]
PRIMES = (2, 3, 5)
"""What patches are shrunk by; what is left of them beside these factors is averaged at the end."""
GROUP = 16
"""Channels that are normalised together (Wu and He 2018, table 3)."""
CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
POOLS: dict[int, Callable[[Tensor, Sizes], Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}


def factors_of(side: int) -> list[int]:
    """The factors of two, three and five of a number."""
    found = []
    for prime in PRIMES:
        while side % prime == 0:
            found.append(prime)
            side //= prime
    return found


def strides_of(side: int, slots: int) -> list[int]:
    """By how much each of `slots` convolutions shrinks a patch of so many numbers. Their product divides the side.

    Its factors are spread evenly, the first convolutions take what is left over; where there are fewer factors than
    convolutions, the last take one each.
    """
    factors = factors_of(side)
    share, more = divmod(len(factors), slots)
    counts = [share + (slot < more if share else slot >= slots - more) for slot in range(slots)]
    taken = iter(factors)
    return [math.prod(next(taken) for _ in range(count)) for count in counts]


def stages_of(tile: Sequence[int], depth: int) -> int:
    """How many stages a trunk of that depth has over patches of tile = numbers along each axis."""
    return max(1, min(MOST_STAGES, depth, max(len(factors_of(side)) for side in tile) + 1))


def convolution(inside: int, outside: int, kernel: Sizes, stride: Sizes, bias: bool = False) -> nn.Module:
    """A convolution in two or three axes whose output has as many places as strides fit into its input.

    It looks `kernel // 2` places, or half a stride, beyond what it stands for, on either side; nowhere where the kernel
    is 1.
    """
    beyond = [max(k // 2, s // 2) if k > 1 else 0 for k, s in zip(kernel, stride, strict=True)]
    sizes = tuple(s + 2 * b for s, b in zip(stride, beyond, strict=True))
    return CONVOLUTIONS[len(kernel)](inside, outside, sizes, stride, tuple(beyond), bias=bias)


def convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """x (B, *S, C) -> (B, *S', C')."""
    y: Tensor = layer(x.movedim(-1, 1))
    return y.movedim(1, -1)


def shrunk(x: Tensor, by: Sizes) -> Tensor:
    """Means of x (B, *S, C) over cells of so many places along each axis."""
    if math.prod(by) == 1:
        return x
    return POOLS[len(by)](x.movedim(-1, 1), by).movedim(1, -1)


def spread(grid: Tensor, by: Sizes) -> Tensor:
    """grid (B, *G, C) -> (B, *S, C), each place repeated by so many along each axis."""
    first, *sizes, last = grid.shape
    wide = grid.reshape(first, *(part for size in sizes for part in (size, 1)), last)
    wide = wide.expand(-1, *(part for size, side in zip(sizes, by, strict=True) for part in (size, side)), -1)
    return wide.reshape(first, *(size * side for size, side in zip(sizes, by, strict=True)), last)


class SampleNorm(nn.Module):
    """Group norm over the places of a sample that are there."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = max(1, channels // GROUP) if channels % GROUP == 0 else 1, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def reset_parameters(self) -> None:
        """One and zero."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, there: Tensor | None) -> Tensor:
        """x (B, *S, C), zero where there (B, *S, 1) is zero; None: everywhere -> (B, *S, C)."""
        if there is None:
            return F.group_norm(x.movedim(-1, 1), self.groups, self.weight, self.bias, self.eps).movedim(1, -1)
        wide = x.flatten(1, -2).unflatten(-1, (self.groups, -1))  # (B, S, g, C / g)
        wide = wide.to(torch.promote_types(x.dtype, torch.float32))
        seen = there.flatten(1)[..., None, None].to(wide.dtype)
        count = (seen.sum((1, 3), keepdim=True) * wide.shape[3]).clamp(min=1)
        apart = (wide - wide.sum((1, 3), keepdim=True) / count) * seen
        scale = (apart.square().sum((1, 3), keepdim=True) / count + self.eps).rsqrt()
        y = (apart * scale).flatten(2) * self.weight + self.bias
        return y.reshape(x.shape).to(x.dtype)


def only(x: Tensor, there: Tensor | None) -> Tensor:
    """x with zeros where nothing is there."""
    return x if there is None else x * there.to(x.dtype)


class ConvBlock(GradientCheckpointingLayer):
    """shortcut(x) + conv(act(norm(conv(act(norm(x)))))), the first convolution with the stride.

    Args:
        inside: channels.
        outside: channels of the output.
        kernel: of both convolutions, along each axis.
        stride: of the first.
        norm_eps: of the norms.
        activation: as in `mmssl.models.trunk`.
        layer_scale, dropout, drop_path: as in `mmssl.models.trunk.Residual`.
    """

    def __init__(
        self,
        inside: int,
        outside: int,
        kernel: Sizes,
        stride: Sizes,
        norm_eps: float,
        activation: str,
        layer_scale: float | None,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.norm1 = SampleNorm(inside, norm_eps)
        self.conv1 = convolution(inside, outside, kernel, stride)
        self.norm2 = SampleNorm(outside, norm_eps)
        self.conv2 = convolution(outside, outside, kernel, (1,) * len(kernel))
        self.shortcut = None
        if inside != outside:
            self.shortcut = convolution(inside, outside, (1,) * len(kernel), (1,) * len(kernel))
        self.activation = ACTIVATIONS[activation]
        self.residual = Residual(outside, layer_scale, dropout, drop_path)

    def reset_parameters(self) -> None:
        """Convolutions are drawn as He et al. 2015 draw them (arXiv 1502.01852)."""
        draw(self.conv1, self.conv2, *([] if self.shortcut is None else [self.shortcut]))

    def forward(self, x: Tensor, there: Tensor | None, after: Tensor | None) -> Tensor:
        """x (B, *S, C), zero where there (B, *S, 1) is zero -> (B, *S', C'), zero where after (B, *S', 1) is."""
        y = convolved(self.conv1, only(self.activation(self.norm1(x, there)), there))
        y = only(y, after)
        y = convolved(self.conv2, only(self.activation(self.norm2(y, after)), after))
        x = shrunk(x, self.stride)
        if self.shortcut is not None:
            x = convolved(self.shortcut, x)
        return x + only(self.residual(y), after)


def draw(*layers: nn.Module) -> None:
    """He normal over what a number goes into; no bias."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class ConvTrunk(nn.Module):
    """A stem, `depth` blocks in up to four stages, and a final norm of each patch.

    Args:
        channels: of the raster.
        tile: numbers of a patch along each axis, (0, samples) of a signal.
        width: D, channels of the last stage; each stage before has half of the next.
        depth: blocks in all, the later stages first where they do not divide evenly.
        norm_eps, activation, layer_scale, dropout, drop_path: of the blocks; drop_path grows linearly to the last.
    """

    def __init__(
        self,
        channels: int,
        tile: Sizes,
        width: int,
        depth: int,
        norm_eps: float = 1e-6,
        activation: str = "gelu",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.depth, self.tile = width, depth, tuple(max(1, side) for side in tile)
        sides = [side for side in tile if side > 0]
        usual = 3 if len(sides) > 1 else 5  # of signals as in xresnet1d (Strodthoff et al. 2021, arXiv 2004.13701)
        self.kernel = tuple(usual if side > 0 else 1 for side in tile)
        stages = stages_of(self.tile, depth)
        # one tuple of strides for the stem and for each further stage
        strides = list(zip(*(strides_of(side, stages) for side in self.tile), strict=True))
        widths = [max(1, width // 2 ** (stages - 1 - stage)) for stage in range(stages)]
        self.stem_width = widths[0]
        self.stem = convolution(channels, widths[0], self.kernel, strides[0], bias=True)
        self.stem_stride = strides[0]
        blocks: list[ConvBlock] = []
        inside = widths[0]
        for stage in range(stages):
            count = depth // stages + (stage >= stages - depth % stages)
            for number in range(count):
                stride = strides[stage] if stage and not number else (1,) * len(tile)
                rate = drop_path * len(blocks) / max(depth - 1, 1)
                blocks.append(
                    ConvBlock(
                        inside, widths[stage], self.kernel, stride, norm_eps, activation, layer_scale, dropout, rate
                    )
                )
                inside = widths[stage]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def reset_parameters(self) -> None:
        """The stem is drawn as the blocks are."""
        draw(self.stem)

    def forward(self, x: Tensor, there: Tensor | None = None, added: Tensor | None = None) -> Tensor:
        """x (B, *S, channels) -> (B, *G, D), one vector a patch; of those that are not there anything.

        Args:
            x: the raster, zero where nothing is there.
            there: (B, *G, 1) one where a patch is there, zero elsewhere; None: everywhere.
            added: (B, *G, stem_width) what is added to all places of a patch behind the stem; zero where nothing is
                there.
        """
        left = tuple(side // s for side, s in zip(self.tile, self.stem_stride, strict=True))
        at = None if there is None else spread(there, left)
        x = only(convolved(self.stem, x), at)
        if added is not None:
            x = x + spread(added, left)
        for block in self.blocks:
            stride: Sizes = block.stride  # type: ignore[assignment]
            left, before = tuple(side // s for side, s in zip(left, stride, strict=True)), at
            if there is not None and math.prod(stride) > 1:
                at = spread(there, left)
            x = block(x, before, at)
        return self.norm(shrunk(x, left))
