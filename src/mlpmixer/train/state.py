"""All that a run carries from step to step, by names that hold for any number of devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier
from mlpmixer.train.checkpoint import Checkpoints
from mlpmixer.train.step import Update


class State:
    """`best` is the highest share of the validation split that was right so far; below 0 before any was measured."""

    def __init__(self, update: Update):
        self.update = update
        self.best = torch.tensor(-1.0, dtype=torch.float64)

    def dict(self) -> dict[str, Any]:
        """The tensors themselves, not copies."""
        update = self.update
        names = [name for name, _ in update.model.named_parameters()]
        state = {
            "model": get_model_state_dict(update.model),
            "optimizer": get_optimizer_state_dict(update.model, update.optimizer),
            "best": self.best,
        }
        if update.average:
            state["average"] = dict(zip(names, update.average, strict=True))
        if update.scaler.is_enabled():
            state["scaler"] = {name: torch.tensor(value) for name, value in update.scaler.state_dict().items()}
        return state

    def restore(self, checkpoints: Checkpoints) -> tuple[int, list[str]]:
        """From the newest checkpoint; how many steps were done then, and warnings about damaged ones."""
        update, state = self.update, self.dict()
        step, warnings = checkpoints.restore(state)
        if not step:
            return 0, warnings
        # Most was read in place; the rest is told to those who keep it elsewhere.
        set_model_state_dict(update.model, state["model"])
        set_optimizer_state_dict(update.model, update.optimizer, state["optimizer"])
        if update.scaler.is_enabled():
            update.scaler.load_state_dict({name: value.item() for name, value in state["scaler"].items()})
        return step, warnings


@contextmanager
def averaged(update: Update) -> Iterator[None]:
    """The model has its averaged weights meanwhile, where the recipe keeps an average."""
    weights = [p.detach() for p in update.model.parameters()]
    if not update.average:
        yield
        return
    own = [weight.clone() for weight in weights]
    for weight, average in zip(weights, update.average, strict=True):
        weight.copy_(average)
    try:
        yield
    finally:
        for weight, before in zip(weights, own, strict=True):
            weight.copy_(before)


def finished(update: Update) -> Classifier | None:
    """A plain copy of the model on the CPU, as `save` takes it, averaged if there is an average. On the first process;
    the others help to bring it together and get None."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    with averaged(update):
        state = get_model_state_dict(update.model, options=whole)
        state = {name: tensor.clone() for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if not update.group.is_main:
        return None
    model = update.model
    with torch.device("meta"):
        copy = family_of(model).build(model.config, model.name)
    copy.load_state_dict(state, assign=True)
    copy.metadata = model.metadata
    return copy.eval()
