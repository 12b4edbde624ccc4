"""Table 1: the seven Mixers, counted, beside what the paper prints."""

from __future__ import annotations

import torch

from mlpmixer.experiments.study import Finding, Measurement, Scale, Told
from mlpmixer.models.measure import measure
from mlpmixer.models.measured import TABLE_1


def count(_scale: Scale, _device: torch.device) -> Told:
    """The same at every scale and on every device."""
    counted = {name: measure(name) for name in TABLE_1}
    rows = [
        (
            name,
            *(str(one.dimensions[key]) for key in ("layers", "patch_size", "channels")),
            str(one.tokens),
            *(str(one.dimensions[key]) for key in ("channel_hidden", "token_hidden")),
            f"{one.params_without_head:,}",
            f"{one.params_without_head / 1e6:.2f}",
            str(TABLE_1[name]),
        )
        for name, one in counted.items()
    ]
    off = {name: one.params_without_head / 1e6 - TABLE_1[name] for name, one in counted.items()}
    most = max(off, key=lambda name: abs(off[name]))
    return Told(
        columns=("model", "layers", "P", "C", "S", "D_C", "D_S", "parameters", "millions", "paper"),
        rows=rows,
        findings=[
            Finding(
                "The parameters without a head are those of Table 1.",
                abs(off[most]) < 0.6,
                f"to the million; the farthest is {most}, by {off[most]:+.2f} million",
            )
        ],
        paper="Table 1, in millions, rounded.",
    )


STUDY = Measurement("table1", "The sizes of the Mixers.", "Table 1", count)
