"""`mixer demo`: the whole way once, on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path


def demo() -> None:
    """Build a Mixer, save and load weights, predict a photograph, list the models."""
    import torch

    from mlpmixer.cli.models import models
    from mlpmixer.models import create
    from mlpmixer.predict.predictor import Predictor
    from mlpmixer.weights.load import load
    from mlpmixer.weights.save import save
    from mlpmixer.weights.shipped import PHOTO

    print('1. A new Mixer: create("mixer_s32", num_classes=10)')
    model = create("mixer_s32", num_classes=10).eval()
    images = torch.randn(2, 3, 224, 224)
    logits, seen = model(images, intermediates=True)
    print(f"   {sum(p.numel() for p in model.parameters()):,} parameters; pictures {tuple(images.shape)}")
    print(f"   → stem {tuple(seen['stem'].shape)} → 8 layers → logits {tuple(logits.shape)}\n")

    print("2. Saved and loaded again, in our own form, the authors' and timm's:")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("mixer.safetensors", "mixer.npz", "mixer.pth"):
            path = save(model, Path(folder) / name)
            same = all(torch.equal(a, b) for a, b in zip(load(path).parameters(), model.parameters(), strict=True))
            print(f"   {name:18} {path.stat().st_size / 1e6:5.1f} MB   {'bit for bit the same' if same else 'DIFFERS'}")

    print('\n3. A photograph, with the weights that come with the package: Predictor("mixer_clothing")')
    for label, score in Predictor("mixer_clothing", top=3)(PHOTO).top:
        print(f"   {label:12} {score:6.1%}")
    print(f"   ({PHOTO})\n")

    print("4. All models: mixer models")
    models()
