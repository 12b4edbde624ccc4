"""Tables 2 and 3 of the paper as data, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Row:
    """A row. Accuracies in %, where printed; `speed`: images/s on a TPUv3 core; `core_days`: of pre-training."""

    model: str  # ours
    said: str
    data: str
    epochs: int | None
    size: int = 224
    imagenet: float | None = None
    real: float | None = None
    five: float | None = None  # the mean over ImageNet, CIFAR-10, CIFAR-100, Pets and Flowers
    vtab: float | None = None
    speed: int | None = None
    core_days: int | None = None


@dataclass(frozen=True)
class Cost:
    """Of a model, as `models.measure` counts it: parameters, GMAC and MB of activations for each image."""

    params: int
    gmacs: float
    activation_mb: float


_imagenet = partial(Row, data="ImageNet", epochs=300)
_21k = partial(Row, data="ImageNet-21k", epochs=300)
_jft = partial(Row, data="JFT-300M")

TABLE_2 = (
    Row("halonet_h4_base128", "HaloNet-H4", "ImageNet-21k", None, 512, 85.8, speed=120, core_days=100),
    Row("mixer_l16", "Mixer-L/16", "ImageNet-21k", 300, 448, 84.15, 87.86, 93.91, 74.95, 105, 410),
    Row("vit_l16", "ViT-L/16", "ImageNet-21k", 300, 512, 85.30, 88.62, 94.39, 72.72, 32, 180),
    Row("bit_r152x4", "BiT-R152x4", "ImageNet-21k", None, 480, 85.39, None, 94.04, 70.64, 26, 940),
    Row("nfnet_f4plus", "NFNet-F4+", "JFT-300M", 20, 512, 89.2, speed=46, core_days=1860),
    Row("mixer_h14", "Mixer-H/14", "JFT-300M", 14, 448, 87.94, 90.18, 95.71, 75.33, 40, 1010),
    Row("bit_r152x4", "BiT-R152x4", "JFT-300M", 40, 480, 87.54, 90.54, 95.33, 76.29, 26, 9900),
    Row("vit_h14", "ViT-H/14", "JFT-300M", 14, 518, 88.55, 90.72, 95.97, 77.63, 15, 2300),
)

TABLE_3 = (
    _imagenet("mixer_b16", "Mixer-B/16", imagenet=76.44, real=82.36, five=88.33, speed=1384, core_days=10),
    _imagenet("vit_b16", "ViT-B/16", imagenet=79.67, real=84.97, five=90.79, speed=861, core_days=20),
    _imagenet("mixer_l16", "Mixer-L/16", imagenet=71.76, real=77.08, five=87.25, speed=419, core_days=40),
    _imagenet("vit_l16", "ViT-L/16", imagenet=76.11, real=80.93, five=89.66, speed=280, core_days=50),
    _21k("mixer_b16", "Mixer-B/16", imagenet=80.64, real=85.80, five=92.50, speed=1384, core_days=150),
    _21k("vit_b16", "ViT-B/16", imagenet=84.59, real=88.93, five=94.16, speed=861, core_days=180),
    _21k("mixer_l16", "Mixer-L/16", imagenet=82.89, real=87.54, five=93.63, speed=419, core_days=410),
    _21k("vit_l16", "ViT-L/16", imagenet=84.46, real=88.35, five=94.49, speed=280, core_days=550),
    _21k("mixer_l16", "Mixer-L/16", size=448, imagenet=83.91, real=87.75, five=93.86, speed=105, core_days=410),
    _jft("mixer_s32", "Mixer-S/32", epochs=5, imagenet=68.70, real=75.83, five=87.13, speed=11489, core_days=10),
    _jft("mixer_b32", "Mixer-B/32", epochs=7, imagenet=75.53, real=81.94, five=90.99, speed=4208, core_days=50),
    _jft("mixer_s16", "Mixer-S/16", epochs=5, imagenet=73.83, real=80.60, five=89.50, speed=3994, core_days=30),
    _jft("bit_r50x1", "BiT-R50x1", epochs=7, imagenet=73.69, real=81.92, speed=2159, core_days=80),
    _jft("mixer_b16", "Mixer-B/16", epochs=7, imagenet=80.00, real=85.56, five=92.60, speed=1384, core_days=80),
    _jft("mixer_l32", "Mixer-L/32", epochs=7, imagenet=80.67, real=85.62, five=93.24, speed=1314, core_days=120),
    _jft("bit_r152x1", "BiT-R152x1", epochs=7, imagenet=79.12, real=86.12, speed=932, core_days=140),
    _jft("bit_r50x2", "BiT-R50x2", epochs=7, imagenet=78.92, real=86.06, speed=890, core_days=140),
    _jft("bit_r152x2", "BiT-R152x2", epochs=14, imagenet=83.34, real=88.90, speed=356, core_days=580),
    _jft("mixer_l16", "Mixer-L/16", epochs=7, imagenet=84.05, real=88.14, five=94.51, speed=419, core_days=230),
    _jft("mixer_l16", "Mixer-L/16", epochs=14, imagenet=84.82, real=88.48, five=94.77, speed=419, core_days=450),
    _jft("vit_l16", "ViT-L/16", epochs=14, imagenet=85.63, real=89.16, five=95.21, speed=280, core_days=650),
    _jft("mixer_h14", "Mixer-H/14", epochs=14, imagenet=86.32, real=89.14, five=95.49, speed=194, core_days=1010),
    _jft("bit_r200x3", "BiT-R200x3", epochs=14, imagenet=84.73, real=89.58, speed=141, core_days=1780),
    _jft(
        "mixer_l16", "Mixer-L/16", epochs=14, size=448, imagenet=86.78, real=89.72, five=95.13, speed=105, core_days=450
    ),
    _jft("vit_h14", "ViT-H/14", epochs=14, imagenet=86.65, real=89.56, five=95.57, speed=87, core_days=2300),
    _jft(
        "mixer_h14", "Mixer-H/14", epochs=14, size=448, imagenet=87.78, real=90.08, five=95.62, speed=40, core_days=1010
    ),
    _jft("vit_l16", "ViT-L/16", epochs=14, size=512, imagenet=87.76, real=90.54, five=95.63, speed=32, core_days=650),
    _jft(
        "bit_r152x4",
        "BiT-R152x4",
        epochs=40,
        size=480,
        imagenet=87.54,
        real=90.54,
        five=95.33,
        speed=26,
        core_days=9900,
    ),
    _jft("vit_h14", "ViT-H/14", epochs=14, size=518, imagenet=88.55, real=90.72, five=95.97, speed=15, core_days=2300),
)

# The other rows of Table 2: methods whose networks are built here, and whose training is not.
_weak = partial(Row, data="weakly labeled", epochs=None)

OTHERS = (
    _weak("efficientnet_b6_wide", "MPL", size=512, imagenet=90.0, real=91.12, core_days=20480),
    _weak("efficientnet_l2", "ALIGN", size=600, imagenet=88.64, vtab=79.99, speed=15, core_days=14820),
)

# Of Table 2's models at the size at which they are fine-tuned: (model, pixels) → cost. Mixers grow by tiles there.
COSTS = {
    ("halonet_h4_base128", 512): Cost(87_040_552, 88.054, 1783.0),
    ("mixer_l16", 448): Cost(280_500_584, 237.378, 1331.0),
    ("vit_l16", 512): Cost(305_174_504, 361.986, 3033.2),
    ("bit_r152x4", 480): Cost(936_533_224, 839.254, 3093.9),
    ("nfnet_f4plus", 512): Cost(527_033_076, 367.414, 3916.1),
    ("mixer_h14", 448): Cost(589_723_368, 645.017, 2857.9),
    ("vit_h14", 518): Cost(633_470_440, 1016.717, 7001.1),
    ("efficientnet_b6_wide", 512): Cost(316_649_180, 131.993, 5821.3),
    ("efficientnet_l2", 600): Cost(480_309_308, 273.092, 12924.0),
}
