"""The paper's studies by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mlpmixer.errors import UsageError, nearest

if TYPE_CHECKING:
    from mlpmixer.experiments.study import Measurement, Study

# Name → the file whose STUDY it is, and what it asks.
STUDIES = {
    "table1": "how many parameters have the seven Mixers? (Table 1)",
    "table2": "what do the largest models reach at higher resolution? (Table 2)",
    "table3": "what do all models reach after pre-training and fine-tuning? (Table 3)",
    "vtab": "what is learnt from 1,000 images, on 19 tasks? (VTAB-1k)",
    "pareto": "which models lose to no other in accuracy and cost, or speed? (Fig. 2 left)",
    "data-scale": "what is more data worth, to a Mixer, a ViT and a ResNet? (section 3.3, Fig. 2 right)",
    "model-scale": "what is a larger model worth? (Fig. 3)",
    "permutation": "what is lost when pixels change places? (section 3.4, Fig. 4)",
    "ablations": "what do other forms of token mixing gain? (appendix A.1)",
    "resolution": "what does a higher resolution gain in fine-tuning? (appendix C)",
    "throughput": "how many images a second? (Table 3)",
    "complexity": "how does the cost grow with the number of patches? (section 2)",
}


def find(name: str) -> Study | Measurement:
    if name not in STUDIES:
        raise UsageError(f"no study is called '{name}'{nearest(name, STUDIES)} (`mixer reproduce` lists them)")
    return import_module(f"{__name__}.{name.replace('-', '_')}").STUDY
