"""Whose turn it is among the targets of an alias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgateway.pipeline.balancing import EXPLORED_ONE_IN, Balancer, Costs, Heads
from llmgateway.pipeline.expected_costs import nobody_knows
from llmgateway.pipeline.snapshot import Alias, Target
from llmgateway.pipeline.traffic import Traffic
from providers.adapters.dialects.registry import get_dialect
from tests.gateways import deployment

CHANCES = st.lists(st.integers(1, 9), min_size=2, max_size=6)


class Table:
    """The targets of one alias, named a, b, c …, and the one that balances them."""

    def __init__(self, strategy: str, *weights: int, canaries: Sequence[float] = (), sticky: str = "") -> None:
        self.traffic = Traffic()
        self.deployments = [deployment(name, number) for number, name in enumerate("abcdefgh"[: len(weights)])]
        targets = [Target(each, weight) for each, weight in zip(self.deployments, weights, strict=True)]
        for number, share in enumerate(canaries):
            targets[number] = replace(targets[number], canary=share)
        self.balancer = Balancer(Alias(1, "gpt", 0, strategy, tuple(targets), sticky=sticky), self.traffic)
        self.costs: Costs = nobody_knows

    def heads(self, names: str = "") -> Heads:
        return {number: each for number, each in enumerate(self.deployments) if not names or each.name in names}

    def order(self, names: str = "", subject: str = "") -> str:
        """Those among `names` that can answer, in the order in which they are tried; the first one's turn is taken."""
        heads = self.heads(names)
        order = self.balancer.order(heads, self.costs, subject)
        self.balancer.take(heads, order[0], subject)
        return "".join([heads[number].name for number in order])

    def first(self, names: str = "", subject: str = "") -> str:
        return self.order(names, subject)[0]

    def firsts(self, times: int, names: str = "") -> str:
        return "".join([self.first(names) for _ in range(times)])


def longest_run(names: str) -> int:
    return max(len(list(run)) for _, run in groupby(names))


class TestPriority:
    def test_the_first_that_can_answer_is_always_asked_first(self) -> None:
        table = Table("priority", 1, 9, 1)

        assert [table.order(), table.order(), table.order("bc")] == ["abc", "abc", "bc"]


class TestRoundRobin:
    def test_they_take_turns(self) -> None:
        assert Table("round_robin", 1, 1, 1).firsts(7) == "abcabca"

    def test_weights_do_not_count(self) -> None:
        assert Table("round_robin", 9, 1).firsts(4) == "abab"

    def test_those_that_can_answer_take_turns_and_who_comes_back_is_next(self) -> None:
        table = Table("round_robin", 1, 1, 1)

        assert table.firsts(4, "ac") == "acac"
        assert table.firsts(4) == "bacb"

    @given(st.lists(st.sampled_from(["ab", "bc", "abc", "ac", "abcd", "bd"]), max_size=60))
    def test_nobody_waits_longer_than_there_are_others(self, moments: list[str]) -> None:
        table = Table("round_robin", 1, 1, 1, 1)
        waited = Counter[str]()
        for names in moments:
            first = table.first(names)
            for name in names:
                waited[name] = 0 if name == first else waited[name] + 1
                assert waited[name] < 4


class TestWeighted:
    def test_requests_are_shared_in_proportion_to_the_weights(self) -> None:
        assert Counter(Table("weighted", 5, 3).firsts(80)) == {"a": 50, "b": 30}

    def test_a_heavy_target_gets_no_long_runs(self) -> None:
        assert longest_run(Table("weighted", 5, 3).firsts(80)) == 2
        # The last two turns of a round and the first two of the next.
        assert longest_run(Table("weighted", 5, 1, 1).firsts(70)) == 4

    def test_equal_weights_take_turns(self) -> None:
        assert Table("weighted", 1, 1, 1).firsts(7) == "abcabca"

    def test_whoever_is_not_first_follows_by_weight_as_fallback(self) -> None:
        assert Table("weighted", 5, 1, 3).order() == "acb"

    def test_without_one_of_them_the_others_share_as_before(self) -> None:
        assert Counter(Table("weighted", 5, 2, 1).firsts(30, "bc")) == {"b": 20, "c": 10}

    @given(CHANCES)
    def test_after_every_round_the_shares_are_exact(self, weights: list[int]) -> None:
        table = Table("weighted", *weights)
        for rounds in (1, 2, 3):
            counts = Counter(table.firsts(sum(weights)))
            assert [counts[each.name] for each in table.deployments] == weights, f"in round {rounds}"

    @given(st.lists(st.integers(1, 50), min_size=2, max_size=2), st.integers(1, 200))
    def test_of_two_neither_is_ever_a_whole_request_from_its_share(self, weights: list[int], times: int) -> None:
        count = Table("weighted", *weights).firsts(times).count("a")

        assert abs(count - times * weights[0] / sum(weights)) < 1


