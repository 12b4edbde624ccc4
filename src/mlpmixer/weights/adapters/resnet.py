"""ResNets in files of others, and at another image size, for which tables of relative positions are resampled.

timm has two layouts: that of ResNet-50, which is torchvision's, too; and that of nets with other operators, such as
botnet26t_256 and lambda_resnet26t, whose names tell what each convolution is for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from mlpmixer.errors import UsageError
from mlpmixer.models.resnet import ResNetConfig
from mlpmixer.weights.adapters import Adapter, Hints, Scheme, State
from mlpmixer.weights.adapters.grids import Grid, Resize
from mlpmixer.weights.adapters.shapes import Shapes, blocks_in, classes_in, shape
from mlpmixer.weights.layouts import SAME, Layout, Line, batch_norm, both, line, one


def conv_norm(ours: str, conv: str, norm: str) -> list[Line]:
    return [line(f"{ours}.conv.weight", f"{conv}.weight", SAME), *batch_norm(f"{ours}.norm", norm)]


# Their stages count from 1.
_UNIT = "layer{i+1}.{j}"

PLAIN = [
    *conv_norm("stem", "conv1", "bn1"),
    *conv_norm("stages.{i}.{j}.reduce", f"{_UNIT}.conv1", f"{_UNIT}.bn1"),
    *conv_norm("stages.{i}.{j}.mix", f"{_UNIT}.conv2", f"{_UNIT}.bn2"),
    *conv_norm("stages.{i}.{j}.expand", f"{_UNIT}.conv3", f"{_UNIT}.bn3"),
    *conv_norm("stages.{i}.{j}.shortcut", f"{_UNIT}.downsample.0", f"{_UNIT}.downsample.1"),
    *both("head", "fc"),
]

LAST_SIDE = one(lambda t: t.squeeze(-1), lambda t: t.unsqueeze(-1))  # (…, 1)
DEPTH_OF_ONE = one(lambda t: t.unsqueeze(-1), lambda t: t.squeeze(-1))  # tables without u

OF_TIMM = ("convolution", "attention", "lambda", "lambda_table")  # operators with a place in these layouts

_OPERATOR, _ATTENTION = "stages.{i}.{j}.mix.operator", "stages.{i}.{j}.self_attn"

OTHERS = [
    *(
        row
        for ours, theirs in (("reduce", "conv1_1x1"), ("mix", "conv2_kxk"), ("expand", "conv3_1x1"))
        for row in conv_norm(
            f"stages.{{i}}.{{j}}.{ours}", f"stages.{{i}}.{{j}}.{theirs}.conv", f"stages.{{i}}.{{j}}.{theirs}.bn"
        )
    ),
    *conv_norm("stages.{i}.{j}.shortcut", "stages.{i}.{j}.shortcut.conv", "stages.{i}.{j}.shortcut.bn"),
    line(f"{_OPERATOR}.qkv.weight", f"{_ATTENTION}.qkv.weight", SAME),
    line(f"{_OPERATOR}.positions.row", f"{_ATTENTION}.pos_embed.height_rel", SAME),
    line(f"{_OPERATOR}.positions.column", f"{_ATTENTION}.pos_embed.width_rel", SAME),
    *batch_norm(f"{_OPERATOR}.norm_query", f"{_ATTENTION}.norm_q"),
    *batch_norm(f"{_OPERATOR}.norm_value", f"{_ATTENTION}.norm_v"),
    line(f"{_OPERATOR}.positions.conv.weight", f"{_ATTENTION}.conv_lambda.weight", LAST_SIDE),
    line(f"{_OPERATOR}.positions.conv.bias", f"{_ATTENTION}.conv_lambda.bias", SAME),
    line(f"{_OPERATOR}.positions.table", f"{_ATTENTION}.pos_emb", DEPTH_OF_ONE),
    *batch_norm("stages.{i}.{j}.mix.operator_norm", "stages.{i}.{j}.post_attn"),
    *both("head", "head.fc"),
]

LAYOUTS = (
    Layout(
        "timm",
        PLAIN,
        ("conv1.weight", "layer1.0.conv3.weight"),
        fits=lambda config: config.operator == "convolution" and config.stem == "7x7",
    ),
    Layout(
        "timm",
        [*conv_norm("stem.{i}", "stem.conv{i+1}.conv", "stem.conv{i+1}.bn"), *OTHERS],
        ("stem.conv2.conv.weight", "stages.0.0.conv1_1x1.conv.weight"),
        fits=lambda config: config.stem == "tiered",
    ),
    Layout(
        "timm",
        [*conv_norm("stem", "stem.conv1.conv", "stem.conv1.bn"), *OTHERS],
        ("stem.conv1.conv.weight", "stages.3.0.self_attn.qkv.weight"),
        fits=lambda config: config.stem == "7x7",
    ),
)


def config_of(_layout: Layout, shapes: Shapes, hints: Hints) -> ResNetConfig:
    stem = "7x7" if "stem.conv.weight" in shapes else "tiered"
    first, last = ("stem.conv.weight",) * 2 if stem == "7x7" else ("stem.0.conv.weight", "stem.2.conv.weight")
    units = tuple(blocks_in(shapes, f"stages.{stage}") for stage in range(blocks_in(shapes, "stages")))
    places = [
        (stage, unit)
        for stage, count in enumerate(units)
        for unit in range(count)
        if f"stages.{stage}.{unit}.mix.operator.qkv.weight" in shapes
    ]
    found: dict[str, Any] = _operator(shapes, *places[0]) if places else {"operator": "convolution"}
    counts = tuple(sum(stage == other for other, _ in places) for stage in range(len(units)))
    size = hints.stored_size or found.pop("image_size", None) or hints.prepared_size or (224, 224)
    return ResNetConfig(
        units=units,
        channels=shape(shapes, last, 4)[0],
        stem=stem,
        operator_units=() if counts == units or not places else counts,
        image_size=size,
        in_channels=shape(shapes, first, 4)[1],
        num_classes=classes_in(shapes),
        **found,
    )


def _operator(shapes: Shapes, stage: int, unit: int) -> dict[str, Any]:
    """The operator of this unit, with what the shapes of its arrays tell of it."""
    prefix = f"stages.{stage}.{unit}.mix.operator.positions"
    if f"{prefix}.conv.weight" in shapes:
        return {"operator": "lambda", "window": shape(shapes, f"{prefix}.conv.weight", 4)[2]}
    pixels = 4 * 2 ** max(0, stage - (unit == 0))  # of an image, for each position of the unit's input
    if f"{prefix}.table" in shapes:
        rows, columns = shape(shapes, f"{prefix}.table", 4)[:2]
        operator = "lambda_table"
    else:
        rows, columns = (shape(shapes, f"{prefix}.{name}", 2)[0] for name in ("row", "column"))
        operator = "attention"
    return {"operator": operator, "image_size": ((rows + 1) // 2 * pixels, (columns + 1) // 2 * pixels)}


def change_resolution(
    state: State, config: ResNetConfig, image_size: Grid, scheme: Scheme
) -> tuple[State, ResNetConfig]:
    changed = dataclasses.replace(config, image_size=image_size)
    if not config.of_one_size:
        return state, changed
    if scheme == "tiles":
        raise UsageError("tiles is a scheme for Mixers; tables of relative positions are resampled")
    state = {**state}
    for stage, (before, after) in enumerate(zip(config.grids(), changed.grids(), strict=True)):
        for unit, (old, new) in enumerate(zip(before, after, strict=True)):
            prefix = f"stages.{stage}.{unit}.mix.operator.positions"
            for name, table in ((name, state.get(f"{prefix}.{name}")) for name in ("row", "column", "table")):
                if table is not None and old != new:
                    state[f"{prefix}.{name}"] = RESAMPLED[name](table, old, new)
    return state, changed


def resample(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """A table of all offsets (rows, columns, …) within one grid, for those within another."""
    sides = [2 * side - 1 for side in (*old, *new)]
    resize = Resize((sides[0], sides[1]), (sides[2], sides[3]))
    resized = resize.after(table.double().flatten(2).permute(2, 0, 1).flatten(1))
    resized = resized.unflatten(1, (sides[2], sides[3])).permute(1, 2, 0)
    return resized.reshape(*resized.shape[:2], *table.shape[2:]).to(table.dtype).contiguous()


# A lambda is a sum over all positions: of more of them, each counts for less.
RESAMPLED: dict[str, Callable[[Tensor, Grid, Grid], Tensor]] = {
    "row": lambda table, old, new: resample(table[:, None], (old[0], 1), (new[0], 1))[:, 0],
    "column": lambda table, old, new: resample(table[:, None], (old[1], 1), (new[1], 1))[:, 0],
    "table": lambda table, old, new: resample(table, old, new) * (math.prod(old) / math.prod(new)),
}


def refuses(config: ResNetConfig) -> str | None:
    if config.operator not in OF_TIMM or config.stem == "involution":
        return f"ResNets of the operator {config.operator} and the stem {config.stem}"
    if config.operator != "convolution" and config.stem == "7x7" and not _marked(config):
        return f"ResNets whose fourth stage does not begin with {config.operator}"
    return None if config.depth == 1 else f"lambda layers of depth {config.depth}"


def _marked(config: ResNetConfig) -> bool:
    """Whether it has the mark of the last layout."""
    return len(config.units) > 3 and config.has_operator(3, 0)


ADAPTER = Adapter(LAYOUTS, config_of, change_resolution, refuses)
