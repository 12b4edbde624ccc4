"""Section 3.3 and Fig. 2, right: 3, 10, 30 and 100 % of the data, all for the same number of steps.

Linear 5-shot accuracy on frozen features, and top-1; of the weights that did best on the validation split, as the paper
stops early. The few shots are ImageNet's; on a small scale, those of the data that was learnt from.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlpmixer.experiments.base_recipes import FEW_OF, SEEDS, base
from mlpmixer.experiments.baselines import opponents
from mlpmixer.experiments.study import Done, Finding, Plan, Scale, Study, Told, apart, cells, over_seeds
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


def plans(scale: Scale) -> list[Plan]:
    networks = {name: Model(name=model) for name, model in PAPERS.items()} if scale == "paper" else opponents(scale)
    found = []
    for network, model in networks.items():
        for said, share in SHARES.items():
            for seed in SEEDS[scale]:
                recipe = toml.change(
                    base(scale, model, "data-scale"),
                    {"data.share": share, "data.seed": seed, "train.seed": seed, "train.select": "best"},
                )
                if scale == "paper":
                    recipe = toml.change(recipe, {"train.epochs": EPOCHS[said], "data.val": "1%", "data.test": "auto"})
                else:
                    # The same looks at the validation split for all, however long their epochs are.
                    steps = STEPS[scale]
                    few = {"train.steps": steps, "train.batch_size": BATCH[scale], "optim.warmup_steps": steps // 8}
                    looks = _epochs(BATCH[scale], steps / 10, said, scale)
                    recipe = toml.change(recipe, {**few, "evaluation.every_epochs": looks})
                found.append(Plan({"network": network, "data": said}, recipe, few_of=FEW_OF[scale]))
    return found


def _epochs(batch: int, steps: float, said: str, scale: Scale) -> float:
    whole = {"tiny": 16_000, "small": 50_000, "paper": 0}[scale]
    return round(steps * batch / (whole * SHARES[said]), 3)


def tell(done: Sequence[Done]) -> Told:
    by_cell = {(dict(key)["network"], dict(key)["data"]): runs for key, runs in cells(done).items()}
    networks = list(dict.fromkeys(network for network, _ in by_cell))
    five = {key: [one.shots(5) for one in runs] for key, runs in by_cell.items()}
    first = {key: [one.top1 for one in runs] for key, runs in by_cell.items()}
    rows = [
        (
            network,
            *(over_seeds(five[network, said]) for said in SHARES),
            *(over_seeds(first[network, said]) for said in SHARES),
        )
        for network in networks
    ]
    mixers, vits, bits = ([name for name in networks if name.startswith(kind)] for kind in ("Mixer", "ViT", "BiT"))
    # The paper's figures are of few shots.
    what, score = ("5-shot accuracy", five) if any(one.plan.few_of for one in done) else ("top-1", first)
    findings = []
    for mixer, vit in zip(mixers, vits, strict=False):
        gains = {
            name: [b - a for a, b in zip(score[name, "3 %"], score[name, "100 %"], strict=True)]
            for name in (mixer, vit)
        }
        findings.append(
            Finding(
                f"{mixer} gains more from more data than {vit}.",
                apart(gains[vit], gains[mixer]),
                f"from 3 to 100 %, {what} gains {over_seeds(gains[mixer])} against {over_seeds(gains[vit])} points",
            )
        )
    for mixer, bit in zip(mixers[-1:], bits, strict=False):
        ours, theirs = score[mixer, "3 %"], score[bit, "3 %"]
        findings.append(
            Finding(
                f"On the smallest part, {bit} is ahead of {mixer}.",
                apart(ours, theirs),
                f"{what} is {over_seeds(theirs)} against {over_seeds(ours)} %",
            )
        )
    return Told(
        columns=("network", *(f"5-shot, {said}" for said in SHARES), *(f"top-1, {said}" for said in SHARES)),
        rows=rows,
        findings=findings,
        paper="Fig. 2, right: on the smallest part all overfit, and BiT is ahead; with more data, Mixer gains fastest, "
        "and the gap to ViT closes.",
        curves={f"{network}, {said}": by_cell[network, said][0].curve for network in networks for said in SHARES},
    )


STUDY = Study(
    "data-scale",
    "Parts of the data, the same number of steps.",
    "Section 3.3, Fig. 2 right",
    plans,
    tell,
    varies=("data.share",),
)
