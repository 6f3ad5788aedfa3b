"""Browsers that are logged in as the cast."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.cast import Cast


@pytest.fixture
def bob(cast: Cast, client: Client) -> Client:
    """Bob's browser: he sees `platform` and nothing else."""
    client.force_login(cast.bob)
    return client


@pytest.fixture
def charlie(cast: Cast) -> Client:
    """Charlie's browser: he is foreign to `platform`."""
    client = Client()
    client.force_login(cast.charlie)
    return client


@pytest.fixture
def alice(cast: Cast) -> Client:
    """The browser of Alice, who sees every team."""
    client = Client()
    client.force_login(cast.alice)
    return client
