"""The statistics of comparisons, on runs made up so that the right answer is known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments import Experiment
from experiments.compare.charts import curve
from experiments.compare.grid import Cell
from experiments.compare.page import render
from experiments.compare.paired_rounds import resampled, saved, signed_ranks
from experiments.compare.records import Comparison, Outcome, compared
from experiments.compare.statistics import Wait, holm, log_rank, mean, paired, waiting
from experiments.compare.story import answer
from experiments.compare.tables import as_json, markdown, rows
from fedsim import seeding

UP = [0.1, 0.4, 0.6, 0.7, 0.8]


def made_up(
    seed: int, accuracies: Sequence[float], *, failed: bool = False, psnr: Mapping[str, float] | None = None
) -> Outcome:
    return Outcome(
        seed=seed,
        folder=Path("runs") / f"seed-{seed}",
        finished=not failed,
        failure="the power went" if failed else None,
        last=max(0, len(accuracies) - 1),
        accuracies=dict(enumerate(accuracies)),
        psnr=psnr or {},
        seconds=1.0,
    )


def comparison(runs: Mapping[str, Sequence[Outcome]], target: float | None = None) -> Comparison:
    cells = [Cell(label, (f"selection.name={label}",), (Experiment.of({}),)) for label in runs]
    return compared("made up", cells, list(runs.values()), target, total=4)


def shifted(by: float, noise: Sequence[float]) -> list[Outcome]:
    return [made_up(seed, [value + by + more for value in UP]) for seed, more in enumerate(noise)]


def test_students_interval_is_that_of_scipy() -> None:
    values = [0.61, 0.64, 0.58, 0.70]
    found = mean(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == pytest.approx(sum(values) / 4)
    assert (mean([0.5]).value, mean([0.5]).low, mean([]).value) == (0.5, None, None)


def test_pairs_are_made_by_seed_and_a_seed_without_its_other_is_left_out() -> None:
    first = {3: 0.9, 0: 0.5, 1: 0.7, 2: 0.6}
    second = {0: 0.45, 1: 0.66, 2: 0.58}
    found = paired(first, second)
    expected = stats.ttest_rel([0.5, 0.7, 0.6], [0.45, 0.66, 0.58])
    assert (found.count, found.p) == (3, pytest.approx(expected.pvalue))
    assert found.difference == pytest.approx(0.11 / 3)
    # Closed form: differences 0.05, 0.04, 0.02; p of |t| with two degrees of freedom is 1 - t / sqrt(2 + t^2).
    t = (0.11 / 3) / (math.sqrt(sum((d - 0.11 / 3) ** 2 for d in (0.05, 0.04, 0.02)) / 2) / math.sqrt(3))
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))


def test_equal_runs_are_no_difference_and_one_pair_is_no_test() -> None:
    assert paired({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6}).p == 1.0
    same = paired({0: 0.52, 1: 0.62}, {0: 0.50, 1: 0.60})  # of a test set of 50 images, say
    assert (same.difference, same.p) == (pytest.approx(0.02), None)
    assert paired({0: 0.5}, {0: 0.6}).p is None
    assert paired({0: 0.5}, {1: 0.6}).difference is None


def test_holm_steps_down_and_never_below_what_came_before() -> None:
    # Holm 1979: 0.01 * 4, then max(0.04, 0.015 * 3), then 0.02 * 2 = 0.04 raised to 0.045, then 0.5.
    assert holm([0.5, 0.01, None, 0.02, 0.015]) == pytest.approx([0.5, 0.04, None, 0.045, 0.045])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_kaplan_meier_by_hand() -> None:
    """Runs at 2, 4 (censored), 6, 8 (censored): S = 3/4 after 2, then 3/4 * 1/2 after 6."""
    found = waiting([Wait(2, True), Wait(4, False), Wait(6, True), Wait(8, False)])
    survive = {r: 1 - s for r, s in zip(found.rounds, found.share, strict=True)}
    assert survive[2] == pytest.approx(3 / 4)
    assert survive[6] == pytest.approx(3 / 8)
    assert (found.median, found.reached, found.count) == (6, 2, 4)
    assert found.high is None


def test_censored_runs_are_not_dropped() -> None:
    """Among ten runs of which three get there, nobody may say that half of them do; without the seven it would be."""
    got_there = [Wait(r, True) for r in (5, 6, 7)]
    assert waiting(got_there).median == 6
    found = waiting([*got_there, *[Wait(50, False)] * 7])
    assert (found.median, found.reached, found.count) == (None, 3, 10)
    assert found.share[-1] == pytest.approx(0.3)


def test_the_medians_interval_holds_the_median_and_narrows_with_runs() -> None:
    few, many = ([Wait(r, True) for r in range(1, n + 1)] for n in (10, 100))
    for waits, true in ((few, 5), (many, 50)):
        found = waiting(waits)
        assert found.median == true
        assert found.low is not None
        assert found.high is not None
        assert found.low <= true <= found.high
        assert (found.high - found.low) / len(waits) < (0.8 if len(waits) == 10 else 0.25)
    all_at_once = waiting([Wait(5, True)] * 3)
    assert (all_at_once.median, all_at_once.low, all_at_once.high) == (5, 5, None)


def test_log_rank_is_that_of_a_second_implementation() -> None:
    first = [Wait(6, True), Wait(6, True), Wait(6, False), Wait(7, True), Wait(10, True)]
    second = [Wait(1, True), Wait(1, True), Wait(2, True), Wait(3, True), Wait(4, False)]
    observed = expected = variance = 0.0
    for when in sorted({one.round for one in first + second if one.reached}):
        a = sum(one.round >= when for one in first)
        n = a + sum(one.round >= when for one in second)
        d = sum(one.reached and one.round == when for one in first + second)
        observed += sum(one.reached and one.round == when for one in first)
        expected += d * a / n
        variance += d * (a / n) * (1 - a / n) * (n - d) / (n - 1) if n > 1 else 0.0
    assert log_rank(first, second) == pytest.approx(stats.chi2.sf((observed - expected) ** 2 / variance, 1))
    assert log_rank([Wait(9, False)], [Wait(9, False)]) is None


def test_a_failed_run_is_shown_missing_from_the_means_and_counted_as_not_there_yet() -> None:
    runs = [made_up(0, UP), made_up(1, UP), made_up(2, [0.1, 0.2], failed=True)]
    found = comparison({"a": runs, "b": shifted(0.0, (0.01, 0.02, 0.03))}, target=0.6)
    summary = found.summaries[0]
    assert (summary.final.count, summary.rounds.count, summary.rounds.reached) == (2, 3, 2)
    assert found.pairs[0].accuracy.count == 2
    assert "2 of 3 (1 failed)" in rows(found)[0]
    text = markdown(found, answer(found))
    assert "a, seed 2, after round 1: the power went" in text
    assert "1 of 6 runs failed (a)" in " ".join(answer(found))
    assert "the power went" in render(found, answer(found))


def test_the_answer_names_what_is_better_and_only_then() -> None:
    noise = (0.0, 0.010, -0.008, 0.004, -0.005)
    wobble = tuple(-n for n in noise)
    assert answer(comparison({"a": shifted(0, noise), "b": shifted(0.1, wobble)}))[0].startswith("Use b:")
    assert answer(comparison({"b": shifted(0.1, wobble), "a": shifted(0, noise)}))[0].startswith("Use b:")
    failed = [made_up(seed, UP[:1], failed=True) for seed in range(5)]
    three = answer(comparison({"a": shifted(0, noise), "b": shifted(0.1, wobble), "c": failed}))
    assert three[0].startswith("Use b:")
    assert "5 of 15 runs failed (c)" in three[1]
    equal = answer(comparison({"a": shifted(0, noise), "b": shifted(0.001, wobble)}, target=0.99))[0]
    assert equal.startswith("Not decided: b and a")
    single = answer(comparison({"a": shifted(0, noise[:1]), "b": shifted(0.1, noise[:1])}))[0]
    assert single.startswith("Not decided: b has the highest")
    nothing = [made_up(0, [], failed=True)]
    assert answer(comparison({"a": nothing, "b": nothing}))[0].startswith("There is no answer")


def test_among_equal_accuracies_the_faster_one_is_named() -> None:
    noise = (0.0, 0.010, -0.008, 0.004, -0.005, 0.006)
    slow = [made_up(s, [0.1, 0.2, 0.3, 0.4, 0.8 + n]) for s, n in enumerate(noise)]
    fast = [made_up(s, [0.1, 0.7, 0.7, 0.7, 0.8 - n]) for s, n in enumerate(noise)]
    assert answer(comparison({"slow": slow, "fast": fast}, target=0.65))[0].startswith("Use fast:")


def test_without_a_target_it_is_99_percent_of_the_firsts_best() -> None:
    found = comparison({"a": [made_up(0, [0.2, 0.9, 0.5]), made_up(1, [0.2, 0.7, 0.5])], "b": [made_up(0, UP)]})
    assert found.target == pytest.approx(0.99 * 0.8)


def test_the_curve_is_the_mean_of_the_finished_runs() -> None:
    found = comparison({"a": [made_up(0, [0.2, 0.4]), made_up(1, [0.4, 0.8]), made_up(2, [0.0], failed=True)]})
    assert [(r, m.value, m.count) for r, m in curve(found.summaries[0])] == [
        (0, pytest.approx(0.3), 2),
        (1, pytest.approx(0.6), 2),
    ]


def test_the_page_stands_alone_and_prints_text_as_text() -> None:
    evil = "<script>alert(1)</script>"
    found = comparison({evil: shifted(0, (0.0, 0.01)), "b|`c`": shifted(0.1, (0.0, 0.02))})
    page = render(found, answer(found))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert page.index(answer(found)[0][:12]) < page.index("<table")
    text = markdown(found, answer(found))
    assert "<script" not in text.replace("\\<script", "")
    assert "b\\|\\`c\\`" in text
    assert page == render(found, answer(found))


def test_the_json_says_what_the_table_says() -> None:
    found = comparison({"a": shifted(0, (0.0, 0.01)), "b": shifted(0.1, (0.0, 0.02))}, target=0.65)
    content = json.loads(as_json(found, answer(found)))
    assert content["answer"] == answer(found)
    assert content["summaries"][0]["final"]["value"] == pytest.approx(0.805)
    assert content["pairs"][0]["accuracy"]["p"] == pytest.approx(found.pairs[0].accuracy.p)
    assert content["summaries"][1]["runs"][1]["seed"] == 1


def test_rounds_saved_are_paired_by_seed_and_a_run_that_never_got_there_counts_as_all_rounds() -> None:
    first = {i: Wait(n, reached=True) for i, n in ((0, 10), (1, 20), (2, 30), (3, 10), (4, 14), (7, 1))}
    second = {i: Wait(n, reached=True) for i, n in ((0, 30), (1, 35), (3, 24), (4, 30))} | {2: Wait(40, reached=False)}
    found = saved(first, second, total=40)
    assert (found.count, found.difference, found.censored) == (5, -15.0, (0, 1))
    assert found.share == pytest.approx(-15 / 31.8)
    assert found.low is not None
    assert found.high is not None
    assert -20 <= found.low < -15 < found.high <= -10
    assert found.p == pytest.approx(stats.wilcoxon([-20, -15, -10, -14, -16]).pvalue) == 0.0625
    assert saved(first, second, total=40) == found
    # whatever round a censored run was last seen in, it counts as the total
    assert saved(first, second | {2: Wait(12, reached=False)}, total=40) == found


def test_rounds_saved_without_pairs_or_differences_prove_nothing() -> None:
    never = {seed: Wait(40, reached=False) for seed in range(5)}
    same = saved(never, never, total=40)
    assert (same.difference, same.low, same.high, same.p, same.censored) == (0.0, 0.0, 0.0, 1.0, (5, 5))
    assert saved({0: Wait(1, reached=True)}, {1: Wait(2, reached=True)}, 9).difference is None
    one = saved({0: Wait(1, reached=True)}, {0: Wait(2, reached=True)}, 9)
    assert (one.difference, one.low, one.p) == (-1.0, None, None)


def test_below_five_pairs_rounds_saved_have_no_interval() -> None:
    first, second = ({seed: Wait(start + seed, reached=True) for seed in range(4)} for start in (1, 9))
    four = saved(first, second, total=40)
    assert (four.difference, four.low, four.high, four.p) == (-8.0, None, None, 0.125)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([-3, -1, -2, -5, -4], 2 / 32),
        ([-3, -3, -2, -5, -4], 2 / 32),  # a tie
        ([-3, -3, -2, -5, 0], 2 / 16),  # a zero has no sign
        ([3, 0, 0, 0, 0], 1.0),
        ([-1, 2, 3], 4 / 8),  # of 1 to 3, the sums 4 and 6
    ],
)
def test_signed_ranks_are_exact_with_ties_and_zeros(differences: list[int], p: float) -> None:
    assert signed_ranks(np.array(differences, dtype=np.float64)) == pytest.approx(p)


@pytest.mark.parametrize("count", [4, 9, 13])
def test_signed_ranks_without_ties_and_zeros_are_scipys(count: int) -> None:
    draws = seeding.numpy_generator(0, "test", "signed", count)
    for _ in range(5):
        differences = draws.normal(0.5, 1, size=count)
        exact = stats.wilcoxon(differences, method="exact").pvalue
        assert signed_ranks(differences) == pytest.approx(exact)


def test_no_p_below_six_hundredths_is_possible_with_five_pairs() -> None:
    draws = seeding.numpy_generator(0, "test", "five")
    assert min(signed_ranks(draws.integers(-9, 2, size=5).astype(np.float64)) for _ in range(300)) == 0.0625


def test_the_bootstrap_of_rounds_saved_covers_the_true_difference_about_as_often_as_it_says() -> None:
    draws = seeding.numpy_generator(0, "test", "saved")
    intervals = [resampled(draws.normal(-10, 12, size=13)) for _ in range(200)]
    hits = sum(low <= -10 <= high for low, high in intervals)
    assert 170 <= hits <= 199  # of 190; with 13 pairs percentiles are a little too narrow
