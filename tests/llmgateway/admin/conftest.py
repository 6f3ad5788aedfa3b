"""The admin, opened by people of different rights."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from tests.cast import Cast
from tests.llmgateway.admin.world import World, create_world


@pytest.fixture
def world(cast: Cast) -> World:
    return create_world(cast)


@pytest.fixture
def owner(world: World) -> Client:
    """Alice's browser: she may do everything."""
    return _browser_of(world.cast.alice)


@pytest.fixture
def auditor(world: World) -> Client:
    """A person of the group Auditors."""
    return _browser_of(_staff("dora", "Auditors"))


@pytest.fixture
def newcomer(world: World) -> Client:
    """May open the admin, and has no permission at all."""
    return _browser_of(_staff("erik"))


def _staff(name: str, *groups: str) -> User:
    user = User.objects.create_user(name, f"{name}@example.org", "correct horse battery staple", is_staff=True)
    user.groups.set(Group.objects.filter(name__in=groups))
    return user


def _browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client
