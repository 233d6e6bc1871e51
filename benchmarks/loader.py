"""Images a second that training is fed: JPEG files, decoded, cropped at random to 224 px, mirrored at random,
normalised, in batches; ours against torchvision v2 in torch's `DataLoader`, in turns in one run.

tensor: `torchvision.io.decode_jpeg` and v2 on uint8 tensors, the fastest that torchvision has.
pillow: Pillow and v2 on its pictures.
ours: the rows of a table as `data.workers` reads them, and the view `{crop_scale: [0.35, 1], flip: 0.5}` of a step,
resampled bilinearly as the others do.

All start from the bytes of the same files: photographs of the shared folder ($MMSSL_SHARED_DATA), enlarged to 500 x 375
as in Flickr8k and ImageNet, and to 1600 x 1200. Told are images a second, medians of rounds, and ratios of the rounds,
on one thread, by the seconds of processors that all processes took. Freed memory is kept as in a run, for all
sides. `kept` is ours from the second epoch on where `train.memory` holds what was decoded. The table goes into
docs/benchmarks/speed.md.

    python -m benchmarks.loader [--workers 0 2] [--images 256] [--rounds 5] [--batch 64] [--parts]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import pages
from benchmarks.machine import machine, processor
from benchmarks.readers import column
from mmssl.data.cuts import Cuts
from mmssl.data.loading import training_batches
from mmssl.draws import Draws
from mmssl.modality import load_modality
from mmssl.modality.cutting import cut_of
from mmssl.training.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "loader.json"
MARKS = ("<!-- python -m benchmarks.loader -->", "<!-- end of python -m benchmarks.loader -->")
SIZE, CROP = 224, (0.35, 1.0)
FILES = {"500 x 375": 1, "1600 x 1200": 4}
"""Width and height of the files -> of how many images one is taken in a round."""
VIEW = {"crop_scale": list(CROP), "flip": 0.5}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def files(count: int, sides: tuple[int, int] = (500, 375)) -> list[bytes]:
    """JPEG files of (width, height) from photographs, as many as asked for, some again where there are fewer."""
    from PIL import Image

    found = []
    for row in column("flickr8k_mini/train.parquet", "image", count):
        out = io.BytesIO()
        Image.open(io.BytesIO(row["bytes"])).convert("RGB").resize(sides).save(out, "JPEG", quality=90)
        found.append(out.getvalue())
    return (found * (count // len(found) + 1))[:count]


class Decoded(Dataset[Tensor]):
    """Files by a function of bytes."""

    def __init__(self, raw: list[bytes], prepare: Callable[[bytes], Tensor]) -> None:
        self.raw, self.prepare = raw, prepare

    def __len__(self) -> int:
        return len(self.raw)

    def __getitem__(self, index: int) -> Tensor:
        return self.prepare(self.raw[index])


def by_tensor() -> Callable[[bytes], Tensor]:
    """torchvision's own decoder, v2 on what it gives."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    chain = v2.Compose([*_crop(v2), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])

    def prepare(raw: bytes) -> Tensor:
        packed = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
        out: Tensor = chain(decode_jpeg(packed, mode=ImageReadMode.RGB))
        return out

    return prepare


def by_pillow() -> Callable[[bytes], Tensor]:
    """Pillow, v2 on its pictures."""
    from PIL import Image
    from torchvision.transforms import v2

    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    chain = v2.Compose([*_crop(v2), *last])

    def prepare(raw: bytes) -> Tensor:
        out: Tensor = chain(Image.open(io.BytesIO(raw)).convert("RGB"))
        return out

    return prepare


def _crop(v2: Any) -> list[Any]:
    return [v2.RandomResizedCrop(SIZE, scale=CROP, antialias=True), v2.RandomHorizontalFlip()]


