"""The management API, asked by tokens of different rights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client

from llmgateway.management_api.scopes import SCOPES
from llmgateway.management_api.tokens import token_create
from llmgateway.models import Team
from tests.cast import Cast
from tests.llmgateway.admin.world import World, create_world

ROOT = "/manage/api/v1"


@dataclass(frozen=True)
class Caller:
    """A program with one token."""

    secret: str
    client: Client

    def get(self, path: str, **headers: str) -> Any:
        return self.send("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.send("POST", path, body, **headers)

    def patch(self, path: str, body: Any, **headers: str) -> Any:
        return self.send("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Any:
        return self.send("DELETE", path, **headers)

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        sent = {"Authorization": f"Bearer {self.secret}", **{name.replace("_", "-"): v for name, v in headers.items()}}
        data = b"" if body is None else json.dumps(body).encode()
        return self.client.generic(method, ROOT + path, data, content_type="application/json", headers=sent)


Callers = Callable[..., Caller]


@pytest.fixture(autouse=True)
def _nobody_failed_before() -> None:
    cache.clear()


@pytest.fixture
def world(cast: Cast) -> World:
    return create_world(cast)


@pytest.fixture
def caller(db: None) -> Callers:
    """Makes a program with a token of the given scopes, for one team or for all."""

    def make(*scopes: str, team: Team | None = None) -> Caller:
        name = f"token-{len(made)}"
        _, secret = token_create(name=name, scopes=scopes, team=team)
        made.append(Caller(secret, Client()))
        return made[-1]

    made: list[Caller] = []
    return make


@pytest.fixture
def operator(caller: Callers) -> Caller:
    """May do everything."""
    return caller(*SCOPES)


@pytest.fixture
def foreigner(caller: Callers, world: World) -> Caller:
    """May do all that a token of the team `research` may; everything in the world belongs to `platform`."""
    return caller(*(name for name, scope in SCOPES.items() if scope.in_one_team), team=world.cast.research)
