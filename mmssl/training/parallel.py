"""How several processes train one `Pretraining`: each with all of it, or each with its share of every tensor.

`Parallel` is one process, or DistributedDataParallel by Accelerate. `Sharded` is `torch.distributed.fsdp.fully_shard`
(FSDP2; Zhao et al. 2023, arXiv 2304.11277): weights, gradients, the optimiser's state and the averaged teachers are cut
over the processes along their first axis, and one block at a time is put together while it works. It is the same on
processors (gloo) and GPUs (NCCL). Accelerate's own FSDP2 is not asked: on processors it trains with
DistributedDataParallel and does not say so (1.15.0), and it wraps by the name of a class. Its launch files are honoured
(`mmssl.training.engine.way_of`).

DistributedDataParallel exchanges a part of the gradients as soon as all of it is there, for which it has to know what
gets none. Asked for that (`find_unused_parameters`) it goes through the graph of every step and exchanges what it
found; here the first step alone is looked at where all steps reach the same weights (`one_way`, `Parallel.settled`).

Losses are `local sum * world / global count` (`mmssl.distributed`); both ways average gradients over processes. All
processes go through the same towers in the same order, those that lack a modality with rows that are all invalid, so
that none waits for another; `Sharded.check` holds every step to it.
"""

from __future__ import annotations

import contextlib
import copy
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers.modeling_layers import GradientCheckpointingLayer

from ..distributed import in_full, world_size
from ..errors import RunError, UserError
from ..models.foreign import ForeignTower
from ..objectives.pretraining import Pretraining

T = TypeVar("T")


