"""A worker is killed at every named point of a request's way and of the drain's; the books balance afterwards."""

from __future__ import annotations

import pytest

from tests.billing.faults.conftest import Scene
from tests.billing.faults.worker import ADOPTION_POINTS, POINTS


def _both_sides(points: tuple[str, ...]) -> list[str]:
    return [
        side + point
        for point in points
        for side in (("in:",) if point.endswith((".half", ".header")) else ("before:", "after:"))
    ]


@pytest.mark.parametrize("point", _both_sides(POINTS))
def test_a_worker_killed_at(scene: Scene, point: str) -> None:
    scene.killed("worker", point, nth=1 if "rescue" in point else 3)

    scene.adopt()

    books = scene.books()
    assert books.rows, "it died before anything happened"
    books.check()


@pytest.mark.parametrize("point", _both_sides(ADOPTION_POINTS))
def test_an_adopter_killed_at(scene: Scene, point: str) -> None:
    scene.killed("worker")
    scene.killed("adopter", point)

    scene.adopt()

    books = scene.books()
    assert {row.status for row in books.rows} == {"completed", "cancelled", "interrupted"}
    # A death between the folder's end and its offset's leaves a line that no journal will ever use.
    books.check(forgotten_offsets=1 if point in {"after:adopt.delete", "before:adopt.forget"} else 0)


def test_adopter_after_adopter_dies_and_the_next_goes_on(scene: Scene) -> None:
    scene.killed("worker")
    for point in ("after:adopt.segment", "before:drain.commit", "after:drain.commit", "after:segment.delete"):
        scene.killed("adopter", point)

    scene.adopt()

    scene.books().check()


def test_adopters_of_several_workers_share_what_the_dead_left(scene: Scene) -> None:
    scene.killed("worker", "after:open", nth=30)
    adopters = [scene.order("adopter at once") for _ in range(4)]

    assert scene.forks.run(*adopters) == [0, 0, 0, 0]

    scene.books().check()


HOW_OFTEN = {"open": 36, "attempt": 6, "close": 32, "drain.commit": 11, "segment.create": 8, "segment.delete": 6}
"""Each time that a worker comes to a point while it plays its part."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "nth"),
    [
        (side, nth)
        for point, times in HOW_OFTEN.items()
        for side in _both_sides((point,))
        for nth in range(1, times + 1)
    ],
)
def test_a_worker_killed_at_any_time(scene: Scene, point: str, nth: int) -> None:
    [status] = scene.forks.run(scene.order("worker", point, nth))
    assert status == -9

    scene.adopt()

    scene.books().check()
