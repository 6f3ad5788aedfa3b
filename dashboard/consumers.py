"""Pushes a team's live figures to open pages. It reads the database, so it works whichever process wrote."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.contrib.auth import get_user_model
from django.db import DatabaseError
from django.utils import timezone

from dashboard.live import LiveFigures, live_figures
from dashboard.teams import ShownTeam, shown_team

CHECK_EVERY_S = 2.0
"""How long after one reading the next begins, whatever happens in between."""

ACCESS_EVERY_S = 30.0
"""How long somebody who has left the team may still see figures on an open page."""

FORBIDDEN = 4404
"""Close code: no such team, or not one of the user's. The page stops trying."""

DATABASE_AWAY = 1011
"""Close code of RFC 6455 for an unexpected condition. The page polls, and tries the socket again."""

log = logging.getLogger(__name__)


class TeamConsumer(AsyncJsonWebsocketConsumer):
    """One open team page. Sends the figures on connect, then whenever they differ from what was sent last."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watching: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        name = self.scope["url_route"]["kwargs"]["name"]
        user = self.scope["user"]
        user_id = user.pk if user else None
        if await find_team(user_id, name) is None:
            # Refused before it is accepted: the browser sees a failed handshake and learns nothing.
            await self.close(FORBIDDEN)
            return
        await self.accept()
        self.watching = asyncio.create_task(self._watch_until_closed(user_id, name))

    async def receive(self, *_: object, **__: object) -> None:
        """Pages have nothing to say; what comes is not even read."""

    async def disconnect(self, code: int) -> None:
        if self.watching:
            self.watching.cancel()
            await asyncio.gather(self.watching, return_exceptions=True)

    async def _watch_until_closed(self, user_id: int | None, name: str) -> None:
        try:
            await self._watch(user_id, name)
        except DatabaseError:
            log.exception("The live figures of team %s cannot be read; the page goes on asking by itself.", name)
            await self.close(DATABASE_AWAY)
        else:
            await self.close(FORBIDDEN)

    async def _watch(self, user_id: int | None, name: str) -> None:
        """Ends when the user may no longer see the team."""
        sent: LiveFigures | None = None
        clock = asyncio.get_running_loop().time
        while team := await find_team(user_id, name):
            until = clock() + ACCESS_EVERY_S
            while clock() < until:
                sent = await self._send_changed(team, sent)
                await asyncio.sleep(CHECK_EVERY_S)

    async def _send_changed(self, team: ShownTeam, sent: LiveFigures | None) -> LiveFigures | None:
        figures = await database_sync_to_async(live_figures)(team, timezone.now())
        if figures != sent:
            await self.send_json(figures)
        return figures


class NoSuchSocket(AsyncJsonWebsocketConsumer):
    """Every other path. Without it, anybody's wrong path would be an error with a traceback in the log."""

    async def connect(self) -> None:
        await self.close(FORBIDDEN)


@database_sync_to_async
def find_team(user_id: int | None, name: str) -> ShownTeam | None:
    """The team if this user may see it now. The user is read again, for rights change while a page is open."""
    user = get_user_model().objects.filter(pk=user_id).first() if user_id else None
    return shown_team(user, name=name) if user else None