def peer(raw: list[bytes], prepare: Callable[[bytes], Tensor], batch: int, workers: int) -> Iterable[Tensor]:
    """torch's loader, whose workers stay between rounds."""
    data = Decoded(raw, prepare)
    return DataLoader(data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


class Ours:
    """Batches of one epoch as a run reads them, in the view of its step."""

    def __init__(self, raw: list[bytes], batch: int, workers: int, memory: float = 0.0) -> None:
        import datasets

        rows = datasets.Dataset.from_dict({"image": [{"bytes": one, "path": None} for one in raw]})
        self.rows = rows.cast_column("image", datasets.Image(decode=False))
        package = load_modality("image")
        options = {"size": SIZE, "channels": 3, "mean": MEAN, "std": STD, "interpolation": "bilinear"}
        self.preprocessor = package.Preprocessor(package.Config(**options))
        self.preprocessor.fit(self.rows["image"][:8])
        self.modality = package.Modality(16, **self.preprocessor.sizes())
        cutter = self.preprocessor.cutter({"view": VIEW})
        cutter.whole = False
        self.cuts = Cuts(0, {"image": cutter})
        self.batch, self.workers, self.memory = batch, workers, memory
        self.count, self.taken = len(raw) // batch, 0
        self.loader = self._batches()

    def _batches(self) -> Any:
        made = training_batches(
            self.rows,
            {"image": self.preprocessor},
            {"image": "image"},
            seed=0,
            batch_size=self.batch,
            workers=self.workers,
            memory=self.memory,
            cuts=self.cuts,
        )
        return iter(made)

    def __iter__(self) -> Any:
        """As many batches as an epoch has. Workers read ahead as many as are taken, so that they read as many, too."""
        for _ in range(self.count):
            loaded = next(self.loader)
            self.taken += 1
            inputs = loaded.batch[cut_of("image", "view")]
            yield self.modality.augment(inputs, Draws(self.taken, self.batch), **VIEW)


Rates = dict[str, list[float]]
"""Side -> images a second in each of the rounds."""


def race(workers: int, raw: list[bytes], batch: int, rounds: int) -> Rates:
    """Images a second of each side in alternating rounds, after one that warms up."""
    loaders = {
        "ours": Ours(raw, batch, workers),
        "kept": Ours(raw, batch, workers, memory=4.0),
        "tensor": peer(raw, by_tensor(), batch, workers),
        "pillow": peer(raw, by_pillow(), batch, workers),
    }
    rates: Rates = {name: [] for name in loaders}
    for number in range(rounds + 1):
        for name, loader in loaders.items():
            start, images = processor(), 0
            for one in loader:
                images += len(one["pixel_values"] if isinstance(one, dict) else one)
            if workers:
                settle()
            if number:
                rates[name].append(images / (processor() - start))
    return rates


PARTS = {
    "pillow": "Pillow decodes",
    "tensor": "torchvision decodes",
    "resample": "a crop is resampled",
    "normalise": "it is normalised",
    "whole": "v2",
}


def parts(raw: list[bytes], rounds: int) -> dict[str, float]:
    """Milliseconds of processor an image of what nobody can leave out, and of torchvision's whole way: the fastest of
    the rounds, as everything else on the machine only adds to them."""
    from PIL import Image
    from torch.nn.functional import interpolate
    from torchvision.io import ImageReadMode, decode_jpeg

    packed = [torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in raw]
    whole, side = by_tensor(), slice(20, 20 + SIZE * 3 // 2)
    pictures = [decode_jpeg(one, mode=ImageReadMode.RGB)[None, :, side, side] for one in packed]
    crops = [interpolate(one, (SIZE, SIZE), mode="bilinear", antialias=True)[0] for one in pictures]
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    work: dict[str, Callable[[int], object]] = {
        "pillow": lambda i: Image.open(io.BytesIO(raw[i])).load(),
        "tensor": lambda i: decode_jpeg(packed[i], mode=ImageReadMode.RGB),
        "resample": lambda i: interpolate(pictures[i], (SIZE, SIZE), mode="bilinear", antialias=True),
        "normalise": lambda i: crops[i].float().sub_(mean).div_(std),
        "whole": lambda i: whole(raw[i]),
    }
    least = dict.fromkeys(work, math.inf)
    for _ in range(rounds):
        for name, one in work.items():
            start = time.process_time()
            for number in range(len(raw)):
                one(number)
            least[name] = min(least[name], 1000 * (time.process_time() - start) / len(raw))
    return {name: round(each, 3) for name, each in least.items()}


def settle() -> None:
    """Wait until workers that read ahead have done so."""
    before = processor()
    while True:
        time.sleep(0.3)
        now = processor()
        if now - before < 0.02:
            return
        before = now


def ratio(rates: Rates, name: str) -> str:
    """Against the fastest peer: the median of the rounds, and the range."""
    each = [own / other for own, other in zip(rates[name], rates["tensor"], strict=True)]
    return f"{statistics.median(each):.2f}x ({min(each):.2f}-{max(each):.2f})"


def table(stored: dict[str, Any] | None = None) -> str:
    """What stands between the marks of the page."""
    stored = json.loads(RESULTS.read_text()) if stored is None else stored
    lines = [
        "| files | workers | mmssl, images/s | kept | v2, tensors | v2, Pillow | mmssl to tensors | kept to tensors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, by_workers in stored["rates"].items():
        for workers, found in by_workers.items():
            told = (f"{statistics.median(found[name]):,.0f}" for name in ("ours", "kept", "tensor", "pillow"))
            ratios = (ratio(found, name) for name in ("ours", "kept"))
            lines.append(f"| {' | '.join([size, workers, *told, *ratios])} |")
    on = stored["machine"]
    each = stored["parts"]
    told_parts = ", ".join(f"{PARTS[name]} {one:.2f}" for name, one in each.items())
    most = {n: each["whole"] / (each[n] + each["resample"] + each["normalise"]) for n in ("pillow", "tensor")}
    bound = (
        f"Milliseconds of processor for a file of 500 x 375: {told_parts}. What decoded, resampled and normalised "
        f"alone would be {most['tensor']:.2f}x of v2 with torchvision's decoder, "
        f"and {most['pillow']:.2f}x with Pillow's."
    )
    told_of = f"{on['processor']} ({on['model']}; {', '.join(on['features'])}; {on['cores']} cores), one thread"
    load = f"load of the machine {stored['load'][0]:.1f} to {stored['load'][1]:.1f}"
    return "\n".join([*lines, "", bound, "", f"{told_of}; {load}; ratios are medians of the rounds and their range."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--parts", action="store_true", help="the milliseconds below the table alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.parts:
        own = parts(files(min(args.images, 64)), 3 * args.rounds)
        RESULTS.write_text(json.dumps(json.loads(RESULTS.read_text()) | {"parts": own}, indent=1) + "\n")
        pages.write(pages.SPEED, table(), MARKS)
        print(table())
        return
    load, rates = os.getloadavg()[0], dict[str, dict[str, Rates]]()
    for size, fewer in FILES.items():
        width, height = (int(side) for side in size.split(" x "))
        raw = files(args.images // fewer, (width, height))
        found = {str(workers): race(workers, raw, args.batch, args.rounds) for workers in args.workers}
        rates[size] = {w: {n: [round(x, 1) for x in each] for n, each in of.items()} for w, of in found.items()}
    found_parts = parts(files(min(args.images, 64)), 3 * args.rounds)
    stored = {
        "rates": rates,
        "parts": found_parts,
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "machine": machine(),
    }
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    pages.write(pages.SPEED, table(), MARKS)
    print(table())


if __name__ == "__main__":
    main()
