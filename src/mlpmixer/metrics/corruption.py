"""ImageNet-C: how much accuracy is lost on images that were spoilt in fifteen ways (Hendrycks & Dietterich, 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# The mean error of AlexNet over the five severities, by which errors are divided to weigh the ways alike.
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def corruption_errors(errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Way of spoiling → its error over all severities, in percent of AlexNet's. `errors`: one for each severity."""
    return {name: 100 * sum(found) / len(found) / ALEXNET[name] for name, found in errors.items()}


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float | None:
    """mCE; None unless all fifteen ways are there."""
    if {*errors} != {*ALEXNET}:
        return None
    return sum(corruption_errors(errors).values()) / len(ALEXNET)
