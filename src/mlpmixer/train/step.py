"""A training step: from the parts of a batch to new weights; and all state that steps carry on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mlpmixer.data.loader import Batch
from mlpmixer.data.mix import mix_of, mixes
from mlpmixer.data.preprocess import normalize
from mlpmixer.data.rng import random_uint64
from mlpmixer.engines import trainable
from mlpmixer.machine.devices import DTYPES
from mlpmixer.machine.distributed import Group, sum_over_processes
from mlpmixer.models import family_of
from mlpmixer.models.batch_norm import BatchNorm, has_batch_norm
from mlpmixer.models.classifier import Classifier
from mlpmixer.models.mixer import Mixer
from mlpmixer.recipe import Machine, Recipe
from mlpmixer.train.agc import clip_units
from mlpmixer.train.errors import is_out_of_memory, suggest_micro_batch
from mlpmixer.train.loss import as_targets, distance_to, loss_of
from mlpmixer.train.optim import ema_decay_at, lr_at, optimizer_of
from mlpmixer.train.sharpness import gradients_of, sharpness_aware
from mlpmixer.train.teacher import Teacher


class TrainStep:
    """Model, optimizer, gradient scaler and average of weights; `step` changes them all.

    `model` holds the weights; `local` runs it on this device, and `parallel` over all of them. No other state is kept
    from step to step: all random numbers are drawn from the seed and the step's number.
    """

    def __init__(self, recipe: Recipe, model: Classifier, steps: int, group: Group):
        self.recipe, self.steps, self.group = recipe, steps, group
        self.preprocessing = model.metadata.preprocessing
        self.model = model.to(group.device)
        self.local = fastest_local(self.model, recipe, group)
        self.parallel = wrap_ddp(self.local, self.model, recipe.machine, group)
        self.optimizer = optimizer_of(self.model, recipe.optim)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.train.precision == "fp16")
        self.teacher = Teacher(recipe.loss.teacher, model, group.device) if recipe.loss.teacher else None
        averaged = weights_of(self.model) if recipe.optim.ema else {}
        self.average = {name: weight.clone() for name, weight in averaged.items()}

    def step(self, number: int, parts: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Learns from one batch.

        Args:
            number: The step, counted from 0.
            parts: This device's share of the batch, in micro-batches.

        Returns:
            The mean loss over this device's share, and the gradient's norm before clipping.

        Raises:
            RunError: Memory ran out; the message names a micro-batch that fits.
        """
        try:
            return self._step(number, parts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside of `except`, where the traceback would keep what filled the memory.
        self.optimizer.zero_grad()
        ahead = int(mixes(self.recipe.augment))
        images = len(parts[0].labels) - ahead

        def attempt(fewer: int) -> object:
            return self._step(number, [parts[0].first(fewer + ahead)] * 2)  # twice: the second beside gradients

        # Of several processes, the others would have to try the same.
        raise suggest_micro_batch(images, attempt if self.group.world_size == 1 else None)

    def _step(self, number: int, parts: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        how = self.recipe.optim
        lr = lr_at(number, self.steps, how)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.gradients(number, parts)
        if how.sharpness != "none":
            sharpness_aware([*self.model.parameters()], lambda: self.gradients_only(number, parts), how, lr)
        self.scaler.unscale_(self.optimizer)
        norm = left = self.gradient_norm()
        if how.agc:
            clip_units(self.model, how.agc)
            left = self.gradient_norm() if how.clip else norm
        if how.clip:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), how.clip, left)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average:
            blend, now = get_ema_multi_avg_fn(ema_decay_at(number, how)), weights_of(self.model)
            for sharded in (True, False):  # the two do not mix in one call
                names = [name for name, weight in now.items() if isinstance(weight, DTensor) is sharded]
                if names:
                    blend([self.average[name] for name in names], [now[name] for name in names], 0)
        return loss, norm

    def gradients(self, number: int, parts: Sequence[Batch]) -> Tensor:
        """Adds the gradients of the whole batch to the weights'; returns its mean loss.

        Called twice for one step, it draws the same dropout twice.
        """
        seed, augment = self.recipe.train.seed, self.recipe.augment
        torch.manual_seed(random_uint64("step", seed, number, self.group.rank))
        mix, ahead = mix_of(augment, seed, number), int(mixes(augment))
        share = self.recipe.train.batch_size // self.group.world_size
        total = torch.zeros((), device=self.group.device)
        for count, part in enumerate(parts, 1):
            images = normalize(part.images.to(self.group.device, non_blocking=True), self.preprocessing)  # (n, 3, H, W)
            targets = as_targets(part.labels.to(self.group.device, non_blocking=True), self.model.config.num_classes)
            images, targets = mix(images, targets) if mix else (images[ahead:], targets[ahead:])
            with self._synchronized(last=count == len(parts)):
                with self.autocast():
                    logits = self.parallel(images)  # (n, classes)
                loss = self.loss(logits, images, targets).sum() / share
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def gradients_only(self, number: int, parts: Sequence[Batch]) -> None:
        """The same, but the running averages of a batch normalization stay as they are."""
        before = [(average, average.clone()) for average in self.model.buffers()]
        self.gradients(number, parts)
        for average, value in before:
            average.copy_(value)

    def gradient_norm(self) -> Tensor:
        """Of all weights together."""
        norm = nn.utils.get_total_norm(gradients_of([*self.model.parameters()]))
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def loss(self, logits: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """For each image, the teacher's term included."""
        how = self.recipe.loss
        own = loss_of(logits, targets, how)
        if self.teacher is None:
            return own
        with self.autocast():
            theirs = self.teacher(images)
        return own * (1 - how.teacher_share) + distance_to(theirs, logits, how) * how.teacher_share

    def predict(self, images: Tensor) -> Tensor:
        """Logits as in training: in the recipe's precision, on this device alone."""
        with self.autocast():
            return self.local(images)

    def autocast(self) -> AbstractContextManager[object]:
        precision = self.recipe.train.precision
        return torch.autocast(self.group.device.type, DTYPES[precision], enabled=precision != "fp32")

    def _synchronized(self, *, last: bool) -> AbstractContextManager[object]:
        """Devices exchange gradients once a step, with the last part."""
        if isinstance(self.parallel, DistributedDataParallel) and not last:
            return self.parallel.no_sync()
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
        return nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The tensors themselves, not copies, by names that hold for any number of devices."""
        state = {
            "model": get_model_state_dict(self.model),
            "optimizer": get_optimizer_state_dict(self.model, self.optimizer),
        }
        if self.average:
            state["average"] = self.average
        if self.scaler.is_enabled():
            state["scaler"] = {name: torch.tensor(value) for name, value in self.scaler.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of what `state_dict` gave and a checkpoint was read into."""
        # Most was read in place; the optimizer and the scaler copy the rest.
        set_model_state_dict(self.model, state["model"])
        set_optimizer_state_dict(self.model, self.optimizer, state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict({name: value.item() for name, value in state["scaler"].items()})

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has its averaged weights meanwhile, where the recipe keeps an average."""
        weights = weights_of(self.model) if self.average else {}
        own = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(self.average[name])
        try:
            yield
        finally:
            for name, weight in weights.items():
                weight.copy_(own[name])

    def gather_model(self) -> Classifier | None:
        """A plain copy of the model on the CPU, averaged if there is an average, as `weights.save` takes it.

        Returns:
            On the first process, the model; the others help to gather it and get None.
        """
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        with self.averaged():
            state = get_model_state_dict(self.model, options=options)
            state = {name: tensor.clone() for name, tensor in state.items() if isinstance(tensor, Tensor)}
        if not self.group.is_main:
            return None
        with torch.device("meta"):
            copy = family_of(self.model).build(self.model.config, self.model.name)
        copy.load_state_dict(state, assign=True)
        copy.metadata = self.model.metadata
        return copy.eval()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What an average is kept of: parameters, and the running averages of batch normalization."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point()}


def fastest_local(model: Classifier, recipe: Recipe, group: Group) -> nn.Module:
    """What computes the model's function on one device: mlpmixer's kernels where they can, else the model itself."""
    machine, bf16 = recipe.machine, recipe.train.precision == "bf16"
    sharded = group.world_size > 1 and machine.parallel == "fsdp"
    if machine.kernels and bf16 and not sharded and trainable.why_not(model) is None:
        return trainable.Trainable(cast(Mixer, model), low_memory=machine.low_memory)
    # Compiled in parts, between the sums over devices, torch 2.13 takes one layer's strides for another's.
    if machine.compile and not (group.world_size > 1 and has_batch_norm(model)):
        with warnings.catch_warnings():  # the compiler's own parts are older than it likes
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
            model.compile()
    return model


def wrap_ddp(local: nn.Module, model: Classifier, machine: Machine, group: Group) -> nn.Module:
    """The same over all devices: replicas that average gradients (DDP), or a shard of the model on each (FSDP2)."""
    for layer in model.modules() if group.world_size > 1 else ():
        if isinstance(layer, BatchNorm):
            layer.sum_over_devices = sum_over_processes
    if group.world_size > 1 and machine.parallel == "fsdp":
        mesh = init_device_mesh(group.device.type, (group.world_size,))
        stages = [block for stage in getattr(model, "stages", []) for block in stage]
        for block in [*getattr(model, "blocks", []), *stages]:
            fully_shard(block, mesh=mesh)
        # By default the outermost part stays whole after measuring, and the next step would learn from old weights.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
    if group.world_size > 1 and machine.parallel == "ddp":
        return DistributedDataParallel(local)
    return local
