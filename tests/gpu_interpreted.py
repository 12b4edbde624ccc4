"""Our GPU kernels on CPU tensors, through Triton's interpreter; prints how far each is from what it should be.

TRITON_INTERPRET=1 python tests/gpu_interpreted.py [all]    # all: each way to cut the work, not only the first
"""

# pyright: reportMissingImports=false, reportIndexIssue=false, reportFunctionMemberAccess=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

import mlpmixer
from mlpmixer.data.preprocess import normalize
from mlpmixer.engines import kernels
from mlpmixer.engines.triton_network import WAYS, Network
from mlpmixer.kernels.gpu import channels, norms, stem, tokens
from mlpmixer.kernels.weights import GeluForm, HalfWeights
from mlpmixer.metadata import Preprocessing
from mlpmixer.models.mixer import Mixer

HOW = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
IMAGES, TOKENS, CHANNELS, TOKEN_HIDDEN, CHANNEL_HIDDEN = 2, 49, 80, 40, 208  # no side is a multiple of any tile's


def mend() -> None:
    """Two things that the interpreter of Triton 3.6 to 3.9 gets wrong: it multiplies bfloat16 as if its bits were whole
    numbers, and NumPy 2.4 does not let it use its scalars as the bounds of a loop."""
    patch, dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def floats(table: Any) -> Any:
        if table.dtype.scalar != tl.bfloat16:
            return table
        return interpreter.TensorHandle((table.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    interpreter._patch_lang_tensor = patched
    interpreter.InterpreterBuilder.create_dot = (  # pyright: ignore[reportAttributeAccessIssue]
        lambda self, a, b, *rest: dot(self, floats(a), floats(b), *rest)
    )


def in_all_ways(kernel: Any, ways: list[Any], work: Callable[[], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Of cutting the kernel's work."""
    first = kernel.configs
    for way in ways:
        kernel.configs = [way]
        yield ", ".join(map(str, way.kwargs.values())), work()
    kernel.configs = first


def distance(found: Tensor, wanted: Tensor) -> float:
    return ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()


def parts(every: bool) -> dict[str, float]:
    """Each kernel, against PyTorch in float32."""
    x = 2 * torch.randn(IMAGES * TOKENS, CHANNELS).bfloat16() + 0.5
    table, found = x.float(), norms.statistics(x)
    gamma, beta, ahead = torch.randn(3, CHANNELS)
    far: dict[str, float] = {}

    far["mean"] = distance(found[:, 0], table.mean(dim=1))
    far["rate"] = distance(found[:, 1], (table.var(dim=1, correction=0) + 1e-6).rsqrt())
    normed = F.layer_norm(table - ahead, (CHANNELS,), eps=1e-6)
    far["normalized"] = distance(norms.normalized(x, ahead, torch.bfloat16), normed)
    far["normalized, 8 bits"] = distance(norms.normalized(x, ahead, channels.BYTE, 16.0), 16 * normed)
    normed = F.layer_norm(table, (CHANNELS,), gamma, beta, eps=1e-6).unflatten(0, (IMAGES, TOKENS))
    far["mean of normed"] = distance(norms.mean_of_normed(x, TOKENS, gamma, beta), normed.mean(dim=1))
    pixels = torch.randint(0, 256, (IMAGES, 3, 10, 15), dtype=torch.uint8)
    unfolded = F.unfold(pixels.float(), 5, stride=5).transpose(1, 2).flatten(0, 1)
    far["patches"] = distance(stem.patches(pixels, 5), unfolded - stem.MIDDLE)

    forms: tuple[GeluForm, ...] = ("tanh", "erf")
    for form in forms:
        approximate, several = ("none", 1) if form == "erf" else ("tanh", None if every else 1)
        w1, w2 = torch.randn(TOKEN_HIDDEN, TOKENS) / 7, torch.randn(TOKENS, TOKEN_HIDDEN) / 6
        b1, b2 = torch.randn(TOKEN_HIDDEN), torch.randn(TOKENS)
        weights = tokens.packed(HalfWeights(gamma, beta, w1, b1, w2, b2))
        mix = partial(tokens.token_mixing, x, weights, ahead, gelu_form=form)
        wanted = w2 @ F.gelu(w1 @ normed + b1[:, None], approximate=approximate) + b2[:, None]
        for cut, y in in_all_ways(tokens._token_mixing, tokens.ways()[:several], mix):
            far[f"token mixing, {form}, {cut}"] = distance(y.float() - table - ahead, wanted.flatten(0, 1))

        w3, w4 = torch.randn(CHANNEL_HIDDEN, CHANNELS) / 9, torch.randn(CHANNELS, CHANNEL_HIDDEN) / 14
        b3, b4 = torch.randn(CHANNEL_HIDDEN), torch.randn(CHANNELS)
        plain = F.layer_norm(table, (CHANNELS,), eps=1e-6)
        wanted = F.gelu(plain @ w3.T + b3, approximate=approximate)
        centered = channels.centered(w3).bfloat16()
        shifted = (table + ahead).bfloat16()
        before, about = -(centered.float() @ ahead), norms.statistics(shifted, ahead)
        first = partial(channels.product, shifted, centered, b3, normed=(about, before), active=form)
        for cut, active in in_all_ways(channels._product, channels.ways()[:several], first):
            far[f"first product, {form}, {cut}"] = distance(active, wanted)
        second = partial(channels.product, wanted.bfloat16(), w4.bfloat16(), b4, skip=x)
        for cut, y in in_all_ways(channels._product, channels.ways()[:several], second):
            far[f"second product, {cut}"] = distance(y.float() - table, wanted @ w4.T + b4)
        (small3, scale3), (small4, scale4) = channels.as_bytes(w3), channels.as_bytes(w4)
        normed8 = norms.normalized(x, torch.zeros(CHANNELS), channels.BYTE, 16.0)
        active = channels.product(
            normed8, small3, b3, scale=scale3 / 16, active=form, dtype=channels.BYTE, factor=4.0
        )  # fmt: skip
        far[f"first product, {form}, 8 bits"] = distance(active.float() / 4, wanted)
        again = channels.active_bytes((plain @ w3.T).bfloat16(), b3, torch.ones(CHANNEL_HIDDEN), 4.0, gelu_form=form)
        far[f"active bytes, {form}"] = distance(again.float() / 4, wanted)
        wide = channels.product((wanted * 4).to(channels.BYTE), small4, b4, scale=scale4 / 4, skip=x)
        far["second product, 8 bits"] = distance(wide.float() - table, wanted @ w4.T + b4)
    return far


def wholes(every: bool) -> dict[str, float]:
    """Whole networks, against the model that is written to be read."""
    far: dict[str, float] = {}
    cases = [("mixer_nano", {"image_size": (20, 28), "gelu": "erf"}, WAYS[: None if every else 2])]
    cases += [("mixer_pico", {}, WAYS[:1])] * every
    for name, options, several in cases:
        model = mlpmixer.create(name, layers=1, num_classes=10, **options).eval()
        assert isinstance(model, Mixer)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            pixels = torch.randint(0, 256, (IMAGES, 3, *model.config.image_size), dtype=torch.uint8)
            wanted, seen = model(normalize(pixels, HOW), intermediates=True)
        for precision, ways in product(("bf16", "fp8"), several):
            network = Network(kernels.parts(model, HOW), precision, ways, torch.device("cpu"))
            features, logits = network(pixels)
            said = f"{name}, {precision}, {' and '.join(ways)}"
            far[f"{said}, features"] = distance(features, seen["pre_logits"])
            far[f"{said}, logits"] = distance(logits, wanted)
    return far


if __name__ == "__main__":
    mend()
    torch.manual_seed(0)
    every = "all" in sys.argv[1:]
    print(json.dumps(parts(every) | wholes(every)))
