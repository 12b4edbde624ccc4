"""timm's Mixer, operation by operation and compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mlpmixer.bench.systems import Subject, System
from mlpmixer.data.torchvision_guard import ensure_torchvision
from mlpmixer.models.mixer import MixerConfig


def twin(subject: Subject) -> nn.Module:
    """timm's, with the subject's weights."""
    return shaped(subject.model.config, subject.timm_weights).eval().requires_grad_(False)


def shaped(config: MixerConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """timm's Mixer of this shape, with weights in timm's layout."""
    ensure_torchvision()
    from timm.models.mlp_mixer import MlpMixer

    model = MlpMixer(
        num_classes=config.num_classes,
        img_size=config.image_size[0],
        in_chans=config.in_channels,
        patch_size=config.patch_size,
        num_blocks=config.layers,
        embed_dim=config.channels,
        mlp_ratio=(config.token_hidden / config.channels, config.channel_hidden / config.channels),
    )
    model.load_state_dict(weights)
    return model


def start(subject: Subject, precision: str, _batch: int, device: torch.device, quick: bool) -> list[System]:
    """In bfloat16 with all weights and images in it, which is faster than autocast."""
    takes = "bfloats" if precision == "bf16" else "floats"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    network = twin(subject).to(device, dtype)
    systems = [System("timm", "eager", takes, eager(network))]
    return systems if quick else [*systems, System("timm", "compiled", takes, frozen(network, device))]


def eager(network: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images).cpu()

    return run


def frozen(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Compiled, with the weights laid out for their products once. The first call takes seconds to minutes."""
    import torch._inductor.config as inductor

    torch._dynamo.reset()  # it gives up after so many models of one kind
    freezing = inductor.patch(freezing=True)
    compiled = torch.compile(network, mode="max-autotune" if device.type == "cuda" else None, dynamic=False)

    def run(images: Tensor) -> Tensor:
        with freezing, torch.no_grad():
            return compiled(images).cpu()

    return run
