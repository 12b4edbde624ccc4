"""The paper's studies by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mlpmixer.errors import UsageError, nearest

if TYPE_CHECKING:
    from mlpmixer.experiments.study import Measurement, Study

# Name → (module, its constant), and the question.
STUDIES = {
    "table1": (".complexity", "TABLE1", "how many parameters have the seven Mixers? (Table 1)"),
    "table2": (".transfer", "TABLE2", "what do the largest models reach at higher resolution? (Table 2)"),
    "table3": (
        ".transfer",
        "TABLE3",
        "what do all models reach after pre-training and fine-tuning? (Table 3)",
    ),
    "vtab": (".vtab", "STUDY", "what accuracy is reached with 1,000 images, on 19 tasks? (VTAB-1k)"),
    "pareto": (".pareto", "STUDY", "which models are on the frontier of accuracy and cost, or speed? (Fig. 2 left)"),
    "data-scale": (
        ".data_scale",
        "STUDY",
        "what do a Mixer, a ViT and a ResNet gain from more data? (section 3.3, Fig. 2 right)",
    ),
    "model-scale": (".model_scale", "STUDY", "what does a larger model gain? (Fig. 3)"),
    "permutation": (".permutation", "STUDY", "what accuracy is lost when pixels are permuted? (section 3.4, Fig. 4)"),
    "ablations": (".ablations", "STUDY", "what do other forms of token mixing gain? (appendix A.1)"),
    "relatives": (".relatives", "STUDY", "how do other token operators compare in the Mixer's frame? (section 4)"),
    "resolution": (".resolution", "STUDY", "what does fine-tuning at a higher resolution gain? (appendix C)"),
    "throughput": (".throughput", "STUDY", "how many images a second? (Table 3)"),
    "complexity": (".complexity", "STUDY", "how does the cost grow with the number of patches? (section 2)"),
}


def questions() -> dict[str, str]:
    """The question of each study, by name."""
    return {name: question for name, (_, _, question) in STUDIES.items()}


def find(name: str) -> Study | Measurement:
    """The study called `name`.

    Raises:
        UsageError: if there is none.
    """
    if name not in STUDIES:
        raise UsageError(f"no study is called '{name}'{nearest(name, STUDIES)} (`mixer reproduce` lists them)")
    module, constant, _ = STUDIES[name]
    return getattr(import_module(module, __name__), constant)
