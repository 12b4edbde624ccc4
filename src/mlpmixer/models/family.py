"""Model families: one record each, which answers every question that the rest of the package has about a family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlpmixer.models.classifier import Classifier, ClassifierConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the package knows of a family. Functions take a config of the family.

    Args:
        name: The row of `models.FAMILIES`; our own files carry it.
        title: As people write it, such as ViT.
        config: The config class.
        model: The model class; its instances are built with (config, name).
        sizes: Name → config, as `create` takes it.
        layers: How many layers a model has; a file that claims too many is refused before anything is built.
        stages: The intermediates after each layer or stage, in order; by default `block0`, `block1` and so on.
        grids: The (rows, columns) of tokens that intermediates have, those of the stem first; none for convolutions.
        mean_of: The intermediate whose mean over positions is the head's input; None where it is made otherwise.
        mixer_layers: How many MixerBlocks the model consists of, between a patch stem and a norm whose mean the head
            reads. 0 for all but Mixers. These layers can be grown, shown, trained by our kernels, and quantized.
        plain_mixer: Whether it is a Mixer in the paper's main form, which the CPU and GPU kernels for inference run.
        adapter: The module with the `ADAPTER` for files of others and for changes of resolution; None: there is none.
    """

    name: str
    title: str
    config: type[ClassifierConfig]
    model: type[Classifier]
    sizes: Mapping[str, ClassifierConfig]
    layers: Callable[[Any], int]
    stages: Callable[[Any], list[str]] | None = None
    grids: Callable[[Any], list[tuple[int, int]]] = lambda _: []
    mean_of: Callable[[Any], str | None] = lambda _: None
    mixer_layers: Callable[[Any], int] = lambda _: 0
    plain_mixer: Callable[[Any], bool] = lambda _: False
    adapter: str | None = None

    def build(self, config: ClassifierConfig, name: str | None = None) -> Classifier:
        """A new model of `config`; `name`: its size, where it has one."""
        return self.model(config, name or self.name)  # pyright: ignore[reportCallIssue] (that of its subclasses)

    def size_of(self, config: ClassifierConfig) -> str:
        """The name of the size that has the dimensions of `config`; else the family's."""
        return next((name for name, size in self.sizes.items() if size.dimensions() == config.dimensions()), self.name)

    def stages_of(self, config: ClassifierConfig) -> list[str]:
        return self.stages(config) if self.stages else [f"block{layer}" for layer in range(self.layers(config))]


def unlisted(model: Classifier) -> Family:
    """For a class that is in no row: it trains and predicts, but has no files."""
    name = type(model).__name__
    return Family(name=name, title=name, config=type(model.config), model=type(model), sizes={}, layers=lambda _: 0)