class TestLeastInFlight:
    @given(st.lists(st.integers(0, 5), min_size=2, max_size=6))
    def test_a_busier_one_is_never_asked_before_another(self, running: list[int]) -> None:
        table = Table("least_in_flight", *[1] * len(running))
        for each, count in zip(table.deployments, running, strict=True):
            for _ in range(count):
                table.traffic.began(each)

        order = [table.traffic.in_flight(ord(name) - ord("a")) for name in table.order()]

        assert order == sorted(running)

    def test_of_equally_busy_ones_the_first_is_asked(self) -> None:
        table = Table("least_in_flight", 1, 1, 1)
        table.traffic.began(table.deployments[0])

        assert [table.order(), table.order()] == ["bca", "bca"]

    def test_a_stream_counts_to_its_end(self) -> None:
        table = Table("least_in_flight", 1, 1)
        table.traffic.began(table.deployments[0])
        table.traffic.first_token(table.deployments[0], 0.1)
        assert table.first() == "b"

        table.traffic.ended(table.deployments[0])

        assert table.first() == "a"


class TestLowestLatency:
    def measured(self, **seconds: float) -> Table:
        table = Table("lowest_latency", *[1] * len(seconds))
        for each in table.deployments:
            table.traffic.first_token(each, seconds[each.name])
        return table

    def test_the_quickest_is_asked_first_and_the_others_follow(self) -> None:
        assert self.measured(a=0.9, b=0.2, c=0.5).order() == "bca"

    def test_one_that_was_never_measured_is_tried_at_once(self) -> None:
        table = Table("lowest_latency", 1, 1)
        table.traffic.first_token(table.deployments[0], 0.1)

        assert table.order() == "ba"

    def test_while_it_is_being_measured_the_others_go_where_it_is_known(self) -> None:
        table = Table("lowest_latency", 1, 1)
        table.traffic.first_token(table.deployments[0], 0.1)
        table.traffic.began(table.deployments[1])

        assert table.order() == "ab"

    def test_one_that_is_being_measured_comes_before_one_that_fails(self) -> None:
        table = Table("lowest_latency", 1, 1)
        table.traffic.failed(table.deployments[0])
        table.traffic.began(table.deployments[1])

        assert table.order() == "ba"

    def test_while_nothing_is_known_the_least_busy_is_asked(self) -> None:
        table = Table("lowest_latency", 1, 1)
        table.traffic.began(table.deployments[0])

        assert table.order() == "ba"

    def test_failures_count_as_slow(self) -> None:
        table = self.measured(a=0.1, b=0.5)
        table.traffic.failed(table.deployments[0])

        assert table.first() == "b"

    def test_a_slow_one_is_asked_now_and_then_and_can_recover(self) -> None:
        table = self.measured(a=9.0, b=0.5)
        table.traffic.first_token(table.deployments[1], 0.5)

        firsts = table.firsts(10 * EXPLORED_ONE_IN)
        assert Counter(firsts) == {"b": 190, "a": 10}

        for _ in range(40):
            table.traffic.first_token(table.deployments[0], 0.1)
        assert table.first() == "a"


class TestLowestCost:
    def test_the_cheapest_is_asked_first_and_those_without_a_price_last(self) -> None:
        table = Table("lowest_cost", 1, 1, 1, 1)
        prices = {"a": None, "b": 30, "c": 0, "d": 10}
        table.costs = lambda each: prices[each.name]

        assert table.order() == "cdba"

    def test_of_equally_cheap_ones_the_first_is_asked(self) -> None:
        assert Table("lowest_cost", 1, 1).order() == "ab"


