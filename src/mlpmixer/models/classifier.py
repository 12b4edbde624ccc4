"""The base of all models: a module from images to logits that carries its config and its metadata."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass, fields
from typing import Any, Generic, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

from mlpmixer.errors import UsageError
from mlpmixer.metadata import ModelInfo, Preprocessing
from mlpmixer.models.batch_norm import fold_batch_norms

Intermediates = dict[str, Tensor]


def record(intermediates: Intermediates | None, name: str, value: Tensor) -> Tensor:
    """Passes `value` on, and stores it under `name` if intermediates are asked for."""
    if intermediates is not None:
        intermediates[name] = value
    return value


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The options of all families. `num_classes` 0 leaves the head off."""

    image_size: tuple[int, int] = (224, 224)  # height, width
    in_channels: int = 3
    num_classes: int = 1000
    head_bias: float | None = 0.0  # first value of the head's biases; None: a head without

    def __post_init__(self) -> None:
        require("image_size", min(self.image_size) >= 1, "1 pixel or more each way", self.image_size)
        require("num_classes", self.num_classes >= 0, "0 (no head) or more", self.num_classes)
        self.require_positive("in_channels")

    def dimensions(self) -> dict[str, Any]:
        """The fields without a default, such as layers and channels: what tells the sizes of a family apart."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.default is MISSING}

    def require_positive(self, *options: str) -> None:
        for option in options:
            given = getattr(self, option)
            require(option, isinstance(given, int) and given >= 1, "a whole number, 1 or more", repr(given))

    def require_chance(self, *options: str) -> None:
        for option in options:
            require(option, 0 <= getattr(self, option) <= 1, "between 0 and 1", getattr(self, option))


def require(option: str, holds: bool, wanted: str, given: object) -> None:
    if not holds:
        raise UsageError(f"{option} must be {wanted}; got {given}")


def head(num_features: int, num_classes: int, bias: float | None = 0.0) -> nn.Module:
    """The last linear map. It starts at zero, so that training starts from a uniform prediction.

    `bias` is the first value of its biases (None: none). The authors take −6.9 ≈ log(1/1000) with a sigmoid loss.
    No classes, no head: the model then returns its pre-logits.
    """
    if num_classes == 0:
        return nn.Identity()
    linear = nn.Linear(num_features, num_classes, bias=bias is not None)
    nn.init.zeros_(linear.weight)
    if bias is not None:
        nn.init.constant_(linear.bias, bias)
    return linear


Config = TypeVar("Config", bound=ClassifierConfig, covariant=True)


class Classifier(nn.Module, Generic[Config]):
    """An image classifier: `model(images)` gives logits.

    A family writes `__init__`, which ends with `self.head = head(self.num_features, …)`, `forward_features`, and `pool`
    where the head does not read the mean over tokens.

    Attributes:
        config: All that is needed to build the model again.
        name: The name of its size, such as `mixer_b16`; the family's where it is none of them.
        num_features: The width of what the head reads.
        head: From `pre_logits` to `logits`; an `nn.Identity` without classes.
        metadata: How to prepare images, the names of the classes, the origin. A new model has the usual preprocessing
            for its image size.
    """

    head: nn.Module

    def __init__(self, config: Config, name: str, num_features: int):
        super().__init__()
        self.config = config
        self.name = name
        self.num_features = num_features
        self.metadata = ModelInfo(preprocessing=Preprocessing.usual(config.image_size))

    def forward(
        self, images: Float[Tensor, "B in_channels H W"], *, intermediates: bool = False
    ) -> Float[Tensor, "B classes"] | tuple[Float[Tensor, "B classes"], Intermediates]:
        """Logits of normalized images; with `intermediates=True`, (logits, {name: tensor})."""
        found: Intermediates | None = {} if intermediates else None
        logits = self.forward_head(self.forward_features(images, found), found)
        return logits if found is None else (logits, found)

    def forward_features(
        self, images: Float[Tensor, "B in_channels H W"], intermediates: Intermediates | None = None
    ) -> Tensor:
        """Everything before pooling and head.

        Args:
            images: Normalized images.
            intermediates: A dictionary to store intermediate tensors in, by name.

        Returns:
            (B, S, C) tokens, or the (B, C, H, W) of a convolutional network.
        """
        raise NotImplementedError

    def pool(self, features: Tensor) -> Float[Tensor, "B D"]:
        """The head's input: by default the mean over tokens."""
        return features.mean(dim=1)

    def forward_head(
        self, features: Tensor, intermediates: Intermediates | None = None, *, pre_logits: bool = False
    ) -> Float[Tensor, "B D"]:
        """Pooling and head.

        Args:
            features: What `forward_features` returned.
            intermediates: A dictionary to store intermediate tensors in, by name.
            pre_logits: Stop before the head.

        Returns:
            (B, num_classes) logits, or (B, num_features) with `pre_logits` or without a head.
        """
        pooled = record(intermediates, "pre_logits", self.pool(features))
        return pooled if pre_logits else record(intermediates, "logits", self.head(pooled))

    def normed_linears(self) -> list[tuple[nn.LayerNorm, nn.Linear]]:
        """Each LayerNorm whose output only one linear map reads, with that map: inference merges the two."""
        return []

    def simplified(self, *, in_rows: bool = False) -> nn.Module:  # noqa: ARG002 (for a family that has a use for it)
        """For inference only: a module from images to `pre_logits` that may do with less work. It takes over the layers
        of this model, which is of no use afterwards.

        Args:
            in_rows: A Mixer's token mixing becomes products along rows, between two transposes.
        """
        fold_batch_norms(self)
        self.head = nn.Identity()
        return self

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the head with a new one, which starts at zero; the names of the classes are forgotten.

        Args:
            num_classes: Outputs of the new head; 0: no head.
        """
        like = next(self.parameters())
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        self.head = head(self.num_features, num_classes, self.config.head_bias).to(like.device, like.dtype)
        self.head.train(self.training)
        self.metadata = dataclasses.replace(self.metadata, classes=None)

    def check(self, images: Float[Tensor, "B in_channels H W"]) -> None:
        """Stops images of another size or number of channels than the weights are made for."""
        height, width = self.config.image_size
        wanted = (self.config.in_channels, height, width)
        if tuple(images.shape[1:]) != wanted:
            raise UsageError(
                f"{self.name} takes images of {'×'.join(map(str, wanted))} (channels, height, width), "
                f"got {'×'.join(map(str, images.shape[1:]))}; another size: load(..., image_size=(H, W))"
            )

    def _repr_html_(self) -> str:
        """For notebooks."""
        from mlpmixer.draw import page

        height, width = self.config.image_size
        names = self.metadata.classes or ()
        more = ", …" if len(names) > 5 else ""
        rows = [
            ["model", self.name],
            ["parameters", f"{sum(parameter.numel() for parameter in self.parameters()):,}"],
            ["images", f"{height}×{width}, {self.config.in_channels} channels"],
            ["classes", f"{self.config.num_classes:,}" + (f": {', '.join(names[:5])}{more}" if names else "")],
            *([name, text] for name, text in self.metadata.provenance.items() if name != "quirks"),
        ]
        return page.table(["", ""], rows)
