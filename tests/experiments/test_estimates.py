"""Means, intervals and paired differences, against tables and by hand."""

import math

import pytest

from pcka.experiments.study.estimates import estimate, paired_differences


@pytest.mark.parametrize(
    ("values", "mean", "std", "half"),
    [
        # Student's t at 97.5 %, from a printed table: 12.706, 4.303 and 2.776.
        ([1.0, 3.0], 2.0, math.sqrt(2), 12.706 * 1.0),
        ([3.0, 4.0, 5.0], 4.0, 1.0, 4.303 / math.sqrt(3)),
        ([-2.0, -1.0, 0.0, 1.0, 2.0], 0.0, math.sqrt(2.5), 2.776 * math.sqrt(0.5)),
    ],
)
def test_interval_by_hand(values, mean, std, half):
    found = estimate(values)
    assert (found.mean, found.n) == (mean, len(values))
    assert found.std == pytest.approx(std)
    assert found.interval == pytest.approx((mean - half, mean + half), rel=1e-3)


def test_one_seed_has_no_interval():
    found = estimate([3.0])
    assert found.mean == 3.0 and found.std is None and found.interval is None
    assert found.spread(".1f") == "3.0"
    assert estimate([-1.0, -3.0]).spread("+.1f") == "-2.0 ± 1.4"


def test_pairs_are_the_seeds_that_both_have():
    assert paired_differences({1: 5.0, 2: 7.0, 4: 1.0}, {1: 2.0, 3: 1.0, 4: 2.0}) == {1: 3, 4: -1}
