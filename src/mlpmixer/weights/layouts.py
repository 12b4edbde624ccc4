"""The language of layouts: how others name and shape the arrays of our models. The tables are in `adapters/`.

    timm      PyTorch Image Models, safetensors or .pth
    linen     the authors' Flax Linen code, .npz
    older     the authors' files from before that, .npz
    vit_jax   those files' ViTs as today's vit_jax has them in memory, and saves them, .npz

A line reads: our name, their name, the form theirs has. `{i}` and `{j}` stand for numbers, and hold on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mlpmixer.models.layers import GeluForm

Arrays = tuple[Tensor, ...]


@dataclass(frozen=True)
class Form:
    """A lossless way to reshape their arrays into ours and back. Works on meta tensors, where only shapes count."""

    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays, Any], Arrays]  # also takes the config: our arrays do not show attention heads


def one(to_ours: Callable[[Tensor], Tensor], to_theirs: Callable[[Tensor], Tensor]) -> Form:
    return Form(lambda theirs: (to_ours(theirs[0]),), lambda ours, _: (to_theirs(ours[0]),))


SAME = one(lambda t: t, lambda t: t)
DENSE = one(lambda t: t.transpose(0, 1), lambda t: t.transpose(0, 1))  # (in, out): Flax multiplies from the right
CONV = one(lambda t: t.permute(3, 2, 0, 1), lambda t: t.permute(2, 3, 1, 0))  # height, width, in, out
POINT = one(lambda t: t[:, :, 0, 0], lambda t: t[:, :, None, None])  # a 1×1 convolution, out first
FLAX_POINT = one(lambda t: t[0, 0].transpose(0, 1), lambda t: t.transpose(0, 1)[None, None])
BROADCAST = one(lambda t: t.flatten(), lambda t: t[None, None, None])  # (1, 1, 1, C)


@dataclass(frozen=True)
class Line:
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    form: Form


def line(ours: str, theirs: str, form: Form) -> Line:
    return Line(tuple(ours.split()), tuple(theirs.split()), form)


def weight_and_bias(ours: str, theirs: str, kernel: Form = DENSE) -> list[Line]:
    """A linear map or convolution of Flax."""
    return [line(f"{ours}.weight", f"{theirs}/kernel", kernel), line(f"{ours}.bias", f"{theirs}/bias", SAME)]


def flax_norm(ours: str, theirs: str, form: Form = SAME) -> list[Line]:
    return [line(f"{ours}.weight", f"{theirs}/scale", form), line(f"{ours}.bias", f"{theirs}/bias", form)]


def both(ours: str, theirs: str) -> list[Line]:
    """A layer of PyTorch, named otherwise."""
    return [line(f"{ours}.weight", f"{theirs}.weight", SAME), line(f"{ours}.bias", f"{theirs}.bias", SAME)]


def batch_norm(ours: str, theirs: str) -> list[Line]:
    """A batch normalization of PyTorch. It also counts its batches, which is not read."""
    averages = ("running_mean", "running_var")
    return [*both(ours, theirs), *(line(f"{ours}.{name}", f"{theirs}.{name}", SAME) for name in averages)]


@dataclass(frozen=True)
class Layout:
    """How others name and shape a family's arrays.

    Attributes:
        name: As `save` takes it.
        lines: Their names and forms; none in our own layout.
        marks: Keys that no other layout has together, or none that stands before it.
        gelu: The form that the layout's own code computes.
        squeezed: In some files, arrays with this in their names have sides of length 1 besides.
        fits: (config) → whether it has a place for such a model; for families that have several of one name.
    """

    name: str
    lines: list[Line] = field(repr=False)
    marks: tuple[str, ...]
    gelu: GeluForm = "tanh"
    squeezed: str = ""
    fits: Callable[[Any], bool] = lambda _: True


OWN = Layout("mlpmixer", [], ())

_NUMBER = re.compile(r"\{([ij])(\+1)?(:02)?\}")


def fill(template: str, numbers: Mapping[str, int]) -> str:
    def digits(found: re.Match[str]) -> str:
        letter, plus, padded = found.groups()
        return format(numbers[letter] + (1 if plus else 0), "02" if padded else "")

    return _NUMBER.sub(digits, template)


def match(template: str, name: str) -> dict[str, int] | None:
    """The numbers for which `fill(template, numbers)` is `name`."""
    pattern, letters, end = "", [], 0
    for found in _NUMBER.finditer(template):
        pattern += re.escape(template[end : found.start()]) + r"(\d{1,4})"
        letters.append((found[1], 1 if found[2] else 0))
        end = found.end()
    hit = re.fullmatch(pattern + re.escape(template[end:]), name)
    if hit is None:
        return None
    numbers = {letter: int(digits) - plus for (letter, plus), digits in zip(letters, hit.groups(), strict=True)}
    return numbers if fill(template, numbers) == name else None


def pair(layout: Layout, ours: Iterable[str]) -> list[Line]:
    """The layout's lines for a model with the parameters `ours`, numbers filled in; every parameter in one line.

    Our own layout is the one without lines. Elsewhere a parameter that has no place gets a line to nowhere.
    """
    if not layout.lines:
        return [Line((name,), (name,), SAME) for name in ours]
    left = dict.fromkeys(ours)
    lines = []
    for template in layout.lines:
        for name in list(left):
            numbers = match(template.ours[0], name)
            names = numbers is not None and tuple(fill(t, numbers) for t in template.ours)
            if numbers is not None and names and all(n in left for n in names):
                lines.append(Line(names, tuple(fill(t, numbers) for t in template.theirs), template.form))
                for taken in names:
                    del left[taken]
    return lines + [Line((name,), (), SAME) for name in left]


def our_shapes(layout: Layout, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As much of our side as their (meta) tensors yield; what does not fit any line is left out."""
    ours: dict[str, Tensor] = {}
    for template in layout.lines:
        for name in theirs:
            numbers = match(template.theirs[0], name)
            names = numbers is not None and [fill(t, numbers) for t in template.theirs]
            if numbers is not None and names and all(n in theirs for n in names):
                try:
                    made = template.form.to_ours(tuple(theirs[n] for n in names))
                except (RuntimeError, IndexError):
                    continue  # of a shape that the form cannot read: the strict comparison will name it
                for ours_name, tensor in zip((fill(t, numbers) for t in template.ours), made, strict=True):
                    ours.setdefault(ours_name, tensor)
    return ours
