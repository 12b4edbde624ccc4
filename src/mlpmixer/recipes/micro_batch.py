"""How many images go through a model at once; the rest of a batch follows, and what is learnt is the same.

The largest power of two for which what training keeps of the images, in float32, stays within 16 GB: `mixer models
NAME --image-size N` says what it keeps of one. `--machine.micro_batch` takes another number.
"""

from __future__ import annotations

# Model and side of its images, in pixels.
AT_ONCE = {
    ("mixer_s32", 224): 512,
    ("mixer_s16", 224): 256,
    ("mixer_b32", 224): 256,
    ("mixer_b16", 224): 128,
    ("mixer_l32", 224): 64,
    ("mixer_l16", 224): 32,
    ("mixer_l16", 448): 8,
    ("mixer_h14", 224): 16,
    ("bit_r50x1", 128): 512,
}
