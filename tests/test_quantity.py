"""Measured quantities against closed forms, what a limit decides, and the tables that would have turned a verdict."""

import json
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from measured.claims import Stored
from measured.quantity import (
    Measured,
    Verdict,
    all_of,
    by_seed,
    derived,
    each,
    mean,
    measure,
    of_rows,
    paired,
    relative,
    worst,
)

A = Measured(5.0, 0.3, 4, "a", "nats", 3.0)
B = Measured(-2.0, 0.4, 6, "b", "nats", 5.0)
SEEDS = 3


def welch(*parts):
    """Degrees of freedom of independent variances (variance, df), by Satterthwaite's eq. 17."""
    return sum(v for v, _ in parts) ** 2 / sum(v**2 / df for v, df in parts)


# arithmetic


def test_a_difference_adds_variances():
    found = A.minus(B, "gap")
    assert (found.value, found.se, found.n, found.of, found.unit) == (7.0, pytest.approx(0.5), 6, "gap", "nats")
    assert found.df == pytest.approx(welch((0.09, 3), (0.16, 5)))
    assert (A.minus(2.0).value, A.minus(2.0).se, A.minus(2.0).df, A.minus(2).of) == (3.0, 0.3, 3.0, "a")


def test_a_ratio_has_its_error_to_first_order():
    found = A.over(B, "share")
    assert (found.value, found.unit, found.of) == (-2.5, "ratio", "share")
    relative_error = math.sqrt((0.3 / 5) ** 2 + (0.4 / 2) ** 2)
    assert found.se == pytest.approx(2.5 * relative_error)
    assert found.df == pytest.approx(welch(((0.3 / 2) ** 2, 3), ((2.5 * 0.4 / 2) ** 2, 5)))
    assert (A.over(-2.0).value, A.over(-2.0).se) == (-2.5, pytest.approx(0.15))


def test_other_units_the_size_and_names():
    bits = A.times(-2.0, "bits")
    assert (bits.value, bits.se, bits.unit, bits.df, bits.n) == (-10.0, 0.6, "bits", 3.0, 4)
    assert (B.size("|b|").value, B.size().se, B.size("|b|").of, B.size().of) == (2.0, 0.4, "|b|", "b")
    assert A.named("x", "share") == Measured(5.0, 0.3, 4, "x", "share", 3.0)
    assert A.named("x").unit == "nats"


def test_what_training_may_still_change_is_taken_off():
    left = A.less_change(B)
    assert (left.value, left.se, left.df, left.of) == (-2.0, 0.3, 3.0, "a, less its last change by training")
    assert A.less_change(Measured(4.5), "beyond").value == 4.5


def test_a_mean_of_independent_ones():
    found = mean([A, B], "both")
    assert (found.value, found.se, found.n, found.of) == (1.5, pytest.approx(0.25), 6, "both")
    assert found.df == pytest.approx(welch((0.09, 3), (0.16, 5)))
    assert mean([A]) == A


def test_the_worst_is_the_largest_or_the_least():
    assert worst([B, A]) == A
    assert worst([B, A], "lowest", least=True) == B.named("lowest")
    for empty in (worst, mean):
        with pytest.raises(ValueError, match="there is nothing to take the .* of; pass one Measured or more"):
            empty([])


def test_what_is_derived_has_the_error_of_its_slopes():
    found = derived(lambda a, b: a * b**2, A, B, of="product", unit="nats^3")
    assert (found.value, found.n, found.unit) == (20.0, 6, "nats^3")
    first, second = 0.3 * 4, 0.4 * 20  # b^2, |2 a b|
    assert found.se == pytest.approx(math.hypot(first, second), rel=1e-6)
    assert found.df == pytest.approx(welch((first**2, 3), (second**2, 5)), rel=1e-5)
    ratio, same = derived(lambda a, b: a / b, A, B, of="", unit=""), A.over(B)
    assert (ratio.se, ratio.df) == (pytest.approx(same.se, rel=1e-6), pytest.approx(same.df, rel=1e-5))
    exact = derived(math.exp, Measured(1.0), of="e", unit="")
    assert (exact.value, exact.se, exact.df) == (math.e, 0.0, math.inf)


# from tables


