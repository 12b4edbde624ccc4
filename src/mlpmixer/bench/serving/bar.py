"""Bars: what a measurement must reach."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Bar:
    """A measurement and its bar.

    Attributes:
        what: What was measured.
        measured: NaN where there was nothing to measure, which misses every bar.
        relation: Of what was measured to the bar.
        bound: The bar.
        unit: Of both.
    """

    what: str
    measured: float
    relation: Literal["≤", "≥"]
    bound: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.measured <= self.bound if self.relation == "≤" else self.measured >= self.bound

    def facts(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}

    def cells(self) -> list[str]:
        """What, measured, bar, verdict."""
        unit = f" {self.unit}" if self.unit else ""
        both = [f"{number:,.4g}{unit}" for number in (self.measured, self.bound)]
        return [self.what, both[0], f"{self.relation} {both[1]}", "met" if self.met else "MISSED"]
