"""The project's language: phrases that were retired, each with the word that replaced it, appear nowhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent

RETIRED = {
    r"passports?": "metadata",
    r"dev split": "validation split",
    r"microscope": "interpret",
    r"ledger": "model zoo",
    r"diary": "logger",
    r"rightly": "top-1",
    r"to the bit": "bit for bit, bit-exact",
    r"by heart": "overfits",
    r"sureness|how sure": "confidence",
    r"for want of memory": "out of memory",
    r"mistaken (most )?for": "confused with",
    r"taken for": "predicted",
    r"lost (its|their|the) loss|loss (is|was) lost": "diverged",
    r"makes no sense": "is not valid",
    r"(for )?the way back": "backward",
    r"a look at the": "validation pass",
    r"by every door": "by every API",
    r"in which numbers": "numeric precision",
    r"what runs the model": "inference backend",
    r"name what is in": "classify",
    r"whom to compare with": "frameworks to compare",
    r"has its turn|in turns": "interleaved",
    r"fit to be learn(t|ed) from": "check a dataset for problems",
    r"stands for its weights": "pass a run folder wherever weights are expected",
    r"remarks are none": "warnings do not count",
    r"always the most frequent class": "majority-class baseline",
    r"what bytes (are to )?stand for": "int8 calibration",
    r"does not say what it is to be": "cannot tell the output format",
    r"the ceilings?": "the roofline",
    r"hears|is heard": "influence, receptive field",
    r"squares vanish": "deletion curve",
    r"no picture|pictures?": "image",
    r"worst place": "worst-case perturbation",
    r"beside what (else )?": "compared with",
    r"is to be made of": "",
    r"comes? upon": "happens to",
    r"learnt": "learned",
}


def texts() -> list[tuple[str, str]]:
    """(place, text) of everything that people read: docs, docstrings, help, messages, comments in recipes."""
    found = [
        (path.name, path.read_text()) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md")
    ]
    found += [(f"docs/{path.name}", path.read_text()) for path in (ROOT / "docs").rglob("*.md")]
    for path in (ROOT / "src").rglob("*.py"):
        place = str(path.relative_to(ROOT / "src" / "mlpmixer"))
        strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        found += [(place, text) for text in strings if isinstance(text, str) and " " in text]  # no keys
    return found


def test_retired_phrases_are_gone():
    wrong = []
    for place, text in texts():
        for phrase, instead in RETIRED.items():
            if found := re.search(rf"\b({phrase})\b", text, flags=re.IGNORECASE):
                wrong.append(
                    f"{place}: '{found[0]}' in '{text[max(0, found.start() - 30) : found.end() + 30]}' → {instead}"
                )
    assert not wrong, "\n".join(wrong)
