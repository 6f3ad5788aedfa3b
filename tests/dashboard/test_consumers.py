"""The socket of a team page: own teams only, figures on connect and on change, a clean end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.db import DatabaseError
from django.utils import timezone

from dashboard import consumers
from dashboard.live import live_figures
from dashboard.routing import websocket_urlpatterns
from dashboard.teams import shown_team
from llmgateway.models import Membership
from tests.cast import Cast, create_cast
from tests.dashboard.seeding import row, save

pytestmark = pytest.mark.django_db(transaction=True)

Connect = Callable[..., Awaitable[tuple[WebsocketCommunicator, bool, int | None]]]


@pytest.fixture
def people(transactional_db: None) -> Cast:
    return create_cast()


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "CHECK_EVERY_S", 0.02)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens a socket as a user; all are closed in the end."""
    opened: list[WebsocketCommunicator] = []

    async def connect(user: User | AnonymousUser, name: str = "platform") -> Any:
        application: Any = URLRouter(websocket_urlpatterns)
        socket = WebsocketCommunicator(application, f"/ws/teams/{name}/")
        scope: Any = socket.scope
        scope["user"] = user
        opened.append(socket)
        return socket, *await socket.connect()

    yield connect
    for socket in opened:
        await socket.disconnect()


async def spend(cast: Cast, cost: int, record_id: str) -> None:
    rows = [row(timezone.now(), id=record_id, team_id=cast.platform.id, cost_pico_usd=cost)]
    await sync_to_async(save)(rows)


async def test_a_member_gets_the_figures_at_once(people: Cast, connect: Connect) -> None:
    await spend(people, 2_340_000_000_000, "a")

    socket, accepted, _ = await connect(people.bob)

    assert accepted
    figures = await socket.receive_json_from()
    assert (figures["cost"], figures["requests"], figures["last_minute"]) == ("$2.34", "1", "1")
    assert figures["budgets"] == []


async def test_a_change_is_sent_and_what_stays_is_not(people: Cast, connect: Connect) -> None:
    socket, _, _ = await connect(people.bob)
    assert (await socket.receive_json_from())["cost"] == "$0.00"

    assert await socket.receive_nothing(timeout=0.2)
    await spend(people, 1_000_000_000_000, "a")

    assert (await socket.receive_json_from())["cost"] == "$1.00"


@pytest.mark.parametrize("team", ["platform", "nowhere"])
async def test_a_foreign_user_is_refused_like_for_a_missing_team(people: Cast, connect: Connect, team: str) -> None:
    _, accepted, code = await connect(people.charlie, team)

    assert not accepted
    assert code == consumers.FORBIDDEN


async def test_who_is_not_logged_in_is_refused(people: Cast, connect: Connect) -> None:
    _, accepted, _ = await connect(AnonymousUser())

    assert not accepted


async def test_somebody_inactive_is_refused(people: Cast, connect: Connect) -> None:
    people.bob.is_active = False
    await people.bob.asave()

    _, accepted, _ = await connect(people.bob)

    assert not accepted


async def test_the_superuser_and_viewers_of_all_teams_are_let_in(people: Cast, connect: Connect) -> None:
    permission = await Permission.objects.aget(codename="view_all_teams")
    await people.charlie.user_permissions.aadd(permission)

    for user in (people.alice, people.charlie):
        _, accepted, _ = await connect(user)
        assert accepted


async def test_who_leaves_the_team_is_disconnected(
    people: Cast, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "ACCESS_EVERY_S", 0.05)
    socket, _, _ = await connect(people.bob)
    await socket.receive_json_from()

    await Membership.objects.filter(user=people.bob).adelete()

    assert await socket.receive_output(timeout=3) == {"type": "websocket.close", "code": consumers.FORBIDDEN}


async def test_a_lost_database_closes_the_socket_so_that_the_page_notices(
    people: Cast, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket, _, _ = await connect(people.bob)
    await socket.receive_json_from()

    def away(*_: Any) -> Any:
        raise DatabaseError("gone")

    monkeypatch.setattr(consumers, "live_figures", away)

    assert (await socket.receive_output(timeout=3))["code"] == consumers.DATABASE_AWAY


async def test_closing_the_page_ends_the_watch(people: Cast, connect: Connect) -> None:
    socket, _, _ = await connect(people.bob)
    await socket.receive_json_from()
    watching = [task for task in asyncio.all_tasks() if "_watch_until_closed" in repr(task)]

    await socket.disconnect()

    assert len(watching) == 1
    assert watching[0].cancelled()


async def test_what_a_page_sends_is_ignored(people: Cast, connect: Connect) -> None:
    socket, _, _ = await connect(people.bob)
    await socket.receive_json_from()

    await socket.send_to(text_data="{not json")
    await socket.send_to(bytes_data=b"\xff")

    assert await socket.receive_nothing(timeout=0.1)


async def test_the_polling_answer_is_what_the_socket_sends(people: Cast, connect: Connect) -> None:
    await spend(people, 5, "a")
    socket, _, _ = await connect(people.bob)

    sent = await socket.receive_json_from()

    def polled() -> Any:
        team = shown_team(people.bob, name="platform")
        assert team
        return live_figures(team, timezone.now())

    assert sent == await sync_to_async(polled)()


@pytest.mark.parametrize("path", ["/", "/ws/", "/ws/teams//", "/teams/platform/"])
async def test_a_path_that_no_socket_has_is_refused_quietly(path: str) -> None:
    application: Any = URLRouter(websocket_urlpatterns)

    accepted, code = await WebsocketCommunicator(application, path).connect()

    assert (accepted, code) == (False, consumers.FORBIDDEN)
