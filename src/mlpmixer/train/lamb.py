"""LAMB: Adam whose step, for each array of weights, is as long as the array itself times lr (arXiv 1904.00962)."""

from __future__ import annotations

from collections.abc import Callable

import torch


class Lamb(torch.optim.Optimizer):
    """The decay is added to the step before it is scaled; arrays that are not decayed take Adam's step as it is."""

    def __init__(self, params, lr: float, betas: tuple[float, float], eps: float = 1e-6, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                count = state["step"].item()
                state["mean"].lerp_(parameter.grad, 1 - first)
                state["square"].mul_(second).addcmul_(parameter.grad, parameter.grad, value=1 - second)
                root = (state["square"] / (1 - second**count)).sqrt_().add_(group["eps"])
                update = state["mean"] / (1 - first**count) / root
                if group["weight_decay"] > 0:
                    update.add_(parameter, alpha=group["weight_decay"])
                    weight, length = parameter.norm(), update.norm()
                    update *= torch.where((weight > 0) & (length > 0), weight / length, 1.0)
                parameter.add_(update, alpha=-group["lr"])
