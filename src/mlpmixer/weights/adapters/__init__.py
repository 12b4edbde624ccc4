"""What a family adds so that files of others load, and so that its weights follow another image size.

A family names its adapter's module in its record; one file here for each. Without one, a family has our own format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from torch import Tensor

from mlpmixer.errors import KeyMismatch, UsageError
from mlpmixer.models import FAMILIES, family
from mlpmixer.models.classifier import ClassifierConfig
from mlpmixer.models.family import Family
from mlpmixer.weights.layouts import Layout, our_shapes

Scheme = Literal["resample", "tiles"]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Hints:
    """What is known of a file besides the shapes of its arrays.

    Attributes:
        arrays: The file's own arrays, as meta tensors under the layout's names.
        stored_size: (height, width) that the caller says the weights were made for.
        heads: Attention heads, as the caller says.
        prepared_size: (height, width) of images, as the model zoo says.
    """

    arrays: Mapping[str, Tensor]
    stored_size: tuple[int, int] | None = None
    heads: int | None = None
    prepared_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Adapter:
    """The foreign side of a family.

    Attributes:
        layouts: How others name its arrays. The first whose marks are all in a file is taken.
        config_of: (layout, arrays as ours, hints) → the config of the model that has these arrays. KeyError or
            ValueError: an array without which that cannot be told is not there, or has another shape.
        change_resolution: (state, config, image size, scheme) → state and config for that size.
        refuses: (config) → what no foreign layout has, such as "grouped Mixers"; None: they have it.
        spellings: Regular expression → replacement, which makes the usual names of unusual ones.
    """

    layouts: tuple[Layout, ...]
    config_of: Callable[[Layout, Mapping[str, Tensor], Hints], ClassifierConfig]
    change_resolution: Callable[[State, Any, tuple[int, int], Scheme], tuple[State, ClassifierConfig]]
    refuses: Callable[[Any], str | None] = lambda _: None
    spellings: Mapping[str, str] = field(default_factory=dict)


def adapter_of(family: Family) -> Adapter | None:
    return import_module(family.adapter).ADAPTER if family.adapter else None


def adapters() -> list[tuple[Family, Adapter]]:
    """All families that have one, in the order of the table."""
    found = [(family(name), adapter_of(family(name))) for name in FAMILIES]
    return [(one, adapter) for one, adapter in found if adapter is not None]


def recognize(names: Iterable[str]) -> tuple[Family, Layout] | None:
    """Whose arrays are called so, and by which layout."""
    present = set(names)
    every = ((family, layout) for family, adapter in adapters() for layout in adapter.layouts)
    return next(((family, layout) for family, layout in every if present.issuperset(layout.marks)), None)


def layout_called(name: str, config: ClassifierConfig, family: Family) -> Layout:
    """The layout `name` for a model of `family`.

    Raises:
        UsageError: It has no place for such a model.
    """
    for one, adapter in adapters():
        if one is family:
            if (refused := adapter.refuses(config)) is not None:
                raise UsageError(f"the {name} layout has no {refused}; save as .safetensors")
            fitting = (layout for layout in adapter.layouts if layout.name == name and layout.fits(config))
            if (found := next(fitting, None)) is not None:
                return found
    *some, last = [one.title for one, adapter in adapters() if any(found.name == name for found in adapter.layouts)]
    has = f"{', '.join(some)} and {last}" if some else last
    raise UsageError(f"the {name} layout is of {has}, not of {family.title}; save as .safetensors")


def config_of(family: Family, layout: Layout, hints: Hints) -> ClassifierConfig:
    """The config of the model in a file that does not say it, by the shapes of its arrays.

    Raises:
        KeyMismatch: It lacks an array without which that cannot be told.
        UsageError: The caller has to say more.
    """
    adapter = adapter_of(family)
    assert adapter is not None  # the layout is one of its
    theirs = {
        name: array.squeeze() if layout.squeezed and layout.squeezed in name else array
        for name, array in hints.arrays.items()
    }
    try:
        return adapter.config_of(layout, our_shapes(layout, theirs), hints)
    except UsageError:
        raise
    except (KeyError, ValueError) as error:
        raise KeyMismatch(
            f"looks like a {family.name} in the {layout.name} layout, but lacks or misshapes "
            f"{error.args[0]}, without which its size cannot be told"
        ) from None


def change_resolution(
    family: Family, state: State, config: ClassifierConfig, image_size: tuple[int, int], scheme: Scheme
) -> tuple[State, ClassifierConfig]:
    """The weights at another image size.

    Args:
        family: Of the model.
        state: Its arrays.
        config: Its config.
        image_size: The new height and width, in pixels.
        scheme: How a Mixer's token mixing follows; see `adapters/mixer.py`.

    Returns:
        The arrays and the config for that size.

    Raises:
        UsageError: The family's weights stay at their size, or the scheme does not fit.
    """
    adapter = adapter_of(family)
    if adapter is None:
        size = "×".join(map(str, config.image_size))
        raise UsageError(f"the family {family.name} has no way to change resolution; load it at its own {size} pixels")
    return adapter.change_resolution(state, config, image_size, scheme)
