"""PyTorch implementation of MLP-Mixer: models, weights, training, prediction. This import brings no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlpmixer.errors import MixerError
from mlpmixer.recipe import Recipe
from mlpmixer.version import __version__
from mlpmixer.weights.model_zoo import list_models

if TYPE_CHECKING:
    from mlpmixer.data.preprocess import transform
    from mlpmixer.evaluation.evaluate import evaluate
    from mlpmixer.predict.predictor import Predictor
    from mlpmixer.train.loop import fit
    from mlpmixer.weights.create import create
    from mlpmixer.weights.load import load
    from mlpmixer.weights.save import save

__all__ = [
    "MixerError",
    "Predictor",
    "Recipe",
    "__version__",
    "create",
    "evaluate",
    "fit",
    "list_models",
    "load",
    "save",
    "transform",
]

# Imported when they are first asked for, since they import torch.
_LATER = {
    "Predictor": "mlpmixer.predict.predictor",
    "create": "mlpmixer.weights.create",
    "evaluate": "mlpmixer.evaluation.evaluate",
    "fit": "mlpmixer.train.loop",
    "load": "mlpmixer.weights.load",
    "save": "mlpmixer.weights.save",
    "transform": "mlpmixer.data.preprocess",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'mlpmixer' has no attribute '{name}'")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
