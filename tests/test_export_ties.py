"""An exported file that resizes by other people's code: which images must keep their class."""

from __future__ import annotations

import numpy as np

from mlpmixer.export import check


def test_a_tie_that_falls_the_other_way_says_nothing_against_a_file_that_resizes():
    expected = np.array([[0.496, 0.504, 0.0], [0.4, 0.5, 0.1], [0.9, 0.05, 0.05]], dtype=np.float32)
    tied, clear = expected.copy(), expected.copy()
    tied[0], clear[1] = [0.502, 0.498, 0.0], [0.48, 0.42, 0.1]
    labels = np.array([1, 1, 0])
    for found, tolerant, fault in (
        (tied, True, False),
        (tied, False, True),  # no resizing: every image counts
        (clear, True, True),
    ):
        tally = check.Tally("", "", check.Requirement(0.999, 0.1), tied=check.TIED if tolerant else 0.0)
        tally.add(expected, found, labels, in_domain=True)
        assert (tally.fault(None) is not None) == fault
