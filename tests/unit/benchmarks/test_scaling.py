"""The calculation of 8 and 64 GPUs: what is measured without memory is what real tensors have; the sums are right."""

from __future__ import annotations

import pytest

from benchmarks import scaling
from benchmarks.pairs import SIZES

DECODER = (32, 2, 4)
ONE = {"parameters": 1e9, "block_parameters": 2e7, "gflop_a_sample": 400.0, "bytes_a_sample": 1e8, "bytes_a_step": 2e9}


@pytest.mark.slow
def test_what_is_measured_without_memory_is_what_real_tensors_have() -> None:
    assert scaling.measure(SIZES["tiny"], DECODER) == scaling.measure(SIZES["tiny"], DECODER, fake=False)


def test_operations_of_a_perceptron_and_attention_by_hand() -> None:
    """MAE shows int(16 * 0.25) = 4 patches and a class token; the decoder's last block asks for the 12 hidden ones."""

    def block(asked: int, seen: int, width: int) -> int:
        linear = width * width * (asked + 2 * seen) + asked * width * width * (1 + 8)
        return linear + 2 * asked * seen * width

    vit = SIZES["tiny"]
    forward = 2 * block(5, 5, 48) + block(17, 17, 32) + block(12, 17, 32)
    forward += 4 * 192 * 48 + 5 * 48 * 32 + 12 * 32 * 192
    twice = forward + (forward - 4 * 192 * 48)  # of gradients: nothing is asked for the pixels
    total = 2 * (forward + twice)
    assert scaling.measure(vit, DECODER)["gflop_a_sample"] == round(total / 1e9, 6)


def test_bytes_of_rings_and_what_hides() -> None:
    assert scaling.exchanged(100, 4, sharded=False) == 2 * 400 * 3 / 4
    assert scaling.exchanged(100, 4, sharded=True) == 3 * 400 * 3 / 4
    assert scaling.seconds_sent(450e9, 8, network=1.0) == 1.0, "no network within a node"
    assert scaling.seconds_sent(12.5e9, 64, network=12.5) == 1.0
    assert scaling.hidden(0.9, 1.0, sharded=True) and not scaling.hidden(0.7, 1.0, sharded=False)


def test_samples_that_fit() -> None:
    # 72 GB less 20 or 16 / 8 bytes a parameter, 2 GB of copies and two blocks of 80 MB
    assert scaling.held(ONE, 8, sharded=False) == int((72e9 - 20e9 - 2e9) // 1e8)
    assert scaling.held(ONE, 8, sharded=True) == int((72e9 - 2e9 - 2e9 - 0.16e9) // 1e8)
    assert scaling.held(ONE | {"parameters": 4e9}, 8, sharded=False) == -1
    text = scaling.table({"ViT": ONE | {"parameters": 4e9}})
    assert "| ViT | none |" in text and "**not**" in text
    computed = scaling.seconds_computed(ONE)
    assert computed == pytest.approx(64 * 0.4 / (989 * 0.4))