def table(n_seeds=SEEDS, se=0.2, **values):
    """Rows of quantities by seed: a number, or one for each seed."""
    rows = [
        {"seed": seed, "quantity": name, "value": float(np.broadcast_to(value, n_seeds)[seed]), "se": se, "n": 50,
         "unit": "nats", "beta": 1.0}
        for name, value in values.items() for seed in range(n_seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_rows_pool_the_error_that_seeds_share_with_their_spread():
    values = [1.0, 2.0, 6.0]
    found = measure(table(elbo=values), quantity="elbo")
    between = np.var(values, ddof=1) / 3
    assert (found.value, found.n, found.of, found.unit) == (3.0, 3, "elbo", "nats")
    assert found.se == pytest.approx(math.sqrt(0.04 + between))
    assert found.df == pytest.approx(welch((0.04, 49), (between, 2)))
    assert measure(table(elbo=values), "the bound", quantity="elbo").of == "the bound"
    alone = measure(table(1, elbo=2.0))
    assert (alone.value, alone.se, alone.n, alone.df) == (2.0, 0.2, 50, pytest.approx(49.0))
    exact = measure(table(se=0.0, elbo=2.0))
    assert (exact.se, exact.df, exact.n) == (0.0, math.inf, 3)
    bare = of_rows(pd.DataFrame({"value": [1.0, 3.0]}))
    assert (bare.value, bare.se, bare.df, bare.of, bare.unit) == (2.0, 1.0, 1.0, "", "")


def test_one_row_for_each_seed():
    twice = pd.concat([table(elbo=1.0), table(elbo=2.0)])
    with pytest.raises(ValueError, match="one row for each seed, got 6 for {'quantity': 'elbo'}; name more columns"):
        measure(twice, quantity="elbo")
    with pytest.raises(ValueError, match="selects none"):
        measure(twice, quantity="rate")


def test_each_is_measured_and_named_by_its_columns():
    several = pd.concat([table(elbo=1.0), table(elbo=2.0).assign(beta=4.0)], ignore_index=True)
    found = each(several, "beta", quantity="elbo")
    assert [(one.of, one.value) for one in found] == [("elbo, beta 1.0", 1.0), ("elbo, beta 4.0", 2.0)]


def test_pairs_take_out_what_they_share():
    shared = np.array([0.0, 10.0, -7.0])
    data = table(a=shared + [1.0, 2.0, 3.0], b=shared)
    a, b = (data[data.quantity == name] for name in "ab")
    found = paired(a, b[::-1], "gain")
    assert (found.value, found.se, found.n, found.df) == (2.0, pytest.approx(1 / math.sqrt(3)), 3, 2)
    assert (found.of, found.unit) == ("gain", "nats")
    ratio = by_seed(np.divide, a, b.assign(value=[2.0, 4.0, 8.0]), of="ratio", unit="")
    quotients = a["value"].to_numpy() / [2.0, 4.0, 8.0]
    assert (ratio.value, ratio.se) == (quotients.mean(), pytest.approx(stats.sem(quotients)))
    share = relative(a, b.assign(value=[2.0, 4.0, 8.0]), "off by")
    assert (share.value, share.unit) == (pytest.approx(quotients.mean() - 1), "share")
    with pytest.raises(ValueError, match="all must have the same seed, one row each"):
        paired(a, b[:2], "gain")
    with pytest.raises(ValueError, match="all must have the same seed, one row each"):
        paired(a, pd.concat([b, b]), "gain")


def test_one_pair_has_no_error_and_decides_nothing():
    data = table(1, a=1.0, b=2.0)
    found = paired(data[data.quantity == "a"], data[data.quantity == "b"], "gain")
    assert math.isnan(found.se)
    assert found.at_most(5.0).outcome == "undecided"


# limits


@pytest.mark.parametrize("side", ["at_most", "at_least"])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_students_t_decides_with_the_seeds_degrees_of_freedom(side, n):
    se, sign = 0.1, {"at_most": 1.0, "at_least": -1.0}[side]
    reach = stats.t.ppf(0.975, n - 1) * se
    for beyond, outcome in (
        (-1.001, "holds"), (-0.999, "undecided"), (0.999, "undecided"), (1.001, "fails"),
    ):  # fmt: skip
        verdict = getattr(Measured(2.0 + sign * beyond * reach, se, n, df=n - 1.0), side)(2.0)
        assert verdict.outcome == outcome
        assert verdict.reason == ("not resolved" if outcome == "undecided" else None)
        assert (verdict.limit, verdict.side, verdict.n) == (2.0, side.replace("_", " "), n)


def test_the_worst_of_several_fails_only_at_5_percent_over_their_number():
    reach = [stats.t.ppf(1 - 0.025 / m, 4) * 0.1 for m in (1, 10)]
    between = Measured(sum(reach) / 2, 0.1, 5, df=4.0)
    assert between.at_most(0.0).outcome == "fails"
    assert between.at_most(0.0, comparisons=10).outcome == "undecided"
    assert Measured(1.01 * reach[1], 0.1, 5, df=4.0).at_most(0.0, comparisons=10).outcome == "fails"
    low = Measured(-1.01 * reach[0], 0.1, 5, df=4.0)
    assert low.at_most(0.0, comparisons=10).outcome == "holds"  # the number of questions makes no claim harder to hold


def test_without_an_error_the_number_decides():
    assert Measured(1.0).at_most(1.0).outcome == Measured(1.0).at_least(1.0).outcome == "holds"
    assert Measured(1.0 + 1e-12).at_most(1.0).outcome == Measured(1.0 - 1e-12).at_least(1.0).outcome == "fails"


@pytest.mark.parametrize(("value", "se"), [(math.nan, 0.1), (0.0, math.nan), (math.nan, math.nan), (0.0, math.inf)])
def test_what_is_no_number_decides_nothing(value, se):
    for verdict in (Measured(value, se, 3, df=2.0).at_most(1.0), Measured(value, se, 3, df=2.0).at_least(1.0)):
        assert (verdict.outcome, verdict.reason) == ("undecided", "not resolved")


def test_noise_alone_is_some_standard_errors_from_zero():
    data = table(5, se=0.0, error=[0.1, -0.1, 0.2, -0.2, 0.05])
    found = measure(data, quantity="error").in_errors("sampling error")
    plain = measure(data, quantity="error")
    assert (found.value, found.se) == (pytest.approx(abs(plain.value) / plain.se), 0.0)
    assert (found.at_most(5.0).outcome, found.of, found.unit) == ("holds", "sampling error", "standard errors")


def test_fails_where_the_claim_is_just_true_is_as_rare_as_it_says():
    """Of three seeds, at the limit itself: 2.5 percent each way; with a normal's it would be three times."""
    rng, times = np.random.default_rng(0), 4000
    outcomes = [
        Measured(x.mean(), x.std(ddof=1) / math.sqrt(SEEDS), SEEDS, df=SEEDS - 1.0).at_most(0.0).outcome
        for x in rng.normal(size=(times, SEEDS))
    ]
    for outcome in ("holds", "fails"):
        assert abs(outcomes.count(outcome) / times - 0.025) < 5 * math.sqrt(0.025 * 0.975 / times)


def test_images_and_seeds_together_err_as_rarely():
    """Welch and Satterthwaite's degrees of freedom are an approximation: 5 percent, to within a percent."""
    rng, times, images = np.random.default_rng(1), 3000, 9
    wrong = 0
    for _ in range(times):
        scores = rng.normal(size=(1, images)) + 0.5 * rng.normal(size=(SEEDS, 1))  # images are shared
        rows = pd.DataFrame({"value": scores.mean(1), "se": scores.std(1, ddof=1) / math.sqrt(images), "n": images})
        found = of_rows(rows.assign(seed=range(SEEDS)))
        wrong += found.at_most(0.0).outcome == "fails" or found.at_least(0.0).outcome == "fails"
    assert abs(wrong / times - 0.05) < 0.01 + 5 * math.sqrt(0.05 * 0.95 / times)


# verdicts

HOLDS, FAILS = Measured(0.0, 0.1, 3, "low", df=2.0).at_most(1.0), Measured(9.0, 0.1, 3, "high", df=2.0).at_most(1.0)
UNDECIDED = Measured(1.0, 0.1, 3, "near", df=2.0).at_most(1.0)


def test_a_condition_is_told_where_it_holds():
    assert (HOLDS.given("K > 3").outcome, HOLDS.given("K > 3").condition) == ("holds if", "K > 3")
    assert FAILS.given("K > 3") == FAILS
    assert UNDECIDED.given("K > 3") == UNDECIDED


def test_without_its_gates_a_verdict_is_undecided_with_the_gates_number():
    assert FAILS.provided(HOLDS, HOLDS.given("x"), reason="not reached") == FAILS
    for gate in (FAILS, UNDECIDED):
        closed = HOLDS.provided(HOLDS, gate, reason="not converged")
        assert (closed.outcome, closed.reason, closed.of, closed.value) == (
            "undecided", "not converged", gate.of, gate.value,
        )  # fmt: skip
    assert A.undecided("not stable") == Verdict(5.0, 0.3, "undecided", "", "a", 4, "nats", reason="not stable")


@pytest.mark.parametrize(
    ("several", "outcome", "of"),
    [
        ({"x": HOLDS, "y": HOLDS}, "holds", "low, x"),
        ({"x": HOLDS, "y": UNDECIDED}, "undecided", "near, y"),
        ({"x": UNDECIDED, "y": FAILS}, "fails", "high, y"),
        ({"x": HOLDS, "low": HOLDS.given("K > 3")}, "holds if", "low, x"),
    ],
)
def test_several_questions_have_the_answer_of_the_worst(several, outcome, of):
    joined = all_of(several)
    assert (joined.outcome, joined.of) == (outcome, of)
    with pytest.raises(ValueError, match="there is no verdict to join; pass one or more"):
        all_of({})


def test_of_some_that_hold_and_some_that_fail_the_condition_names_them():
    several = {"beta 1": HOLDS, "beta 2": HOLDS, "beta 4": UNDECIDED, "beta 8": FAILS}
    joined = all_of(several, partly=True)
    assert joined.outcome == "holds if"
    assert joined.condition == "asked of beta 1, beta 2; undecided of beta 4; not of beta 8"
    assert joined.reason is None
    assert all_of({"a": FAILS, "b": FAILS}, partly=True).outcome == "fails"
    assert all_of({"a": HOLDS, "b": UNDECIDED}, partly=True).outcome == "undecided"
    both = all_of({"a": HOLDS.given("K > 3"), "b": HOLDS.given("K > 5"), "c": HOLDS.given("K > 3")})
    assert both.condition == "K > 3; K > 5"


def test_one_failure_of_many_has_to_hold_up_among_them():
    reach = [stats.t.ppf(1 - 0.025 / m, 4) * 0.1 for m in (1, 10)]
    just = Measured(1.0 + sum(reach) / 2, 0.1, 5, "just", df=4.0).at_most(1.0)
    others = {f"other {i}": HOLDS for i in range(9)}
    assert all_of({"just": just}).outcome == "fails"
    assert (all_of({"just": just} | others).outcome, all_of({"just": just} | others).reason) == (
        "undecided", "not resolved",
    )  # fmt: skip
    gated = just.provided(HOLDS, reason="not reached")
    assert all_of({"just": gated}).outcome == "fails"
    assert all_of({"just": gated} | others).outcome == "undecided", "a gate does not take the number of questions away"


@pytest.mark.parametrize(
    "verdict",
    [HOLDS, FAILS, UNDECIDED, HOLDS.given("K > 3"), A.undecided("not reached"), Measured(0.0).at_least(0.0),
     FAILS.provided(UNDECIDED, reason="not stable"), all_of({"a": HOLDS, "b": FAILS}, partly=True)],
)  # fmt: skip
def test_a_verdict_comes_back_from_json(verdict):
    assert Stored(**json.loads(json.dumps(verdict.as_json()))).verdict() == verdict


# counterfeits: for every kind of quantity, tables that turn the verdict of the same function

VALUES = {
    "a": [1.0, 1.2, 1.5],
    "b": [0.4, 0.5, 0.7],
    "c": [-0.9, -1.1, -1.0],
    "d": [3.0, 3.3, 2.9],
}
DATA = table(se=0.05, **VALUES)


def rows(data, name):
    return data[data.quantity == name]


def of(data, name):
    return measure(data, quantity=name)


KINDS = {
    "measured": lambda t: of(t, "a"),
    "difference": lambda t: of(t, "a").minus(of(t, "b")),
    "difference from a number": lambda t: of(t, "a").minus(3.0),
    "ratio": lambda t: of(t, "a").over(of(t, "b")),
    "ratio to a negative": lambda t: of(t, "a").over(of(t, "c")),
    "other units": lambda t: of(t, "a").times(-4.0),
    "size": lambda t: of(t, "a").size(),
    "size of a negative": lambda t: of(t, "c").size(),
    "in errors": lambda t: of(t, "a").in_errors(),
    "less the last change": lambda t: of(t, "a").less_change(of(t, "b")),
    "pairs": lambda t: paired(rows(t, "a"), rows(t, "b"), "gain"),
    "relative": lambda t: relative(rows(t, "a"), rows(t, "b"), "gain"),
    "by seed": lambda t: by_seed(lambda a, b: a**3 / b, rows(t, "a"), rows(t, "b"), of="x", unit=""),
    "worst": lambda t: worst([of(t, "a"), of(t, "b"), of(t, "d")]),
    "least": lambda t: worst([of(t, "a"), of(t, "b"), of(t, "d")], least=True),
    "mean": lambda t: mean([of(t, "a"), of(t, "b"), of(t, "c")]),
    "derived": lambda t: derived(lambda a, b: math.exp(a) * b, of(t, "a"), of(t, "b"), of="x", unit=""),
    "a mean of differences": lambda t: mean([of(t, "a").minus(of(t, "b")), of(t, "d").minus(of(t, "c"))]).times(2.0),
    "the worst of ratios": lambda t: worst([of(t, "a").over(of(t, "b")), of(t, "d").over(of(t, "b")).size()]),
    "of one seed": lambda t: measure(t[t.seed == 0], quantity="a"),
    "exact": lambda t: measure(t.assign(se=0.0)[t.seed == 0], quantity="a"),
}
OFFSETS = {"clearly below": -0.7, "near": 1e-3, "clearly above": 0.7}  # of the limit from the number


@pytest.mark.parametrize(("kind", "side", "offset"), list(product(KINDS, ["at_most", "at_least"], OFFSETS)))
def test_counterfeits_turn_the_verdict_of_every_kind(kind, side, offset):
    def judge(data, limit):
        return getattr(KINDS[kind](data), side)(limit)

    value = KINDS[kind](DATA).value
    limit = value + OFFSETS[offset] * abs(value)
    verdict = judge(DATA, limit)
    before = DATA.copy()
    found = {outcome: judge(forged, limit).outcome for outcome, forged in verdict.counterfeits(DATA).items()}
    assert found == {"holds": "holds", "fails": "fails"}
    pd.testing.assert_frame_equal(DATA, before)  # the table itself stays


JOINED = {
    "gated": lambda t: of(t, "a").at_most(1.1).provided(of(t, "d").at_least(2.0), reason="not reached"),
    "behind a closed gate": lambda t: of(t, "a").at_most(1.1).provided(of(t, "d").at_least(7.0), reason="not reached"),
    "all": lambda t: all_of({name: of(t, name).at_most(2.0) for name in "abcd"}),
    "all, which hold": lambda t: all_of({name: of(t, name).at_most(5.0) for name in "abcd"}),
    "all, none holds": lambda t: all_of({name: of(t, name).at_most(-5.0) for name in "abcd"}),
    "all of two seeds, many": lambda t: all_of(
        {f"{i}": measure(t[t.seed < 2].assign(se=0.0), quantity=name).at_most(0.0)
         for i, name in enumerate("abcd" * 8)}
    ),
    "all, gated": lambda t: all_of(
        {name: of(t, name).at_most(2.0).provided(of(t, "d").at_least(1.0), reason="not reached") for name in "abc"}
    ),
    "partly": lambda t: all_of({name: of(t, name).at_most(1.0) for name in "abcd"}, partly=True),
    "given": lambda t: of(t, "a").at_most(5.0).given("K > 3"),
}  # fmt: skip


@pytest.mark.parametrize("kind", JOINED)
def test_counterfeits_turn_joined_verdicts(kind):
    found = {outcome: JOINED[kind](forged).outcome for outcome, forged in JOINED[kind](DATA).counterfeits(DATA).items()}
    assert found == {"holds": "holds if" if kind == "given" else "holds", "fails": "fails"}


def test_counterfeits_of_what_nobody_can_move_are_refused_by_name():
    with pytest.raises(ValueError, match="this quantity was made by hand; pass move="):
        A.at_most(1.0).counterfeits(DATA)
    with pytest.raises(ValueError, match="the verdict on 'a' has no limit .*; use at_most"):
        A.undecided("not stable").counterfeits(DATA)
    bounded = derived(lambda a: math.tanh(a), of(DATA, "a"), of="share", unit="")
    with pytest.raises(ValueError, match="no change of the first quantity makes 'share' that number; pass a Measured"):
        bounded.at_most(2.0).counterfeits(DATA)
    named = Measured(1.0, 0.1, df=2.0, move=lambda t, to: t.assign(value=to))
    assert set(named.at_most(2.0).counterfeits(DATA)["fails"]["value"]) != set(DATA["value"])
