"""Slashes at the end of paths, failures inside the gateway, and brakes that several processes share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import caches
from django.test import Client, RequestFactory

from llmgateway.management_api.counting import OWN, count_this_minute
from llmgateway.management_api.middleware import server_error
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import ROOT, Caller
from tests.stores.redis_server import RedisServer

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/keys", "/limits", "/usage/summary", "/schema"])
def test_a_slash_at_the_end_makes_no_difference(operator: Caller, world: World, path: str) -> None:
    plain, slashed = operator.get(path), operator.get(f"{path}/")

    assert (slashed.status_code, slashed.content) == (200, plain.content)


def test_a_write_with_a_slash_at_the_end_is_a_write(operator: Caller, world: World) -> None:
    created = operator.post("/limits/", {"team": "platform", "amount": 3, "metric": "concurrency", "per": ""})

    assert created.status_code == 201
    assert operator.patch(f"/limits/{created.json()['id']}/", {"amount": 4}).json()["amount"] == 4
    assert operator.delete(f"/limits/{created.json()['id']}/").status_code == 204


def test_what_is_not_there_is_told_in_json_with_or_without_a_slash(operator: Caller) -> None:
    for path in ("/nothing", "/nothing/", "/", "/keys/999999/"):
        assert operator.get(path).json()["error"]["type"] == "not_found_error", path


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret inner workings")

    monkeypatch.setattr("llmgateway.management_api.keys.KeyViewSet.rows", fail)


@pytest.mark.usefixtures("_broken")
def test_what_breaks_inside_is_told_in_json_with_an_id_that_is_in_the_log(
    operator: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    patient = Caller(operator.secret, Client(raise_request_exception=False))

    with caplog.at_level(logging.ERROR):
        response = patient.get("/keys")

    error, request_id = response.json()["error"], response.headers["x-request-id"]
    assert (response.status_code, error["type"], error["code"]) == (500, "server_error", "internal_error")
    assert request_id in error["message"]
    assert "secret inner workings" not in response.content.decode()
    logged = [record for record in caplog.records if getattr(record, "request_id", "") == request_id]
    assert logged
    assert logged[0].exc_info


def test_people_still_get_a_page_when_something_breaks(rf: RequestFactory) -> None:
    response = server_error(rf.get("/teams/platform/"))

    assert (response.status_code, response.headers["Content-Type"][:9]) == (500, "text/html")


def test_every_answer_has_an_id_of_its_own(operator: Caller) -> None:
    first, second = (operator.get("/models").headers["x-request-id"] for _ in range(2))

    assert first != second
    assert Client().get(f"{ROOT}/models").headers["x-request-id"].startswith("mreq_")


@pytest.fixture
def redis(tmp_path: Any, settings: Any) -> Iterator[RedisServer]:
    server = RedisServer(str(tmp_path))
    server.start()
    backend = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": server.url}
    settings.CACHES = {**settings.CACHES, "counting": {**backend, "OPTIONS": {"socket_timeout": 0.25}}}
    yield server
    server.kill()


def test_with_redis_all_processes_count_together(redis: RedisServer) -> None:
    count_this_minute("requests:7")
    caches[OWN].clear()  # What another process has not got.

    count, wait_s = count_this_minute("requests:7")

    assert count == 2
    assert 0 < wait_s <= 60


def test_without_redis_a_process_counts_for_itself(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    count_this_minute("requests:7")
    redis.kill()

    counts = [count_this_minute("requests:7")[0] for _ in range(2)]

    assert counts == [1, 2]
    assert "counting in this process alone" in caplog.text


async def test_the_servers_own_way_to_ask_gets_the_same(async_client: Any) -> None:
    response = await async_client.get(f"{ROOT}/models/")

    assert response.status_code == 401
    assert response.headers["x-request-id"].startswith("mreq_")
