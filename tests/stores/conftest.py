"""Stores run on the event loop of the hot path."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _never_blocks(no_blocking_calls: None) -> None:
    """A blocking call in a store fails the test."""
