"""Attention maps: the weights are those of the module, and they belong to the patches that they are laid on."""

from __future__ import annotations

import torch

from mmssl.models.rotary import Rotation
from mmssl.models.trunk import Attention
from mmssl.patches import Patches
from mmssl.reporting.attention import looked_at, weights


def rotation(n: int, head: int) -> Rotation:
    angle = torch.arange(n)[:, None] * torch.rand(head)
    return Rotation(angle.cos()[None, None], angle.sin()[None, None])


def test_the_weights_are_those_that_the_module_sums_values_by() -> None:
    torch.manual_seed(0)
    module, x = Attention(16, 4), torch.randn(3, 7, 16)
    mask = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = False
    added = torch.randn(3, 4, 7, 7)
    for bias, turned in ((None, None), (mask, None), (added, None), (mask, rotation(7, 4))):
        found = weights(module, x, bias, turned)
        values = module.qkv(x).view(3, 7, 3, 4, 4)[:, :, 2].transpose(1, 2)
        mine = module.proj((found @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mine, module(x, bias, 0, turned), rtol=0, atol=2e-6)


def test_a_patch_that_all_look_at_is_the_brightest() -> None:
    patches = Patches(
        torch.zeros(2, 4, 1), torch.zeros(2, 4, 1), torch.tensor([[True] * 4, [True, True, False, False]])
    )
    found = torch.full((2, 2, 5, 5), 0.01)
    found[:, :, 1:, 1 + 1] = 0.8  # all patches at the second one
    found[:, :, 0, 1 + 0] = 0.9  # the class token at the first
    assert looked_at(found, patches, reads_prefix=False).argmax(1).tolist() == [1, 1]
    by_class = looked_at(found, patches, reads_prefix=True)
    assert by_class.argmax(1).tolist() == [0, 0] and by_class.amax(1).tolist() == [1.0, 1.0]
    assert by_class[1, 2:].tolist() == [0.0, 0.0]
