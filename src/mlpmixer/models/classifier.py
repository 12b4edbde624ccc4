"""What every model here is: a module from images to logits that knows its own description."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Generic, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.errors import UsageError
from mlpmixer.metadata import ModelInfo


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """What all families can be told. `num_classes` 0 leaves the head off."""

    image_size: tuple[int, int] = (224, 224)  # height, width
    in_channels: int = 3
    num_classes: int = 1000
    head_bias: float | None = 0.0  # first value of the head's biases; None: a head without

    def __post_init__(self) -> None:
        require("image_size", min(self.image_size) >= 1, "1 pixel or more each way", self.image_size)
        require("num_classes", self.num_classes >= 0, "0 (no head) or more", self.num_classes)
        self.require_positive("in_channels")

    def dimensions(self) -> dict[str, Any]:
        """What every size of a family must say, such as layers and channels; the rest has defaults."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.default is MISSING}

    def require_positive(self, *options: str) -> None:
        for option in options:
            require(option, getattr(self, option) >= 1, "1 or more", getattr(self, option))

    def require_chance(self, *options: str) -> None:
        for option in options:
            require(option, 0 <= getattr(self, option) <= 1, "between 0 and 1", getattr(self, option))


def require(option: str, holds: bool, wanted: str, given: object) -> None:
    if not holds:
        raise UsageError(f"{option} must be {wanted}; got {given}")


Config = TypeVar("Config", bound=ClassifierConfig, covariant=True)


class Classifier(nn.Module, Generic[Config]):
    """`model(images)` gives logits; `model(images, intermediates=True)` gives (logits, {name: tensor}) as well.

    `name` is its entry in the table of models, `config` all that is needed to build it again, and `metadata` what came
    with its weights (None while it has none).
    """

    config: Config
    head: nn.Module  # from `pre_logits` to `logits`

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.metadata: ModelInfo | None = None

    def check(self, images: Float[Tensor, "B in_channels H W"]) -> None:
        """Stops images of another size or number of channels than the weights are made for."""
        height, width = self.config.image_size
        wanted = (self.config.in_channels, height, width)
        if tuple(images.shape[1:]) != wanted:
            raise UsageError(
                f"{self.name} takes images of {'×'.join(map(str, wanted))} (channels, height, width), "
                f"got {'×'.join(map(str, images.shape[1:]))}; another size: load(..., image_size=(H, W))"
            )
