"""What a multi-block mask costs on a CPU: ours for the whole batch, against a plain loop over its images.

The loop is what I-JEPA's collator does for each image (Assran et al. 2023, section 3, written from the paper): four
target boxes and a context box with torch's generator, the context less the targets, indices by `nonzero`, all cut to
the batch's shortest. Ours draws by hash (the same for any number of processes), with exact counts. Both in turns on one
thread; the time is this process's processor time, the median of `--rounds`.

    python -m benchmarks.jepa_masks [--batch 16 64 256] [--side 14] [--rounds 60]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking.boxes import MultiBlock
from mmssl.patches import Patches


def block_size(side: int, scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
    """One size for the whole batch."""
    share, ratio = (low + (high - low) * torch.rand(1).item() for low, high in (scale, aspect))
    keep = side * side * share
    return min(round(math.sqrt(keep * ratio)), side - 1), min(round(math.sqrt(keep / ratio)), side - 1)


def loop(batch: int, side: int) -> tuple[Tensor, list[Tensor]]:
    """(context (B, k), four targets (B, m)) image by image."""
    h, w = block_size(side, (0.15, 0.2), (0.75, 1.5))
    tall, wide = block_size(side, (0.85, 1.0), (1.0, 1.0))
    contexts: list[Tensor] = []
    targets: list[list[Tensor]] = [[] for _ in range(4)]
    for _ in range(batch):
        free = torch.ones((side, side), dtype=torch.int32)
        for one in targets:
            top, left = int(torch.randint(0, side - h, (1,))), int(torch.randint(0, side - w, (1,)))
            mask = torch.zeros((side, side), dtype=torch.int32)
            mask[top : top + h, left : left + w] = 1
            free[top : top + h, left : left + w] = 0
            one.append(torch.nonzero(mask.flatten())[:, 0])
        top, left = int(torch.randint(0, side - tall, (1,))), int(torch.randint(0, side - wide, (1,)))
        mask = torch.zeros((side, side), dtype=torch.int32)
        mask[top : top + tall, left : left + wide] = 1
        contexts.append(torch.nonzero((mask * free).flatten())[:, 0])
    least = min(len(c) for c in contexts)
    return torch.stack([c[:least] for c in contexts]), [torch.stack(one) for one in targets]


def grid(batch: int, side: int) -> Patches:
    place = torch.arange(side)
    coords = torch.stack(torch.meshgrid(place, place, indexing="ij"), -1).reshape(1, -1, 2)
    coords = coords.to(torch.float32).expand(batch, -1, -1).contiguous()
    count = side * side
    return Patches(torch.zeros(batch, count, 1), coords, torch.ones(batch, count, dtype=torch.bool), full=True)


def timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--side", type=int, default=14, help="patches along a side")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    mask = MultiBlock()
    for batch in args.batch:
        patches = grid(batch, args.side)
        times: list[tuple[float, float]] = []
        for number in range(args.rounds + 5):
            draws = Draws(number, batch)
            ours = timed(lambda patches=patches, draws=draws: mask({"image": patches}, draws))
            plain = timed(lambda batch=batch: loop(batch, args.side))
            times.append((ours / batch, plain / batch))
        ours, plain = (1e3 * median(column) for column in zip(*times[5:], strict=True))
        print(f"batch {batch:4d}: ours {ours:.3f} ms an image, the loop {plain:.3f}, ratio {plain / ours:.2f}")


if __name__ == "__main__":
    main()
