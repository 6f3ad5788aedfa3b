"""Whose turn it is among the targets of an alias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from llmgateway.pipeline.routing import SmoothWeighted
from llmgateway.pipeline.snapshot import Deployment, Target
from providers.adapters.registry import get_adapter


def deployment(name: str) -> Deployment:
    return Deployment(
        id=hash(name),
        name=name,
        provider="somewhere",
        adapter=get_adapter("openai_compatible"),
        base_url="http://upstream.test/v1",
        model=name,
        headers=(),
    )


def turns(weights: dict[str, int], count: int) -> list[str]:
    """The names of those who came first in `count` requests."""
    balancer = SmoothWeighted(tuple(Target(deployment(name), weight) for name, weight in weights.items()))
    return [balancer.order()[0].name for _ in range(count)]


def longest_run(names: Sequence[str]) -> int:
    return max(len(list(run)) for _, run in groupby(names))


def test_requests_are_shared_in_proportion_to_the_weights() -> None:
    assert Counter(turns({"a": 5, "b": 3}, 80)) == {"a": 50, "b": 30}


def test_a_heavy_target_gets_no_long_runs() -> None:
    assert longest_run(turns({"a": 5, "b": 3}, 80)) == 2
    assert (
        longest_run(turns({"a": 5, "b": 1, "c": 1}, 70)) == 4
    )  # The last two turns of a round and the first two of the next.


def test_equal_weights_take_turns() -> None:
    assert turns({"a": 1, "b": 1, "c": 1}, 7) == ["a", "b", "c", "a", "b", "c", "a"]


def test_whoever_is_not_first_follows_by_weight_as_fallback() -> None:
    targets = tuple(Target(deployment(name), weight) for name, weight in (("a", 5), ("b", 1), ("c", 3)))

    assert [each.name for each in SmoothWeighted(targets).order()] == ["a", "c", "b"]
