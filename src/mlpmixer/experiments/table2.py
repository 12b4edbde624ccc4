"""Table 2: the largest models at higher resolution, on the same five tasks."""

from __future__ import annotations

from collections.abc import Sequence

from mlpmixer.experiments import table3, transfer
from mlpmixer.experiments.paper import OTHERS, TABLE_2
from mlpmixer.experiments.study import Done, Plan, Scale, Study, Told

CLAIM = "Table 2: Mixer-H/14 of JFT-300M reaches 87.94 % on ImageNet, between BiT-R152x4 and ViT-H/14, and is faster."


def plans(scale: Scale) -> list[Plan]:
    return transfer.plans(transfer.entries(scale, TABLE_2, transfer.FIVE, measured="stretch"))


def tell(done: Sequence[Done]) -> Told:
    known = {one.plan.cell["model"] for one in done}
    found = transfer.entries("paper", TABLE_2, transfer.FIVE)
    printed = {entry.name: entry.printed for entry in found if entry.printed is not None and entry.name in known}
    return transfer.tell(done, CLAIM, printed, OTHERS if printed else ())


STUDY = Study("table2", "Transfer of the largest.", "Table 2", plans, tell, table3.then)
