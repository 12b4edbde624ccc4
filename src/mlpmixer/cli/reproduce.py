"""`mixer reproduce`: the paper's tables and figures, at the scale of this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mlpmixer.cli.output import print_table, say
from mlpmixer.text import printable, to_json

if TYPE_CHECKING:
    from mlpmixer.experiments.cost import Cost
    from mlpmixer.experiments.study import Outcome

HOLDS = {True: "holds", False: "does not hold", None: "cannot be decided"}


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
    """Reproduce an experiment of the paper.

    Each of its runs has its own folder, and an existing run is resumed. Without a name, the experiments are listed.
    Lines of a recipe are flags here, too, and are set in all runs: `--data.source my-large-set --machine.workers 8`.

    Args:
        name: The experiment.
        scale: tiny: minutes on 2 cores, with the images that come with the package; small: hours, on CIFAR-10;
            paper: the full protocol, which needs its machines and data sets.
        device: cpu, cuda, or auto.
        data: Folder that holds the data sets under the names that the runs use: imagenet, pets, dtd and so on.
        folder: Where the runs are kept; by default runs/NAME-SCALE.
        dry_run: Only list the runs and what they cost.
        quiet: Print nothing but the result.
        json: Print JSON.
    """
    from mlpmixer.experiments import find, questions

    if name is None:
        if json:
            print(to_json(questions(), indent=1))
        else:
            print_table(["experiment", "question"], [[*row] for row in questions().items()])
        return
    study = find(name)

    from mlpmixer.experiments.study import Measurement, record_name, run_study

    changes = changes if device == "auto" else {"machine.device": device, **changes}
    folder = folder or Path("runs") / f"{getattr(study, 'runs_of', {}).get(scale, name)}-{scale}"
    if dry_run:
        if isinstance(study, Measurement):
            rows = study.parts(scale)
            if not json:
                print_table(["measured"], [[part] for part in rows], "nothing is trained")
        else:
            from mlpmixer.experiments.cost import costs

            found, rate = costs(study, scale, changes)
            rows = [vars(row) for row in found]
            if not json:
                _print_costs(found, rate)
                if scale in study.notes:
                    say(study.notes[scale])
        if json:
            print(to_json(rows, indent=1))
        return

    outcome = run_study(
        study,
        scale,
        folder,
        changes=changes,
        data=data,
        quiet=quiet or json,
        log=lambda line: print(printable(line), file=sys.stderr),
    )
    if json:
        print((folder / record_name(name)).read_text(encoding="utf-8"), end="")
        return
    _print_outcome(outcome)
    say(f"{folder / record_name(name)}   (mixer report {folder})")


def _print_costs(rows: list[Cost], rate: float) -> None:
    print_table(
        ["run", "model", "starts from", "images", "FLOPs", "hours", "GB on disk"],
        [[row.run, row.model, row.weights or "–", f"{row.images:,.0f}", *_totals([row])] for row in rows],
    )
    by_model: dict[str, list[Cost]] = {}
    for row in rows:
        by_model.setdefault(row.model, []).append(row)
    print_table(
        ["model", "runs", "FLOPs", "hours", "GB on disk"],
        [[model, f"{len(its):,}", *_totals(its)] for model, its in [*by_model.items(), ("all", rows)]],
        f"hours on a device that sustains {rate / 1e12:.3g} TFLOP/s",
    )


def _totals(rows: list[Cost]) -> list[str]:
    flops, hours, disk = (sum(getattr(row, name) for row in rows) for name in ("flops", "hours", "disk"))
    return [f"{flops:.2e}", f"{hours:,.2f}", f"{disk / 1e9:,.2f}"]


def _print_outcome(outcome: Outcome) -> None:
    print_table([*outcome.columns], [[*row] for row in outcome.rows])
    for claim in outcome.claims:
        say(f"{claim.statement} Here it {HOLDS[claim.holds]}: {claim.evidence}.")
    if outcome.paper:
        say(f"The paper: {outcome.paper}")
