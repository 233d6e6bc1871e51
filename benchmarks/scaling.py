"""What 8 and 64 GPUs cost and allow, calculated: bytes against operations of a step, and the largest ViT a GPU holds.

Measured here, without any memory for it (torch's fake tensors run our own training step and see every shape):
parameters, operations of the matrix products of a sample, bytes that a sample leaves for the backward pass in bf16, and
bytes a step leaves whatever the batch is (copies of weights in bf16). Attention counts as the fused kernel does it,
which keeps no weights. Not measured: what GPUs and networks do. Those are the vendors' figures, and the share of the
peak that a step reaches is assumed; no GPU was at hand.

    python -m benchmarks.scaling            measures (a minute), stores and writes docs/benchmarks/scaling.md
    python -m benchmarks.scaling --table    writes the page from what is stored
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from benchmarks import pages
from benchmarks.interleaved import gflop_of
from benchmarks.pairs import ViT, cast, image_model
from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.models import dispatch
from mmssl.objectives import mae
from mmssl.objectives.pretraining import Pretraining

RESULTS = Path(__file__).parent / "results" / "scaling.json"
MARKS = ("<!-- python -m benchmarks.scaling -->", "<!-- end of python -m benchmarks.scaling -->")
SIZES = {
    "ViT-B/16": ViT(768, 12, 12),
    "ViT-L/16": ViT(1024, 24, 16),
    "ViT-H/14": ViT(1280, 32, 16, 224, 14),
    "ViT-g/14": ViT(1408, 40, 16, 224, 14),
    "ViT-G/14": ViT(1664, 48, 16, 224, 14),
    "ViT-7B/16": ViT(4096, 40, 32),
}
DECODER = (512, 8, 16)

GPU = {"name": "H100 SXM", "tflops": 989.0, "gb": 80.0, "nvlink": 450.0, "nics": 8 * 50.0, "ethernet": 12.5}
"""The vendor's: dense bf16 TFLOP/s, memory; GB/s a direction: NVLink of a GPU, eight NICs of 400 Gb/s of a node, and,
for comparison, one of 100 Gb/s."""
REACHED, USABLE = 0.4, 0.9
"""Assumed: the share of the peak that a step reaches, and of the memory that can be used."""
STATE = 16
"""Bytes a parameter: float32 weight, gradient and AdamW's two averages."""
BUCKETS = 4
"""Bytes a parameter that DDP adds: gradients once more, in the buckets that it exchanges."""
BATCH = 64
"""Samples of a GPU in a step."""
NODE = 8


# ----------------------------------------------------------------------------------------------------------- measured


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Attention as GPUs have it."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def trainer(vit: ViT, decoder: tuple[int, int, int] = DECODER) -> Pretraining:
    """A masked autoencoder (0.75 hidden)."""
    model = image_model(vit)
    narrow = mae.DecoderConfig(width=decoder[0], depth=decoder[1], heads=decoder[2])
    objective = mae.MAE(mae.Config(tower="image", mask="random", decoder=narrow), model)
    return Pretraining(model, {"mae": objective}, {}, {"random": Random(ratio=0.75)}).train()