class TestCanaries:
    def test_five_percent_of_a_thousand_requests_are_fifty(self) -> None:
        firsts = Table("round_robin", 1, 1, 1, canaries=[0, 0, 0.05]).firsts(1000)

        assert Counter(firsts) == {"a": 475, "b": 475, "c": 50}

    def test_the_others_are_balanced_without_it_and_it_is_asked_when_they_fail(self) -> None:
        table = Table("weighted", 1, 9, canaries=[0.01])

        assert [table.order(), table.order()] == ["ba", "ba"]

    def test_all_of_the_requests_can_be_its(self) -> None:
        assert Table("priority", 1, 1, canaries=[0, 1.0]).firsts(3) == "bbb"

    def test_one_that_cannot_answer_leaves_its_share_to_the_others(self) -> None:
        assert set(Table("round_robin", 1, 1, 1, canaries=[0, 0, 0.5]).firsts(10, "ab")) == {"a", "b"}

    def test_one_that_is_alone_is_asked(self) -> None:
        assert Table("round_robin", 1, 1, canaries=[0.1]).order("a") == "a"

    @given(
        st.lists(st.integers(1, 500_000).map(lambda millionths: millionths / 1_000_000), min_size=1, max_size=2),
        st.integers(1, 300),
    )
    def test_no_share_is_ever_a_whole_request_off(self, shares: list[float], times: int) -> None:
        firsts = Table("weighted", *[1] * (len(shares) + 1), canaries=shares).firsts(times)

        for name, share in zip("ab", shares, strict=False):
            assert abs(firsts.count(name) - times * share) <= 1

    def test_whoever_sticks_stays_with_it_and_the_share_is_one_of_them(self) -> None:
        table = Table("weighted", 1, 1, canaries=[0.1], sticky="key")
        there = [subject for subject in map(str, range(2000)) if table.first(subject=subject) == "a"]

        assert 150 < len(there) < 250
        assert all(table.first(subject=subject) == "a" for subject in there)


class TestSticky:
    @given(st.text(min_size=1, max_size=20))
    def test_a_subject_s_order_is_always_the_same_for_every_worker(self, subject: str) -> None:
        table = Table("weighted", 1, 2, 3, sticky="key")

        assert table.order(subject=subject) == table.order(subject=subject)
        assert Table("weighted", 1, 2, 3, sticky="key").order(subject=subject) == table.order(subject=subject)

    @given(st.text(min_size=1, max_size=20), st.sampled_from("abcd"))
    def test_nobody_moves_but_those_whose_target_is_gone(self, subject: str, gone: str) -> None:
        table = Table("round_robin", 1, 1, 1, 1, sticky="key")
        order = table.order(subject=subject)

        assert table.order("abcd".replace(gone, ""), subject) == order.replace(gone, "")

    def test_subjects_are_shared_in_proportion_to_the_weights(self) -> None:
        table = Table("weighted", 1, 3, sticky="key")
        counts = Counter(table.first(subject=str(number)) for number in range(4000))

        assert counts["b"] / 4000 == pytest.approx(0.75, abs=0.03)

    def test_priority_stays_priority(self) -> None:
        table = Table("priority", 1, 1, sticky="key")

        assert {table.order(subject=str(number)) for number in range(50)} == {"ab"}


@pytest.mark.parametrize(
    "strategy", ["priority", "weighted", "round_robin", "least_in_flight", "lowest_latency", "lowest_cost"]
)
class TestEveryStrategy:
    def test_foreseeing_changes_nothing(self, strategy: str) -> None:
        table = Table(strategy, 3, 1, 2, canaries=[0, 0, 0.3])
        seen = {tuple(table.balancer.order(table.heads(), nobody_knows, "")) for _ in range(50)}

        assert len(seen) == 1

    @given(names=st.sampled_from(["a", "b", "ab", "ac", "bcd", "abcd"]))
    def test_whoever_can_answer_comes_exactly_once(self, strategy: str, names: str) -> None:
        table = Table(strategy, 1, 2, 3, 4, canaries=[0, 0.5])

        for _ in range(5):
            assert sorted(table.order(names)) == list(names)


def test_what_cannot_be_asked_is_no_target() -> None:
    fine, broken = deployment("fine", 1), deployment("broken", 2, problem="no credential")
    balancer = Balancer(Alias(1, "gpt", 0, "weighted", (Target(broken), Target(fine), Target(fine))), Traffic())

    assert balancer.flat(get_dialect("openai.chat"), "") == ({1: fine}, (fine,))
