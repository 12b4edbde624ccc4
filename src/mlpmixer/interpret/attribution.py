"""Attribution maps: which parts of an image a class score depends on, by three methods; and their faithfulness."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mlpmixer.interpret.receptive_field import on_grid
from mlpmixer.models import family_of
from mlpmixer.models.classifier import Classifier

AT_ONCE = 32  # images


def gray(model: Classifier, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 1 1"]:
    """The baseline image: mid-gray, normalized as the model's images are."""
    how = model.metadata.preprocessing
    return torch.tensor([(0.5 - m) / s for m, s in zip(how.mean, how.std, strict=True)])[:, None, None].to(image)


def integrated_gradients(
    model: Classifier, image: Float[Tensor, "3 H W"], label: int, *, steps: int = 64
) -> Float[Tensor, "3 H W"]:
    """Integrated gradients of the class's logit, along the straight line from gray to the image.

    By the midpoint rule with `steps` intervals, shorter near gray, where a normalized network changes fastest; the sum
    is nearly the logit's change from gray.
    """
    nothing, total = gray(model, image), torch.zeros_like(image)
    middles = (torch.arange(steps) + 0.5) / steps
    for part, lengths in zip((middles**3).split(AT_ONCE), (3 * middles**2).split(AT_ONCE), strict=True):
        with torch.enable_grad():
            between = (nothing + (image - nothing) * part.to(image)[:, None, None, None]).requires_grad_()
            logits = model(between)[:, label].sum()
            (gradient,) = torch.autograd.grad(logits, between)
        total += (gradient * lengths.to(image)[:, None, None, None]).sum(0)
    return (image - nothing) * total / steps


def token_contributions(
    model: Classifier, image: Float[Tensor, "3 H W"], label: int
) -> Float[Tensor, "rows columns"] | None:
    """The exact contribution of each token to the class's logit: the head is linear, and its input a mean over tokens.

    Their sum and the head's bias are the logit. None for a ViT that classifies by its class token.
    """
    head, averaged = model.head, family_of(model).mean_of(model.config)
    if not isinstance(head, nn.Linear) or averaged is None:
        return None
    with torch.no_grad():
        table = model(image[None], intermediates=True)[1][averaged][0]
        tables = table.permute(1, 2, 0) if table.ndim == 3 else on_grid(model, table)
        return tables @ head.weight[label] / (tables.shape[0] * tables.shape[1])


def occlusion(model: Classifier, image: Float[Tensor, "3 H W"], label: int, side: int) -> Float[Tensor, "rows columns"]:
    """Occlusion: the fall of the class's logit when a square of `side` pixels is made gray, square by square."""
    nothing = gray(model, image)
    height, width = image.shape[1:]
    rows, columns = -(-height // side), -(-width // side)
    with torch.no_grad():
        whole = model(image[None])[0, label]
        found = []
        for places in torch.arange(rows * columns).split(AT_ONCE):
            hidden = image.repeat(len(places), 1, 1, 1)
            for one, place in zip(hidden, places.tolist(), strict=True):
                row, column = divmod(place, columns)
                one[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = nothing
            found.append(whole - model(hidden)[:, label])
    return torch.cat(found).view(rows, columns)


def on_squares(attribution: Float[Tensor, "3 H W"], side: int) -> Float[Tensor, "rows columns"]:
    """The sum over each square of `side` pixels."""
    height, width = attribution.shape[1:]
    padded = nn.functional.pad(attribution.sum(0), (0, -width % side, 0, -height % side))
    return padded.unflatten(0, (-1, side)).unflatten(2, (-1, side)).sum((1, 3))


def deletion_and_insertion(
    model: Classifier,
    image: Float[Tensor, "3 H W"],
    label: int,
    order: Int[np.ndarray, " N"],
    side: int,
    points: int = 16,
) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " T"]]:
    """Deletion and insertion curves: the class's probability as squares are made gray, and as they appear on gray.

    `order`: all squares of `side` pixels, the most important first. With a faithful map the first falls early, and the
    second rises early; their means are the scores.
    """
    height, width = image.shape[1:]
    columns = -(-width // side)
    place = (torch.arange(height)[:, None] // side * columns + torch.arange(width) // side).to(image.device)
    rank = torch.empty(len(order), dtype=torch.int64, device=image.device)
    rank[torch.from_numpy(order).to(image.device)] = torch.arange(len(order), device=image.device)
    when = rank[place]  # (H, W): the turn of each pixel
    turns = torch.linspace(0, len(order), points + 1, device=image.device).round()
    gone = when[None] < turns[:, None, None]
    curves = []
    for hidden in (gone, ~gone):
        images = torch.where(hidden[:, None], gray(model, image), image)
        with torch.no_grad():
            said = torch.cat([model(part).softmax(1)[:, label] for part in images.split(AT_ONCE)])
        curves.append(said.float().cpu().numpy())
    return curves[0], curves[1]