class Parallel:
    """One process, or several that each hold everything (DistributedDataParallel).

    Attributes:
        accelerator: the processes and the precision.
        cut: whether a process holds a share of each tensor alone; what reads weights then is the work of all together.
    """

    cut = False

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        # what the hosts say to each other in every step must not wait for their GPUs
        self.hosts: dist.ProcessGroup | None = None
        if world_size() > 1:
            self.hosts = self.talk()
        self._passes: list[set[Tensor]] | None = None  # what each of the first step reaches; None: not asked
        self._left: list[nn.Parameter] = []  # what DistributedDataParallel does not exchange

    @staticmethod
    def talk() -> dist.ProcessGroup:
        """Another group of all processes, over processors; all call it together."""
        return cast(dist.ProcessGroup, dist.new_group(backend="gloo"))

    def place(self, pretraining: Pretraining) -> None:
        """Put it where it is trained, before its optimiser is made."""
        pretraining.to(self.accelerator.device)

    def prepare(self, pretraining: Pretraining) -> nn.Module:
        """What is called for a forward pass of the first step; `settled` gives what is from then on."""
        module: nn.Module = self.accelerator.prepare(pretraining)
        self._passes = [] if isinstance(module, DistributedDataParallel) and one_way(pretraining) else None
        return module

    def settled(self, module: nn.Module, pretraining: Pretraining) -> nn.Module:
        """What is called for a forward pass behind a step that `module` was called in; all call it together.

        Where the first step has shown which weights every step reaches, these are exchanged without looking for them
        any more. A weight that is reached later than in the first step after all (prototypes that are frozen at the
        beginning) is reached by all alike, and is exchanged by `clip`.
        """
        if not self._passes:
            return module
        passes, self._passes = self._passes, None
        left = {n: p for n, p in pretraining.named_parameters() if p.requires_grad and p not in passes[-1]}
        # of a step in several passes the last one exchanges what all of them have added up
        whole = not any(p in seen for p in left.values() for seen in passes)
        if self.agreed(not whole) or not self._alike(zlib.crc32(repr([*left]).encode())):
            return module
        assert isinstance(module, DistributedDataParallel)
        module._remove_autograd_hooks()
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(pretraining, [*left])
        self._left = [*left.values()]
        device, handler = self.accelerator.device, self.accelerator.ddp_handler
        settings = {**(handler.to_kwargs() if handler is not None else {}), "find_unused_parameters": False}
        alone = [device] if device.type == "cuda" else None
        found = DistributedDataParallel(pretraining, device_ids=alone, init_sync=False, **settings)
        # the old one, and the memory that it exchanges in, goes
        self.accelerator._models = [found if kept is module else kept for kept in self.accelerator._models]
        return found

    def passing(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager[object]:
        """For one of the passes of an optimiser step: gradients add up locally, and are exchanged with the last."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(module)

    def check(self, total: Tensor) -> None:
        """RunError where the backward pass from a loss would not be the same work for all processes."""
        if self._passes is not None and world_size() > 1:
            self._passes.append(set(reached(total)))

    def blocks(self, pretraining: Pretraining) -> Sequence[nn.Module]:
        """What is put together by itself while it works."""
        return []

    def clip(self, pretraining: Pretraining, most: float) -> Tensor | None:
        """Bound the norm of the gradient, over all processes, once all passes are done; returns what it was."""
        for parameter in self._left:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad.div_(world_size())
        norm: Tensor | None = self.accelerator.clip_grad_norm_(pretraining.parameters(), most)
        return norm

    def look(self, pretraining: Pretraining, work: Callable[[], T]) -> T:
        """What `work`, which calls towers outside of training, returns."""
        return work()

    def agreed(self, mine: bool) -> bool:
        """Whether it is so for any process; all call it together."""
        flag = torch.tensor(int(mine))
        if self.hosts is not None:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self.hosts)
        return bool(flag)

    def _alike(self, number: int) -> bool:
        """Whether all processes say the same number; all call it together."""
        found = torch.tensor([number, -number])
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.hosts)
        return bool(found[0] == -found[1])

    def whole(self, pretraining: Pretraining) -> Pretraining:
        """With all weights, for the first process."""
        return pretraining


class Sharded(Parallel):
    """Several processes that each hold a share of every tensor.

    Cut into units that are put together as one: each block (what gradient checkpointing recomputes: transformer blocks,
    stages of convolutions, message-passing layers, of towers, teachers, decoders and predictors alike), and all else at
    once. Whole on every process stay frozen weights, which nothing but the forward pass touches and teachers share, and
    numbers without an axis.
    """

    cut = True

    def place(self, pretraining: Pretraining) -> None:
        """Cut it, in place. UserError for what cannot be."""
        for name in pretraining.model.towers:
            if pretraining.model.tower(name).mixes_rows:
                raise UserError(
                    f"train.parallel: found fsdp2, but tower '{name}' has batch norms, whose running statistics are "
                    "not those of one process then; expected ddp"
                )
        self._start_alike(pretraining)
        self.skeleton = without_memory(pretraining, "meta")
        device = self.accelerator.device
        mesh = init_device_mesh(device.type, (world_size(),))
        kept = {p for p in pretraining.model.parameters() if not p.requires_grad}
        kept |= {p for p in pretraining.parameters() if p.ndim == 0}
        # null: blocks are taken apart after their forward pass (fsdp_reshard_after_forward), the rest is not
        apart = None if parse_flag_from_env("FSDP_RESHARD_AFTER_FORWARD", True) else False
        for unit in [*units(pretraining, kept), pretraining]:
            fully_shard(unit, mesh=mesh, reshard_after_forward=apart, ignored_params=kept)
        # what lies outside of blocks stays together until all passes and shares of gradients are done (`exchange`)
        whole: Any = pretraining
        whole.set_reshard_after_backward(False, recurse=False)
        for parameter in kept:
            parameter.data = parameter.data.to(device)
        register_fsdp_forward_method(pretraining, "look")

    def _start_alike(self, pretraining: Pretraining) -> None:
        """Give all processes the first one's weights, as DistributedDataParallel does; only those that differ, which
        none does whose draws are seeded."""
        tensors = [value for value in pretraining.state_dict().values() if value.numel()]
        mine = [zlib.crc32(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()) for value in tensors]
        found = torch.tensor([mine, [-digest for digest in mine]])
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.hosts)
        for at in (found[0] != -found[1]).nonzero().flatten().tolist():
            dist.broadcast(tensors[at], 0, group=self.hosts)

    def prepare(self, pretraining: Pretraining) -> nn.Module:
        """As for evaluation: Accelerate's precision around the forward pass, and no wrapper."""
        module: nn.Module = self.accelerator.prepare_model(pretraining, device_placement=False, evaluation_mode=True)
        return module

    def passing(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager[object]:
        """Gradients are exchanged with every pass: whole ones to add up would need the memory that cutting saves."""
        return contextlib.nullcontext()

    def check(self, total: Tensor) -> None:
        """RunError where the losses of two processes reach different weights: one would wait for the other for ever."""
        shapes = sorted(tuple(leaf.shape) for leaf in reached(total))
        mine = zlib.crc32(repr(shapes).encode())
        found = torch.tensor([mine, -mine, len(shapes), -len(shapes)])
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.hosts)
        if found[0] != -found[1]:
            raise RunError(
                f"train.parallel: fsdp2: the losses of the processes reach different weights (from {-int(found[3])} to "
                f"{int(found[2])} tensors): an objective leaves out what a process has no sample of; expected a zero "
                "with a path to the weights, as mmssl.distributed.global_mean gives, or train.parallel: ddp"
            )

    def blocks(self, pretraining: Pretraining) -> Sequence[nn.Module]:
        """As `Parallel.blocks`."""
        return [part for part in pretraining.modules() if isinstance(part, FSDPModule)][1:]

    def exchange(self, pretraining: Pretraining) -> tuple[list[Tensor], list[Tensor]]:
        """Take apart what is still together, and average the gradients of what stays whole, which `fully_shard` leaves
        alone; once all passes are done.

        Returns:
            This process's shares of gradients, and the gradients of what stays whole.
        """
        _take_apart(pretraining)
        grads = [parameter.grad for parameter in pretraining.parameters() if parameter.grad is not None]
        whole = [gradient for gradient in grads if not isinstance(gradient, DTensor)]
        for gradient in whole:
            dist.all_reduce(gradient)
            gradient.div_(world_size())
        return [gradient.to_local() for gradient in grads if isinstance(gradient, DTensor)], whole

    def clip(self, pretraining: Pretraining, most: float) -> Tensor | None:
        """As `Parallel.clip`."""
        cut, whole = self.exchange(pretraining)
        device = self.accelerator.device
        square = torch.nn.utils.get_total_norm(cut).to(device).square()
        dist.all_reduce(square)
        norm = (square + torch.nn.utils.get_total_norm(whole).to(device).square()).sqrt()
        # as torch.nn.utils.clip_grads_with_norm_, which mixes no cut tensors with whole ones
        torch._foreach_mul_(cut + whole, torch.clamp(most / (norm + 1e-6), max=1.0))
        return norm

    def look(self, pretraining: Pretraining, work: Callable[[], T]) -> T:
        """As `Parallel.look`; all processes call it together, and `work` calls towers in the same order in all."""
        found: list[T] = []
        try:
            with torch.no_grad():
                pretraining.look(lambda: found.append(work()))
        finally:
            _take_apart(pretraining)  # without a backward pass nothing else does
        return found[0]

    def whole(self, pretraining: Pretraining) -> Pretraining:
        """A copy on the processor that knows nothing of shards, with all weights; the others get it without them."""
        first = self.accelerator.is_main_process
        state = {}
        for name, value in pretraining.state_dict().items():
            full = in_full(value)
            if first:
                state[name] = full.cpu()
        if not first:
            return self.skeleton
        copied = without_memory(self.skeleton, "cpu")
        copied.load_state_dict(state)
        return copied


def one_way(pretraining: Pretraining) -> bool:
    """Whether all processes reach the same weights in a step, whatever their rows lack, and every step those of the
    first: objectives and towers of mmssl's own, in which absent samples are rows without patches. Others may not."""
    own = all(type(part).__module__.startswith("mmssl.objectives.") for part in pretraining.objectives.values())
    return own and not any(isinstance(part, ForeignTower) for part in pretraining.modules())


def _take_apart(module: nn.Module) -> None:
    """Keep this process's share of each tensor alone."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def units(module: nn.Module, kept: set[nn.Parameter]) -> list[nn.Module]:
    """The outermost blocks in a module that have other parameters than the `kept` ones."""
    found: list[nn.Module] = []
    for child in module.children():
        if not isinstance(child, GradientCheckpointingLayer):
            found += units(child, kept)
        elif any(p not in kept for p in child.parameters()):
            found.append(child)
    return found


def without_memory(pretraining: Pretraining, device: str) -> Pretraining:
    """A copy whose parameters, shared ones still shared, hold nothing yet on that device; buffers are copied."""
    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device=device), requires_grad=p.requires_grad)
        for p in pretraining.parameters()
    }
    return copy.deepcopy(pretraining, memo)


def reached(total: Tensor) -> Iterator[Tensor]:
    """The parameters that get a gradient from a loss."""
    todo, seen = [total.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo += [following for following, _ in node.next_functions]
