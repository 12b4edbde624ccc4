"""`mixer reproduce`: the paper's tables and figures, at the scale of the machine at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mlpmixer.cli.output import print_table, say
from mlpmixer.text import printable, to_json

if TYPE_CHECKING:
    from mlpmixer.experiments.cost import Cost
    from mlpmixer.experiments.study import Told


def reproduce(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None,
    /,
    scale: Literal["tiny", "small", "paper"] = "tiny",
    device: str = "auto",
    data: Path | None = None,
    folder: Path | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    json: bool = False,
    *,
    changes: dict[str, str],
) -> None:
    """Carry out a study of the paper: run by run, each in its own folder; the same command goes on where it stopped.

    Without a name, the studies are listed. Lines of a recipe are flags here, too, and hold for all runs:
    `--data.source my-large-set --machine.workers 8`.

    Args:
        name: Which study.
        scale: tiny: minutes on 2 cores, with the images that come with the package; small: hours, on CIFAR-10;
            paper: the whole protocol, for whoever has the machines and the data.
        device: cpu, cuda, or auto.
        data: A folder in which data sets lie under the names that the runs give them: imagenet, pets, dtd and so on.
        folder: Where the runs are kept; runs/NAME-SCALE if not said.
        dry_run: Only list the runs and what they cost.
        quiet: Show nothing but the result.
        json: Print JSON.
    """
    from mlpmixer.experiments import STUDIES, find

    if name is None:
        if json:
            print(to_json(STUDIES, indent=1))
        else:
            print_table(["study", "what it asks"], [[study, asks] for study, asks in STUDIES.items()])
        return
    study = find(name)
    changes = changes if device == "auto" else {"machine.device": device, **changes}
    folder = folder or Path("runs") / f"{getattr(study, 'runs_of', {}).get(scale, name)}-{scale}"
    if dry_run:
        from mlpmixer.experiments.cost import costs

        rows, rate = costs(study, scale, changes)
        if json:
            print(to_json([vars(row) for row in rows], indent=1))
            return
        _show_costs(rows, rate)
        return

    from mlpmixer.experiments.study import carry_out, record_name

    told = carry_out(
        study,
        scale,
        folder,
        changes=changes,
        data=data,
        quiet=quiet or json,
        say=lambda line: print(printable(line), file=sys.stderr),
    )
    if json:
        print((folder / record_name(name)).read_text(encoding="utf-8"), end="")
        return
    _show(told)
    say(f"{folder / record_name(name)}   (mixer report {folder})")


def _show_costs(rows: list[Cost], rate: float) -> None:
    print_table(
        ["run", "model", "images", "FLOPs", "hours", "GB on disk"],
        [[row.run, row.model, f"{row.images:,.0f}", *_summed([row])] for row in rows],
    )
    of_each: dict[str, list[Cost]] = {}
    for row in rows:
        of_each.setdefault(row.model, []).append(row)
    by_model = [[model, f"{len(its):,}", *_summed(its)] for model, its in of_each.items()]
    print_table(
        ["model", "runs", "FLOPs", "hours", "GB on disk"],
        [*by_model, ["all", f"{len(rows):,}", *_summed(rows)]],
        f"hours of a device that keeps up {rate / 1e12:.3g} TFLOP/s",
    )


def _summed(rows: list[Cost]) -> list[str]:
    flops, hours, disk = (sum(getattr(row, name) for row in rows) for name in ("flops", "hours", "disk"))
    return [f"{flops:.2e}", f"{hours:,.2f}", f"{disk / 1e9:,.2f}"]


def _show(told: Told) -> None:
    print_table([*told.columns], [[*row] for row in told.rows])
    for finding in told.findings:
        sign = {True: "holds", False: "does not hold", None: "cannot be told"}[finding.holds]
        say(f"{finding.claim} Here it {sign}: {finding.why}.")
    if told.paper:
        say(f"The paper: {told.paper}")
