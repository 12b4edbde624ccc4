"""One step of learning: from the parts of a batch to new weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mlpmixer.data.loader import Batch
from mlpmixer.data.mix import mix_of, mixes
from mlpmixer.data.preprocess import normalize
from mlpmixer.data.rng import draw
from mlpmixer.engines import trainable
from mlpmixer.machine.distributed import Group
from mlpmixer.machine.dtypes import DTYPES
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer
from mlpmixer.recipe import Machine, Recipe
from mlpmixer.train.loss import as_targets, distance_to, loss_of
from mlpmixer.train.memory import advice, ran_out
from mlpmixer.train.optim import lr_at, optimizer_of
from mlpmixer.train.sharpness import gradients_of, look_uphill
from mlpmixer.train.teacher import Teacher


class Update:
    """`model` holds the weights; `alone` and `together` run it, on this device and over all.

    Nothing here remembers more than the weights, the optimizer and the average: all chance is drawn from the step.
    """

    def __init__(self, recipe: Recipe, model: Classifier, steps: int, group: Group):
        self.recipe, self.steps, self.group = recipe, steps, group
        self.preprocessing = model.metadata.preprocessing
        self.model = model.to(group.device)
        self.alone = quickest(self.model, recipe, group)
        self.together = spread(self.alone, self.model, recipe.machine, group)
        self.optimizer = optimizer_of(self.model, recipe.optim)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.train.precision == "fp16")
        self.teacher = Teacher(recipe.loss.teacher, model, group.device) if recipe.loss.teacher else None
        self.average = [p.detach().clone() for p in self.model.parameters()] if recipe.optim.ema else []

    def __call__(self, step: int, parts: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """The mean loss over this device's share of the batch, and the gradient's norm before it was clipped."""
        try:
            return self.learn(step, parts)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
        # Outside of `except`, where the traceback would keep what filled the memory.
        self.optimizer.zero_grad()
        ahead = int(mixes(self.recipe.augment))
        at_once = len(parts[0].labels) - ahead
        alone = self.group.world_size == 1  # others would have to try the same
        # Two parts: the second is learnt from beside the gradients of the first.
        raise advice(at_once, (lambda fewer: self.learn(step, [parts[0].first(fewer + ahead)] * 2)) if alone else None)

    def learn(self, step: int, parts: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        how = self.recipe.optim
        lr = lr_at(step, self.steps, how)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.gradients(step, parts)
        if how.sharpness != "none":
            look_uphill([*self.model.parameters()], lambda: self.gradients(step, parts), how, lr)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(gradients_of([*self.model.parameters()]))
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if how.clip:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), how.clip, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average:
            blend = get_ema_multi_avg_fn(how.ema)
            blend(self.average, [p.detach() for p in self.model.parameters()], 0)
        return loss, norm

    def gradients(self, step: int, parts: Sequence[Batch]) -> Tensor:
        """Adds the gradients of the whole batch to the weights'; returns its mean loss.

        Called twice for one step, it draws the same dropout twice.
        """
        seed, augment = self.recipe.train.seed, self.recipe.augment
        torch.manual_seed(draw("step", seed, step, self.group.rank))
        mix, ahead = mix_of(augment, seed, step), int(mixes(augment))
        share = self.recipe.train.batch_size // self.group.world_size
        total = torch.zeros((), device=self.group.device)
        for number, part in enumerate(parts, 1):
            images = normalize(part.images.to(self.group.device, non_blocking=True), self.preprocessing)
            targets = as_targets(part.labels.to(self.group.device, non_blocking=True), self.model.config.num_classes)
            images, targets = mix(images, targets) if mix else (images[ahead:], targets[ahead:])
            with self.in_step(last=number == len(parts)):
                with self.autocast():
                    logits = self.together(images)
                loss = self.loss(logits, images, targets).sum() / share
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def loss(self, logits: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        how = self.recipe.loss
        own = loss_of(logits, targets, how)
        if self.teacher is None:
            return own
        with self.autocast():
            theirs = self.teacher(images)
        return own * (1 - how.teacher_share) + distance_to(theirs, logits, how) * how.teacher_share

    def predict(self, images: Tensor) -> Tensor:
        """As in training: in the recipe's precision, on this device alone."""
        with self.autocast():
            return self.alone(images)

    def autocast(self) -> AbstractContextManager[object]:
        precision = self.recipe.train.precision
        return torch.autocast(self.group.device.type, DTYPES[precision], enabled=precision != "fp32")

    def in_step(self, *, last: bool) -> AbstractContextManager[object]:
        """Devices exchange gradients once a step, with the last part."""
        if isinstance(self.together, DistributedDataParallel) and not last:
            return self.together.no_sync()
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
        return nullcontext()


def quickest(model: Classifier, recipe: Recipe, group: Group) -> nn.Module:
    """What computes the model's function on one device: our own kernels where they can, else the model itself."""
    machine, bf16 = recipe.machine, recipe.train.precision == "bf16"
    sharded = group.world_size > 1 and machine.parallel == "fsdp"
    if machine.kernels and bf16 and not sharded and trainable.why_not(model) is None:
        return trainable.Trainable(cast(Mixer, model), low_memory=machine.low_memory)
    if machine.compile:
        with warnings.catch_warnings():  # the compiler's own parts are older than it likes
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
            model.compile()
    return model


def spread(runner: nn.Module, model: Classifier, machine: Machine, group: Group) -> nn.Module:
    """The same over all devices: whole copies that average their gradients, or a share of the model on each."""
    if group.world_size > 1 and machine.parallel == "fsdp":
        mesh = init_device_mesh(group.device.type, (group.world_size,))
        for block in getattr(model, "blocks", []):
            fully_shard(block, mesh=mesh)
        # By default the outermost part stays whole after measuring, and the next step would learn from old weights.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
    if group.world_size > 1 and machine.parallel == "ddp":
        return DistributedDataParallel(runner)
    return runner
