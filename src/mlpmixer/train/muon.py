"""Muon (Jordan et al., 2024): steps that change a map in all directions alike.

A gradient of a matrix has mostly a few directions. Muon takes the momentum M of each map of the layers and replaces it
by the nearest matrix with singular values of about 1, so that rare directions are learned as fast as common ones:

    M ← μ M + (1 − μ) G,    U ← orthogonal(μ M + (1 − μ) G),    W ← W − lr · 0.2 √max(rows, columns) · U

The factor makes the entries of a step as large as those of AdamW (arXiv 2502.16982), so that one learning rate does for
both: the stem, the head, biases and normalization are left to AdamW. A kernel of a convolution is the matrix of its
outputs by everything that enters them.

`orthogonal` is five steps of a polynomial, which needs nothing but products of matrices. Maps of the same shape are
computed together: a Mixer has dozens of two shapes, each too small to keep a processor busy by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from mlpmixer.train.sharpness import gradients_of, local_part

MOMENTUM = 0.95  # μ
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x³ and x⁵: chosen to lift small singular values quickly
ITERATIONS = 5  # then all lie between about 0.7 and 1.2
EPS = 1e-7  # least norm, for a gradient of nothing
RMS = 0.2  # of the entries of an AdamW step, usually


class Muon(torch.optim.AdamW):
    """Muon for the maps, AdamW for everything else; the checkpoint has one momentum for each map.

    Args:
        groups: Of parameters, as for AdamW.
        maps: Those among them that Muon changes.
        lr: Learning rate of both.
        betas: Of AdamW.
        fused: AdamW in one pass over all weights.
    """

    def __init__(self, groups: Sequence[dict], maps: Sequence[nn.Parameter], lr: float, betas, *, fused: bool):
        chosen = {id(parameter) for parameter in maps}
        split = []
        for group in groups:
            for muon in (True, False):
                members = [parameter for parameter in group["params"] if (id(parameter) in chosen) is muon]
                if members:
                    split.append({**group, "params": members, "muon": muon})
        super().__init__(split, lr, betas, fused=fused)
        self._step_supports_amp_scaling = False  # a scaler then leaves out whole steps, not those of AdamW alone

    def __setstate__(self, state: dict) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # Adam's looks for its own state everywhere

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None
        for group in self.param_groups:
            if group["muon"]:
                self._step_maps(group)
        super().step()  # it passes over parameters without a gradient

    def _step_maps(self, group: dict) -> None:
        maps = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not maps:
            return
        for parameter in maps:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
        ahead = []
        for parameter, gradient in zip(maps, gradients_of(maps), strict=True):
            momentum = local_part(self.state[parameter]["momentum_buffer"])
            momentum.lerp_(local_part(gradient), 1 - MOMENTUM)
            ahead.append(_whole(local_part(gradient).lerp(momentum, MOMENTUM), parameter))
        for parameter, update in zip(maps, orthogonal(ahead), strict=True):
            length = RMS * max(parameter.shape[0], parameter.numel() // parameter.shape[0]) ** 0.5
            weight = local_part(parameter)
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(_part(update, parameter), alpha=-group["lr"] * length)
        for parameter in maps:
            parameter.grad = None


def maps_of(model: nn.Module) -> list[nn.Parameter]:
    """The kernels of the layers: everything with rows and columns between the stem and the head."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if name.split(".")[0] in ("blocks", "stages") and name.split(".")[-1] == "weight" and parameter.ndim > 1
    ]


def orthogonal(arrays: Sequence[Tensor]) -> list[Tensor]:
    """For each array, as a matrix of its first axis by the others, the nearest one with singular values of about 1."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    matrices = [array.flatten(1) for array in arrays]
    for index, matrix in enumerate(matrices):
        rows, columns = matrix.shape
        if rows > columns:  # the product of a matrix with its transpose is then as small as can be
            matrices[index] = matrix.T
        by_shape[min(rows, columns), max(rows, columns)].append(index)
    found: list[Tensor] = [torch.empty(0)] * len(arrays)
    for members in by_shape.values():
        for index, matrix in zip(members, newton_schulz(torch.stack([matrices[i] for i in members])), strict=True):
            rows, columns = arrays[index].flatten(1).shape
            found[index] = (matrix.T if rows > columns else matrix).reshape(arrays[index].shape)
    return found


def newton_schulz(x: Tensor) -> Tensor:
    """Of matrices in a stack, (k, rows ≤ columns): singular values near 1, singular vectors as they are."""
    first, third, fifth = COEFFICIENTS
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)  # singular values are at most 1
    for _ in range(ITERATIONS):
        square = x @ x.mT  # (k, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=third, alpha=fifth), x, beta=first)
    return x


def _whole(update: Tensor, like: Tensor) -> Tensor:
    """Of a shard of each device, the whole array."""
    if not isinstance(like, DTensor):
        return update
    return DTensor.from_local(
        update, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()


def _part(update: Tensor, like: Tensor) -> Tensor:
    """This device's shard again."""
    if not isinstance(like, DTensor):
        return update
    return distribute_tensor(update, like.device_mesh, like.placements, src_data_rank=None).to_local()
