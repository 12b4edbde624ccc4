"""Table 3: every Mixer, ViT and BiT of the paper, pre-trained and fine-tuned on five tasks."""

from __future__ import annotations

from collections.abc import Sequence

from mlpmixer.experiments import transfer
from mlpmixer.experiments.paper import TABLE_3
from mlpmixer.experiments.study import Done, Plan, Scale, Study, Told

CLAIM = (
    "Table 3: after large pre-training, Mixers come near to ViT and BiT at the same cost; on ImageNet alone they "
    "overfit, and fall behind."
)


def plans(scale: Scale) -> list[Plan]:
    return transfer.plans(transfer.entries(scale, TABLE_3, transfer.FIVE))


def then(_scale: Scale, done: Sequence[Done]) -> list[Plan]:
    return transfer.then(done)


def tell(done: Sequence[Done]) -> Told:
    printed = {
        entry.name: entry.printed
        for entry in transfer.entries("paper", TABLE_3, transfer.FIVE)
        if entry.printed is not None
    }
    known = {one.plan.cell["model"] for one in done}
    return transfer.tell(done, CLAIM, {name: row for name, row in printed.items() if name in known})


STUDY = Study("table3", "Transfer.", "Table 3", plans, tell, then)
