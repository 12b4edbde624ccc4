"""The evaluation card as a part of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlpmixer.draw import page
from mlpmixer.draw.chart import Series, line_chart
from mlpmixer.draw.matrix import confusion_chart
from mlpmixer.evaluation.card import AS_MATRIX

AS_TABLE = 128  # classes at most that are all listed
LISTED = 24  # of more


def card_section(card: Mapping[str, Any]) -> str:
    data, how = card["data"], card["preprocessing"]
    title = data.get("title", data["split"])  # older cards have none
    parts = [
        page.words(
            f"{data['count']:,} images of {data['classes']:,} classes: {data['source']}, {title}. Prepared: "
            f"{how['shape'].replace('_', ' ')} to {how['resize']}, crop {how['crop'][0]}×{how['crop'][1]}.",
            "soft",
        ),
        *(page.words(warning, "warn") for warning in card["warnings"]),
        page.table(["", "%", "95 % interval", "right", "of"], shares(card)),
    ]
    if shots := card.get("learnt", {}).get("few_shot"):
        rows = [
            [n, f"{100 * found['mean']:.2f}", ", ".join(f"{100 * seed:.2f}" for seed in found["seeds"])]
            for n, found in shots.items()
        ]
        parts.append(
            page.table(
                ["shots of each class", "%", "by seed"], rows, "Linear few-shot accuracy, as the authors measure it."
            )
        )
    if "classes" in card:
        parts.append(page.beside(_reliability(card["calibration"]), _confusion(card["confusion"])))
        parts.append(page.small_heading("Class by class"))
        parts.append(_classes(card["classes"]))
    if "imagenet_c" in card:
        parts.append(_spoilt(card["imagenet_c"]))
    return "".join(parts)


NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "real": "ReaL",
    "imagenet_v2": "ImageNet-V2",
    "imagenet_a": "ImageNet-A",
    "imagenet_r": "ImageNet-R",
    "imagenet_sketch": "ImageNet-Sketch",
}


def shares(card: Mapping[str, Any]) -> list[list[str]]:
    """Rows: what, percent, interval, how many of how many."""
    learnt = card.get("learnt", {})
    found = {name: card[key] for key, name in NAMES.items() if key in card}
    if learnt:
        found[f"the {learnt['neighbors']['nearest']} nearest of {learnt['known']:,}"] = learnt["neighbors"]
        found[f"logistic probe on {learnt['known']:,}"] = learnt["probe"]
    return [
        [
            name,
            f"{100 * one['value']:.2f}",
            f"{100 * one['low']:.2f} to {100 * one['high']:.2f}",
            f"{one['right']:,}",
            f"{one['count']:,}",
        ]
        for name, one in found.items()
    ]


def _reliability(calibration: Mapping[str, Any]) -> str:
    filled = [one for one in calibration["bins"] if one["count"]]
    points = [(100 * one["confidence"], 100 * one["accuracy"]) for one in filled]
    drawing = line_chart(
        "How often right, %, by how sure",
        [Series("the model", points), Series("as sure as right", [(0.0, 0.0), (100.0, 100.0)])],
        x_label="sureness, %",
    )
    low, high = calibration["interval"]
    error = f"Calibration error {100 * calibration['error']:.2f} % ({100 * low:.2f} to {100 * high:.2f}), in 15 bins."
    return page.drawing(drawing, "Reliability") + page.words(error, "soft")


def _confusion(confusion: Mapping[str, Any]) -> str:
    names = confusion["names"]
    if "matrix" in confusion and len(names) > AS_MATRIX:
        raise ValueError(f"a matrix of {len(names):,} classes")
    if "matrix" not in confusion:
        mistakes = sorted((pair for pair in confusion["pairs"] if pair[0] != pair[1]), key=lambda pair: -pair[2])
        rows = [[names[shown], names[said], f"{count:,}"] for shown, said, count in mistakes[:LISTED]]
        note = f"The pairs most often confused, of {len(mistakes):,}; all of them are in the card's JSON."
        return page.table(["is", "taken for", "images"], rows, note)
    return page.drawing(confusion_chart(np.array(confusion["matrix"]), names), "Confusion matrix")


def _classes(figures: Sequence[Mapping[str, Any]]) -> str:
    """All of few classes; of many, those that are found worst."""
    shown, note = figures, ""
    if len(figures) > AS_TABLE:
        shown = sorted((one for one in figures if one["count"]), key=lambda one: one["f1"])[:LISTED]
        note = f"The {len(shown)} of {len(figures):,} with the lowest F1; all of them are in the card's JSON."
    rows = [
        [
            one["name"],
            f"{one['count']:,}",
            *(f"{100 * one[k]:.1f}" for k in ("recall", "precision", "f1")),
            one["mistaken_for"] or "–",
        ]
        for one in shown
    ]
    return page.table(["class", "images", "recall, %", "precision, %", "F1, %", "mistaken most for"], rows, note)


def _spoilt(found: Mapping[str, Any]) -> str:
    rows = [
        [way, *(f"{100 * error:.1f}" for error in errors), f"{found['weighed'][way]:.1f}"]
        for way, errors in found["errors"].items()
    ]
    mean = f"mCE {found['mce']:.1f}" if found["mce"] is not None else "not all 15 ways, so no mCE"
    head = ["spoilt by", *(f"{n}" for n in range(1, 6)), "% of AlexNet's"]
    return page.table(head, rows, f"ImageNet-C, errors in % by severity; {mean}.")
