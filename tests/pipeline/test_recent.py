"""What was worked out of late is kept as far as there is room, and what is asked for stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmgateway.pipeline.recent import Recent


def test_what_was_not_asked_for_the_longest_gives_way() -> None:
    recent: Recent[str, str] = Recent(3, len)
    for name in ("a", "b", "c"):
        recent.put(name, name)
    assert recent.get("a") == "a"

    recent.put("d", "d")

    assert [recent.get(name) for name in ("a", "b", "c", "d")] == ["a", None, "c", "d"]
    assert recent.weight == len(recent) == 3


def test_what_is_heavy_takes_the_place_of_many() -> None:
    recent: Recent[int, str] = Recent(5, len)
    for number in range(5):
        recent.put(number, "x")

    recent.put(9, "xxxx")

    assert [number for number in range(10) if recent.get(number)] == [4, 9]


def test_what_is_heavier_than_all_the_room_is_not_kept() -> None:
    recent: Recent[int, str] = Recent(3, len)
    recent.put(1, "xxxx")

    assert (len(recent), recent.weight) == (0, 0)


def test_nothing_is_left_of_what_is_forgotten() -> None:
    recent: Recent[int, str] = Recent(3, len)
    recent.put(1, "xx")

    recent.clear()

    assert (recent.get(1), len(recent), recent.weight) == (None, 0, 0)


@given(asked=st.lists(st.integers(0, 9), max_size=60), most=st.integers(1, 12))
def test_it_is_never_heavier_than_it_may_be_and_keeps_what_was_asked_for_last(asked: list[int], most: int) -> None:
    recent: Recent[int, str] = Recent(most, len)
    expected: list[int] = []
    for number in asked:
        if recent.get(number) is None:
            recent.put(number, "x" * (1 + number % 3))
        expected = [each for each in expected if each != number] + [number]
        while sum(1 + each % 3 for each in expected) > most:
            expected.pop(0)
        assert list(recent.values) == expected
        assert recent.weight == sum(1 + each % 3 for each in expected)
