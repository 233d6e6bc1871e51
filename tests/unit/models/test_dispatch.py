"""Attention over long sequences on the CPU, and the C library's memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from mmssl.models import dispatch
from mmssl.models.dispatch import attention, plain_length, self_attention


def qkv(n: int, m: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    queries = torch.randn(2, n, 3, 8, dtype=torch.float64).transpose(1, 2)  # not contiguous, as in the trunk
    keys, values = torch.randn(2, m, 2, 3, 8, dtype=torch.float64).permute(2, 0, 3, 1, 4).unbind(0)
    return [x.to(dtype).detach().requires_grad_() for x in (queries, keys, values)]


@pytest.mark.parametrize(("dtype", "length"), [(torch.float32, 181), (torch.bfloat16, 256)])
def test_which_way_a_sequence_goes_depends_on_its_bytes(dtype: torch.dtype, length: int) -> None:
    for n, few in ((length, False), (length + 1, True)):
        q, k, v = qkv(2, n, dtype)
        assert (type(attention(q, k, v).grad_fn).__name__ == "FewHeadsAtATimeBackward") == few
        x = torch.zeros(1, n, 3, 1, 2, dtype=dtype, requires_grad=True)
        assert (type(self_attention(x).grad_fn).__name__ == "FewHeadsAtATimeBackward") == few


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.bfloat16, 1e-2)])
def test_long_attention_and_its_gradient_equal_the_formula(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, close: float, masked: bool, kept: bool
) -> None:
    monkeypatch.setattr(dispatch, "KEPT_WEIGHTS", 1 << 26 if kept else 0)
    n, m = 20, plain_length(dtype) + 30
    ours = qkv(n, m, dtype)
    expected = [x.detach().double().requires_grad_() for x in ours]
    bias = None
    if masked:
        bias = torch.rand(2, 1, 1, m) < 0.5
        assert bias.any(-1).all()
    out = attention(*ours, bias)
    scores = expected[0] @ expected[1].transpose(-1, -2) / 8**0.5
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf)
    reference = scores.softmax(-1) @ expected[2]
    weight = torch.randn_like(reference).to(dtype).double()
    (out.double() * weight).sum().backward()
    (reference * weight).sum().backward()
    assert type(out.grad_fn).__name__ == "FewHeadsAtATimeBackward"
    for a, b in [(out, reference), *((x.grad, y.grad) for x, y in zip(ours, expected, strict=True))]:
        assert a is not None and b is not None
        assert float(((a.double() - b).norm() / b.norm()).detach()) < close


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_self_attention_by_groups_of_heads_equals_the_formula(
    monkeypatch: pytest.MonkeyPatch, masked: bool, kept: bool, heads: int
) -> None:
    """Two of three heads at a time leave one for the last group."""
    n = plain_length(torch.float64) + 3
    monkeypatch.setattr(dispatch, "KEPT_WEIGHTS", 1 << 26 if kept else 0)
    monkeypatch.setattr(dispatch, "CACHED", heads * n * n * 8)
    torch.manual_seed(0)
    found = torch.randn(2, n, 3, 3, 8, dtype=torch.float64, requires_grad=True)
    expected = found.detach().clone().requires_grad_()
    bias = torch.rand(2, 1, n, n) < 0.5 if masked else None
    if bias is not None:
        bias |= torch.eye(n, dtype=torch.bool)
    weight = torch.randn(2, 3, n, 8, dtype=torch.float64)
    out = self_attention(found, bias)
    assert type(out.grad_fn).__name__ == "FewHeadsAtATimeBackward"
    assert out.transpose(1, 2).is_contiguous()  # so that joining the heads copies nothing
    q, k, v = expected.permute(2, 0, 3, 1, 4)
    reference = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    (out * weight).sum().backward()
    (reference * weight).sum().backward()
    torch.testing.assert_close(out, reference, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.grad, expected.grad, rtol=0, atol=1e-12)


def test_the_gradient_of_self_attention_has_a_gradient_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PLAIN_BYTES", 0)
    x = torch.randn(1, 3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert type(self_attention(x).grad_fn).__name__ == "FewHeadsAtATimeBackward"
    assert torch.autograd.gradgradcheck(self_attention, (x,))


@pytest.mark.parametrize("masked", [True, False])
def test_the_gradient_of_long_attention_has_a_gradient_itself(monkeypatch: pytest.MonkeyPatch, masked: bool) -> None:
    monkeypatch.setattr(dispatch, "PLAIN_BYTES", 0)
    q, k, v = qkv(2, 3, torch.float64)
    bias = torch.tensor([True, False, True]).expand(2, 1, 1, 3) if masked else None
    assert type(attention(q, k, v, bias).grad_fn).__name__ == "FewHeadsAtATimeBackward"
    assert torch.autograd.gradgradcheck(lambda *x: attention(*x, bias), (q, k, v))
    assert torch.autograd.gradgradcheck(lambda x: attention(x, x, v.detach()[:, :, :2]), (q,))


def test_additive_bias_keeps_its_gradient() -> None:
    m = plain_length(torch.float64) + 30
    q, k, v = qkv(20, m, torch.float64)
    bias = torch.randn(2, 3, 20, m, dtype=torch.float64, requires_grad=True)
    attention(q, k, v, bias).square().sum().backward()
    found = bias.grad
    bias.grad = None
    F.scaled_dot_product_attention(q, k, v, attn_mask=bias).square().sum().backward()
    assert found is not None and bias.grad is not None
    torch.testing.assert_close(found, bias.grad)


FAULTS = """
import resource, sys, torch
from mmssl.training.memory import keep_freed_memory
told = keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(24): torch.ones(16 << 20)  # until the heap has a hole that fits an aligned block: 2 to 6 blocks
before = faults()
for _ in range(8): torch.ones(16 << 20)
print(int(told), (faults() - before) * resource.getpagesize() >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
@pytest.mark.slow
@pytest.mark.parametrize("off", [False, True])
def test_freed_memory_is_kept_unless_told_not_to(off: bool) -> None:
    env = os.environ | {"MMSSL_MALLOC": "default" if off else ""}
    # a process of its own: what a forked one inherits in free memory hides what is handed out anew, or adds to it
    done = subprocess.run([sys.executable, "-c", FAULTS], env=env, check=True, capture_output=True, text=True)
    said = done.stdout.split()
    assert said[0] == str(int(not off))
    assert off or int(said[1]) < 64  # MiB that the kernel handed out anew, of eight blocks of 64
