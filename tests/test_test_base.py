"""The guards of the test base guard: each is seen to fail a test that breaks its rule."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User

from llmgateway import conf as conf_module
from llmgateway.conf import Conf
from llmgateway.http import httpx
from llmgateway.models import Team
from tests import network_guard
from tests.cast import PASSWORD, Cast
from tests.conftest import NOON
from tests.network_guard import NetworkBlockedError

pytest_plugins = ["pytester"]


def test_a_connection_to_the_network_is_refused() -> None:
    with socket.socket() as plug, pytest.raises(NetworkBlockedError):
        plug.connect(("192.0.2.1", 80))

    assert network_guard.attempts == ["connect to 192.0.2.1:80"]
    network_guard.attempts.clear()


def test_names_are_not_looked_up() -> None:
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.com", 443)


async def test_an_http_client_cannot_reach_the_network() -> None:
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("http://192.0.2.1/")

    network_guard.attempts.clear()


async def test_loopback_is_no_network() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        _, writer = await asyncio.open_connection(host, port)
        writer.close()

    assert network_guard.attempts == []


def test_a_test_that_swallows_the_refusal_fails_anyway(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests.conftest import _stays_on_this_machine")
    pytester.makepyfile(
        """
        import contextlib, socket
        def test_swallows():
            with contextlib.suppress(OSError), socket.socket() as plug:
                plug.connect(("192.0.2.1", 80))
        """
    )

    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:django", "-p", "no:asyncio")

    result.assert_outcomes(passed=1, errors=1)
    network_guard.attempts.clear()


def test_nothing_of_the_operator_gets_in() -> None:
    mine = {"GATEWAY_DATA_DIR"}

    assert not [setting.name for setting in Conf.settings() if setting.name in os.environ and setting.name not in mine]
    assert not [name for name in os.environ if name.endswith("_API_KEY")]
    assert conf_module.conf.data_dir.is_relative_to(Path(tempfile.gettempdir()).resolve())


def test_tests_have_settings_of_their_own_in_every_process() -> None:
    assert settings.SETTINGS_MODULE == "tests.settings"


def test_what_tests_start_is_the_product() -> None:
    assert os.environ["DJANGO_SETTINGS_MODULE"] == "llmgateway.settings"


@pytest.mark.usefixtures("frozen_time")
def test_time_stands_still() -> None:
    assert datetime.now(UTC) == NOON


async def test_a_blocking_call_on_the_hot_path_fails(no_blocking_calls: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmgateway.stores import memory

    source = "import os\nasync def read(path):\n    with open(path) as file:\n        return file.read()\n"
    namespace: dict[str, object] = {}
    exec(compile(source, memory.__file__, "exec"), namespace)

    with pytest.raises(Exception, match="Blocking call"):
        await namespace["read"](__file__)  # type: ignore[operator]


@pytest.mark.django_db
def test_the_cast_has_known_rights(cast: Cast) -> None:
    assert set(Team.objects.for_user(cast.alice)) == {cast.platform, cast.research}
    assert list(Team.objects.for_user(cast.bob)) == [cast.platform]
    assert list(Team.objects.for_user(cast.charlie)) == [cast.research]
    assert cast.research_key.allowed_models == ["small"]
    assert User.objects.get(username="bob").check_password(PASSWORD)
