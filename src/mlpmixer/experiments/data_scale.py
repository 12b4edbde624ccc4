"""Data scale (section 3.3, Fig. 2 right): 3, 10, 30 and 100 % of the data, all for the same number of steps.

Linear 5-shot accuracy on frozen features, and top-1, of the weights that are best on the validation split, as the paper
stops early. The shots are from ImageNet; at the small scales, from the training data.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlpmixer.experiments.base_recipes import FEW_SHOT_SOURCE, SEEDS, base_recipe, networks
from mlpmixer.experiments.study import (
    Claim,
    FinishedRun,
    Outcome,
    PlannedRun,
    Scale,
    Study,
    group_by_cell,
    is_greater,
    mean_ci,
)
from mlpmixer.recipe import Model
from mlpmixer.recipes import toml

SHARES = {"3 %": 0.03, "10 %": 0.1, "30 %": 0.3, "100 %": 1.0}
STEPS = {"tiny": 400, "small": 600}
BATCH = {"tiny": 64, "small": 128}
EPOCHS = {"3 %": 233.0, "10 %": 70.0, "30 %": 23.0, "100 %": 7.0}  # the paper's

PAPERS = {
    "Mixer-B/32": "mixer_b32",
    "Mixer-L/32": "mixer_l32",
    "Mixer-L/16": "mixer_l16",
    "ViT-B/32": "vit_b32",
    "ViT-L/32": "vit_l32",
    "ViT-L/16": "vit_l16",
    "BiT-R152x2": "bit_r152x2",
}


def plan_runs(scale: Scale) -> list[PlannedRun]:
    paper = {name: Model(name=model) for name, model in PAPERS.items()}
    found = []
    for network, model in (paper if scale == "paper" else networks(scale)).items():
        for said, share in SHARES.items():
            for seed in SEEDS[scale]:
                recipe = toml.change(
                    base_recipe(scale, model, "data-scale"),
                    {"data.share": share, "data.seed": seed, "train.seed": seed, "train.select": "best"},
                )
                if scale == "paper":
                    recipe = toml.change(recipe, {"train.epochs": EPOCHS[said], "data.val": "1%", "data.test": "auto"})
                else:
                    # As many validation passes for all, however long their epochs are.
                    steps = STEPS[scale]
                    short = {"train.steps": steps, "train.batch_size": BATCH[scale], "optim.warmup_steps": steps // 8}
                    every = _epochs(BATCH[scale], steps / 10, said, scale)
                    recipe = toml.change(recipe, {**short, "evaluation.every_epochs": every})
                found.append(
                    PlannedRun({"network": network, "data": said}, recipe, few_shot_source=FEW_SHOT_SOURCE[scale])
                )
    return found


def _epochs(batch: int, steps: float, said: str, scale: Scale) -> float:
    whole = {"tiny": 16_000, "small": 50_000, "paper": 0}[scale]
    return round(steps * batch / (whole * SHARES[said]), 3)


def summarize(finished: Sequence[FinishedRun]) -> Outcome:
    by_cell = {(dict(key)["network"], dict(key)["data"]): runs for key, runs in group_by_cell(finished).items()}
    kinds = list(dict.fromkeys(network for network, _ in by_cell))
    five = {key: [one.shots(5) for one in runs] for key, runs in by_cell.items()}
    first = {key: [one.top1 for one in runs] for key, runs in by_cell.items()}
    rows = [
        (
            network,
            *(mean_ci(five[network, said]) for said in SHARES),
            *(mean_ci(first[network, said]) for said in SHARES),
        )
        for network in kinds
    ]
    mixers, vits, bits = ([name for name in kinds if name.startswith(kind)] for kind in ("Mixer", "ViT", "BiT"))
    # The paper's figures are few-shot accuracies.
    what, score = ("5-shot accuracy", five) if any(one.plan.few_shot_source for one in finished) else ("top-1", first)
    claims = []
    for mixer, vit in zip(mixers, vits, strict=False):
        gains = {
            name: [b - a for a, b in zip(score[name, "3 %"], score[name, "100 %"], strict=True)]
            for name in (mixer, vit)
        }
        claims.append(
            Claim(
                f"{mixer} gains more from more data than {vit}.",
                is_greater(gains[vit], gains[mixer]),
                f"from 3 to 100 %, {what} gains {mean_ci(gains[mixer])} against {mean_ci(gains[vit])} points",
            )
        )
    for mixer, bit in zip(mixers[-1:], bits, strict=False):
        ours, theirs = score[mixer, "3 %"], score[bit, "3 %"]
        claims.append(
            Claim(
                f"On the smallest share, {bit} is ahead of {mixer}.",
                is_greater(ours, theirs),
                f"{what} is {mean_ci(theirs)} against {mean_ci(ours)} %",
            )
        )
    return Outcome(
        columns=("network", *(f"5-shot, {said}" for said in SHARES), *(f"top-1, {said}" for said in SHARES)),
        rows=rows,
        claims=claims,
        paper="Fig. 2, right: on the smallest share all overfit, and BiT is ahead; with more data, Mixer gains "
        "fastest, and the gap to ViT closes.",
        curves={f"{network}, {said}": by_cell[network, said][0].curve for network in kinds for said in SHARES},
    )


STUDY = Study(
    "data-scale",
    "Shares of the data, the same number of steps.",
    "Section 3.3, Fig. 2 right",
    plan_runs,
    summarize,
    fixed=("data.share",),
)
