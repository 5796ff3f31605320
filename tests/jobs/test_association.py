"""Tests of columns against the label: equal to scipy's on the rows themselves, quiet on noise, honest about too few."""

import random

import pytest
from scipy import stats

from jobs.association import Level, holm, of_categories, of_numbers

NOTHING = Level(0, 0)


def test_ranks_of_grouped_values_are_those_of_the_rows() -> None:
    draw = random.Random(3)
    rows = [(value := draw.randrange(6), int(draw.random() < 0.1 + 0.05 * value)) for _ in range(400)]
    levels = [Level(len(of := [c for v, c in rows if v == value]), sum(of)) for value in range(6)]
    found = of_numbers(levels)
    clicked, unclicked = ([v for v, c in rows if c == label] for label in (1, 0))
    theirs = stats.mannwhitneyu(clicked, unclicked, method="asymptotic", use_continuity=False)
    assert found is not None
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.effect == pytest.approx(2 * theirs.statistic / (len(clicked) * len(unclicked)) - 1, rel=1e-12)
    assert found.effect > 0, "larger values are clicked more"
    backwards = of_numbers(levels[::-1])
    assert backwards is not None
    assert backwards.effect == pytest.approx(-found.effect)
    assert backwards.p == pytest.approx(found.p)


def test_values_too_rare_for_chi_squared_are_pooled() -> None:
    often = [Level(1000, 100), Level(500, 80)]
    rare = [Level(10, 9), Level(8, 0)]
    found = of_categories([*often, *rare], Level(300, 11))
    expected = stats.chi2_contingency([[100, 900], [80, 420], [20, 298]], correction=False)
    assert found is not None
    assert (found.levels, found.statistic, found.p) == (3, expected.statistic, expected.pvalue)
    lonely = of_categories([*often, Level(10, 9)], NOTHING)
    together = stats.chi2_contingency([[100, 900], [89, 421]], correction=False)
    assert lonely is not None
    assert (lonely.levels, lonely.statistic) == (2, together.statistic), "a small rest joins the last value"


def test_a_column_that_tells_the_label_has_effect_1_and_noise_none() -> None:
    telling = of_categories([Level(500, 500), Level(500, 0)], NOTHING)
    assert telling is not None
    assert telling.effect == pytest.approx(1, abs=0.002)
    draw, effects = random.Random(5), []
    for _ in range(20):
        noise = of_categories([Level(100, sum(draw.random() < 0.1 for _ in range(100))) for _ in range(300)], NOTHING)
        assert noise is not None
        effects.append(noise.effect)
    assert sum(effects) / 20 < 0.02, "without the correction 300 values make 0.1 by themselves"


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param([], id="no row"),
        pytest.param([Level(100, 10)], id="one value"),
        pytest.param([Level(100, 0), Level(100, 0)], id="nothing clicked"),
        pytest.param([Level(100, 100), Level(100, 100)], id="everything clicked"),
    ],
)
def test_there_is_no_test_without_two_values_and_two_outcomes(levels: list[Level]) -> None:
    assert of_categories(levels, NOTHING) is None
    assert of_numbers(levels) is None


def test_too_few_clicks_for_chi_squared_are_no_test() -> None:
    assert of_categories([Level(4, 2), Level(4, 1)], NOTHING) is None


def test_holm_multiplies_the_smallest_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