def kept(work: Pretraining, pixels: torch.Tensor) -> int:
    """Bytes that a forward pass in bf16 leaves for the backward pass, each storage once, parameters left out."""
    own = {p.untyped_storage()._cdata for p in work.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        alive.append(x)  # a storage that is freed could give its number to another
        found[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), cast("bf16"):
        work({"image": {"pixel_values": pixels}}, Draws(0, len(pixels)))
    return sum(size for number, size in found.items() if number not in own)


def measure(vit: ViT, decoder: tuple[int, int, int] = DECODER, fake: bool = True) -> dict[str, float]:
    """What one size costs. fake: nothing is computed, and no memory taken."""
    whole = mock.patch.multiple(dispatch, _plain=fused, PLAIN_BYTES=1 << 60)
    with FakeTensorMode() if fake else mock.MagicMock(), whole:
        work = trainer(vit, decoder)
        first, second = (kept(work, torch.randn(n, 3, vit.side, vit.side)) for n in (2, 4))
        pixels = torch.randn(1, 3, vit.side, vit.side)

        def step(number: int) -> None:
            total = work({"image": {"pixel_values": pixels}}, Draws(0, 1)).total
            assert total is not None
            total.backward()

        gflop = gflop_of(step)
        return {
            "parameters": sum(p.numel() for p in work.parameters()),
            "block_parameters": sum(p.numel() for p in work.model.tower("image").trunk.blocks[0].parameters()),
            "gflop_a_sample": round(gflop, 6),
            "bytes_a_sample": (second - first) // 2,
            "bytes_a_step": 2 * first - second,
        }


# --------------------------------------------------------------------------------------------------------- calculated


def exchanged(parameters: float, gpus: int, sharded: bool) -> float:
    """Bytes that each GPU sends in a step, float32, by rings: DDP sums gradients (2 (n - 1) / n of them); FSDP2 gathers
    weights forward and again backward and scatters gradients, (n - 1) / n each."""
    return (3 if sharded else 2) * 4 * parameters * (gpus - 1) / gpus


def seconds_sent(bytes_: float, gpus: int, network: float) -> float:
    """Of an exchange in rings: within a node by NVLink; between nodes each node's network carries it once."""
    return bytes_ / (1e9 * (GPU["nvlink"] if gpus <= NODE else min(GPU["nvlink"], network)))


def seconds_computed(one: dict[str, float]) -> float:
    """Of a step of `BATCH` samples on one GPU."""
    return BATCH * one["gflop_a_sample"] / (1e3 * GPU["tflops"] * REACHED)


def hidden(sent: float, computed: float, sharded: bool) -> bool:
    """Whether the exchange can lie behind the computing: DDP's runs beside the backward pass, two thirds of a step,
    FSDP2's beside all of it."""
    return sent <= computed * (1 if sharded else 2 / 3)


def held(one: dict[str, float], gpus: int, sharded: bool) -> int:
    """Samples of a micro-batch that fit; below 0: not even the model does."""
    state = STATE * one["parameters"] / gpus if sharded else (STATE + BUCKETS) * one["parameters"]
    # of shares, two blocks are whole at a time: one computes, the next is gathered
    whole = 2 * 4 * one["block_parameters"] if sharded else 0
    # the bf16 copies that autocast makes stay for the backward pass, whatever becomes of the weights they are made of
    room = 1e9 * GPU["gb"] * USABLE - state - whole - one["bytes_a_step"]
    return -1 if room < 0 else int(room // one["bytes_a_sample"])


def shown(sent: float, computed: float, sharded: bool) -> str:
    return f"{1e3 * sent:,.0f}{'' if hidden(sent, computed, sharded) else ' **not**'}"


def table(found: dict[str, dict[str, float]] | None = None) -> str:
    """What stands between the marks of the page."""
    found = json.loads(RESULTS.read_text()) if found is None else found
    lines = [
        "| masked autoencoder | parameters, M | GFLOP a sample | kept a sample, MB | kept a step, MB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {one['parameters'] / 1e6:,.0f} | {one['gflop_a_sample']:,.0f} | "
        f"{one['bytes_a_sample'] / 1e6:,.0f} | {one['bytes_a_step'] / 1e6:,.0f} |"
        for name, one in found.items()
    ]
    head = "| | computing, ms | DDP 8 | DDP 64 | DDP 64, 100 Gb/s | FSDP2 8 | FSDP2 64 | FSDP2 64, 100 Gb/s |"
    lines += ["", head, "|---|---|---|---|---|---|---|---|"]
    for name, one in found.items():
        computed = seconds_computed(one)
        cells = []
        for sharded in (False, True):
            for gpus, network in ((8, "nics"), (64, "nics"), (64, "ethernet")):
                sent = seconds_sent(exchanged(one["parameters"], gpus, sharded), gpus, float(GPU[network]))  # type: ignore[arg-type]
                cells.append(shown(sent, computed, sharded))
        lines.append(f"| {name} | {1e3 * computed:,.0f} | {' | '.join(cells)} |")
    lines += ["", "| samples of a micro-batch | DDP | FSDP2, 8 GPUs | FSDP2, 64 GPUs |", "|---|---|---|---|"]
    for name, one in found.items():
        fits = [held(one, gpus, sharded) for gpus, sharded in ((8, False), (8, True), (64, True))]
        lines.append(f"| {name} | " + " | ".join(f"{n:,}" if n > 0 else "none" for n in fits) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="measure nothing, write the page from what is stored")
    if not parser.parse_args().table:
        found: dict[str, Any] = {}
        for name, vit in SIZES.items():
            found[name] = measure(vit)
            print(name, found[name], flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    pages.write(pages.SCALING, table(), MARKS)


if __name__ == "__main__":
    main()
