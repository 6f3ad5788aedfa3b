"""Whatever runs here runs on the event loop of the hot path."""

from __future__ import annotations

from typing import Any

import pytest

from llmgateway.stores.memory import MemoryStore
from tests.api import express_scene


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever goes the short way does so with counters here and elsewhere."""
    if (
        metafunc.module.__name__.startswith("tests.api.test_express")
        and metafunc.module.__name__ != "tests.api.test_express_soon"
    ):
        kinds = {"at_once": MemoryStore, "soon": express_scene.Elsewhere}
        metafunc.parametrize("_counters", kinds.values(), ids=kinds.keys(), indirect=True)


@pytest.fixture(autouse=True)
def _counters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where a scene has its counters."""
    if kind := getattr(request, "param", None):
        monkeypatch.setattr(express_scene, "counters_are", kind)


@pytest.fixture(autouse=True)
def _never_blocks(no_blocking_calls: None) -> None:
    """A blocking call in the pipeline, the API or a store fails the test."""
