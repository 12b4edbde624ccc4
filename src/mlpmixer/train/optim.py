"""Optimisers, what is decayed, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from mlpmixer.recipe import Optim
from mlpmixer.train.lamb import Lamb


def optimiser_of(model: nn.Module, how: Optim) -> torch.optim.Optimizer:
    """Only kernels are decayed: maps and convolutions, not biases and not the scales of normalisation."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kernels = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return OPTIMISERS[how.name]([group for group in groups if group["params"]], how)


OPTIMISERS: dict[str, Callable[[list, Optim], torch.optim.Optimizer]] = {
    # torch's AdamW shrinks kernels by lr · decay a step. The authors' Adam shrinks them by their own decay times the
    # schedule, apart from lr: their 1e-4 at lr 0.001 is 0.1 here.
    "adamw": lambda groups, how: torch.optim.AdamW(groups, how.lr, how.betas),
    "adam": lambda groups, how: torch.optim.Adam(groups, how.lr, how.betas),
    "sgd": lambda groups, how: torch.optim.SGD(groups, how.lr, how.momentum),
    "lamb": lambda groups, how: Lamb(groups, how.lr, how.betas),
}


def lr_at(step: int, steps: int, how: Optim) -> float:
    """The learning rate of a step, counted from 0: up to the peak in `warmup_steps`, then along the schedule."""
    if step < how.warmup_steps:
        return how.lr * (step + 1) / how.warmup_steps
    way = (step - how.warmup_steps) / max(steps - how.warmup_steps, 1)
    if how.schedule == "steps":
        return how.lr * 0.1 ** sum(step >= milestone * steps for milestone in how.milestones)
    left = {"linear": 1 - way, "cosine": (1 + math.cos(math.pi * way)) / 2, "constant": 1.0}[how.schedule]
    return how.lr * (how.final + (1 - how.final) * left)
