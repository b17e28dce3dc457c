"""One process among several that torchrun started, or the only one; used by `views`, `objective` and `loop`.

Every rank works on its slice of the same global batch. Contrastive losses see the projections of all ranks, batch norms
their joint statistics, so that N processes take the step that one would have taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MTSLVRError, TrainingError

T = TypeVar("T")


def rank() -> int:
    """Of this process; 0 where it is the only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def join(device: torch.device) -> torch.device:
    """Meet the other processes that torchrun started; without torchrun nothing happens.

    Returns:
        The device of this process: each rank of a machine takes a GPU of its own.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return device
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise TrainingError(
                f"process {local} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                "lower --nproc-per-node or use --device cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # Data-parallel training imports this module, whose functions take the group of all processes as a default argument
    # at import: a group that existed by then outlives `leave`, and threads of gloo may abort the process at its end.
    from torch.distributed.nn import functional  # noqa: F401

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def leave() -> None:
    """Say goodbye to the other processes; ends the threads of the backend."""
    if dist.is_initialized():
        dist.destroy_process_group()


def on_first(function: Callable[[], T]) -> T | None:
    """Run `function` on rank 0 while the others wait; its error is raised on every rank."""
    result, error = None, None
    if rank() == 0:
        try:
            result = function()
        except MTSLVRError as raised:
            error = raised
    if size() > 1:
        told = [error]
        dist.broadcast_object_list(told, src=0)
        error = told[0]
    if error is not None:
        raise error
    return result


def share(batch: int) -> slice:
    """The rows of a global batch that belong to this rank.

    Raises:
        TrainingError: the batch does not split evenly.
    """
    if batch % size():
        raise TrainingError(f"batch_size={batch} does not split into {size()} processes; make it a multiple of them")
    each = batch // size()
    return slice(rank() * each, (rank() + 1) * each)


def gather(z: Tensor, dim: int) -> Tensor:
    """The ranks' tensors joined along `dim`, in order of rank; gradients flow back to each.

    Every rank then computes the same loss of the whole batch, so the gradients that reach a rank add up to size() times
    its share, and the mean over ranks that data-parallel training takes is the gradient of that loss.
    """
    if size() == 1:
        return z
    joined: Tensor = _Gather.apply(z, dim)  # type: ignore[no-untyped-call]
    return joined


def mean(values: Tensor) -> Tensor:
    """Mean over ranks, without gradient."""
    if size() > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
        values /= size()
    return values


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.length = dim, z.shape[dim]
        z = z.contiguous()
        parts = [torch.empty_like(z) for _ in range(size())]
        dist.all_gather(parts, z)
        return torch.cat(parts, dim=dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.narrow(ctx.dim, rank() * ctx.length, ctx.length), None


class _Normalise(torch.autograd.Function):
    """Batch norm with statistics over all ranks, forward and backward by one all-reduce each.

    The derivative is that of batch norm, with its two means taken over the global batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        others = [d for d in range(x.ndim) if d != 1]
        local_variance, local_mean = torch.var_mean(x.float(), dim=others, correction=0)
        # Ranks have equally many samples: the mean of their second moments about any common point.
        moments = torch.stack([local_mean, local_variance + local_mean.square()])
        dist.all_reduce(moments)
        center, second = moments / size()
        variance = second - center.square()
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, center, inverse)
        ctx.mark_non_differentiable(center, variance)
        return F.batch_norm(x, center, variance, weight, bias, training=False, eps=eps), center, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, center, inverse = ctx.saved_tensors
        others = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        g = gradient.float()
        bias_gradient = g.sum(dim=others)
        weight_gradient = ((g * x).sum(dim=others) - center * bias_gradient) * inverse
        sums = torch.stack([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        mean_gradient, mean_product = sums / (x.numel() // x.shape[1] * size())
        # weight inverse (g - mean(g) - x_hat mean(g x_hat)) with x_hat = (x - center) inverse, sorted by g, x and 1
        along_x = -weight * inverse.square() * mean_product
        shift = -weight * inverse * mean_gradient - along_x * center
        input_gradient = g * (weight * inverse).view(shape) + x * along_x.view(shape) + shift.view(shape)
        return input_gradient.to(x.dtype), weight_gradient, bias_gradient, None


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all ranks; `torch.nn.SyncBatchNorm` does the same and refuses CPU tensors."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) to the same shape."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        y: Tensor
        y, center, variance = _Normalise.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            count = input.numel() // input.shape[1] * size()
            self.num_batches_tracked += 1
            self.running_mean.lerp_(center, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return y


def synchronise_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm in `module` see the batches of all ranks; parameters and buffers stay the same tensors."""
    if size() == 1:
        return module
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for norm in module.modules():
        if type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d):
            norm.__class__ = GlobalBatchNorm  # same state, another forward
    return module
