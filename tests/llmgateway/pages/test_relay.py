"""Requests for pages are answered by the other process as they would be here, and here when it is not there."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from llmgateway.pages.keeper import Keeper
from llmgateway.pages.place import Place
from llmgateway.pages.relay import ASK_THE_GATEWAY, Relay
from llmgateway.pages.server import PagesServer
from tests.llmgateway.pages.scene import Client, connected, says_here, scope, until

LARGE = 64 * 1024
PIECES = 200


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """All that was said, as the answer."""
    said = b""
    while (message := await receive()).get("more_body") or message["type"] == "http.request":
        said += message["body"]
        if not message["more_body"]:
            break
    headers = [(b"client", repr(scope["client"]).encode()), *scope["headers"]]
    await send({"type": "http.response.start", "status": 207, "headers": headers})
    await send({"type": "http.response.body", "body": said, "more_body": True})
    await send({"type": "http.response.body", "body": b" over"})


async def test_a_request_goes_across_and_its_answer_comes_back(tmp_path: Path) -> None:
    client = Client(
        {"type": "http.request", "body": b"one ", "more_body": True},
        {"type": "http.request", "body": b"two", "more_body": False},
    )
    async with connected(tmp_path, echo) as (relay, _):
        await relay(scope("POST"), client.receive, client.send)

        assert relay.facts() == {"made": "process", "pid": os.getpid()}
    assert (client.status, client.body) == (207, b"one two over")
    assert client.heard[0]["headers"][0] == (b"client", b"('10.1.2.3', 4567)")


async def test_the_path_of_the_data_folder_may_be_long(tmp_path: Path) -> None:
    client = Client()
    async with connected(tmp_path / ("a" * 200), echo) as (relay, _):
        await relay(scope(), client.receive, client.send)

    assert client.status == 207


@pytest.mark.parametrize("path", [*ASK_THE_GATEWAY, "/admin/explain/", "/manage/api/v1/explain/"])
async def test_what_asks_the_gateway_stays_with_it(tmp_path: Path, path: str) -> None:
    client = Client()
    async with connected(tmp_path, echo) as (relay, _):
        await relay(scope(path=path), client.receive, client.send)

    assert client.body == b"here "


async def test_without_a_keeper_everything_is_made_here() -> None:
    client, relay = Client(), Relay(says_here)

    await relay(scope(), client.receive, client.send)

    assert client.body == b"here "
    assert relay.facts() == {"made": "here", "pid": 0}


async def test_a_client_that_leaves_is_told_of(tmp_path: Path) -> None:
    heard: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([(await receive())["type"], (await receive())["type"], (await receive())["type"]])

    client = Client()
    async with connected(tmp_path, waits) as (relay, _):
        asking = asyncio.create_task(relay(scope(), client.receive, client.send))
        await until(lambda: heard or client.asked == 2)
        client.leave()
        await asyncio.wait_for(asking, 5)

    assert heard == ["http.request", "http.disconnect", "http.disconnect"]
    assert client.heard == []


async def test_a_server_that_gives_a_request_up_ends_it_there(tmp_path: Path) -> None:
    heard: list[str] = []

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        while not heard or heard[-1] != "http.disconnect":
            heard.append((await receive())["type"])

    client = Client()
    async with connected(tmp_path, waits) as (relay, _):
        asking = asyncio.create_task(relay(scope(), client.receive, client.send))
        await until(lambda: heard)
        asking.cancel()
        await until(lambda: heard[-1] == "http.disconnect")

    assert heard.count("http.disconnect") == 1
    assert client.heard == []


async def test_an_application_that_does_not_heed_it_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgateway.pages.server.LEAVE_S", 0.01)
    ended = asyncio.Event()

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    client = Client()
    async with connected(tmp_path, deaf) as (relay, _):
        asking = asyncio.create_task(relay(scope(), client.receive, client.send))
        await until(lambda: client.asked == 2)
        client.leave()
        await asyncio.wait_for(ended.wait(), 5)
        await asyncio.wait_for(asking, 5)

    assert client.heard == [], "nobody is there to be told"


async def test_a_download_waits_for_its_client(tmp_path: Path) -> None:
    said = 0

    async def download(scope: Any, receive: Any, send: Any) -> None:
        nonlocal said
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(PIECES):
            await send({"type": "http.response.body", "body": bytes(LARGE), "more_body": True})
            said += 1
        await send({"type": "http.response.body", "body": b""})

    reads = asyncio.Event()

    class SlowClient(Client):
        async def send(self, message: MutableMapping[str, Any]) -> None:
            if message.get("body"):
                await reads.wait()
            await super().send(message)

    client = SlowClient()
    async with connected(tmp_path, download) as (relay, _):
        asking = asyncio.create_task(relay(scope(), client.receive, client.send))
        await until(lambda: said)
        await asyncio.sleep(0.1)
        waiting = said
        reads.set()
        await asyncio.wait_for(asking, 10)

    assert waiting < PIECES / 4
    assert len(client.body) == PIECES * LARGE


async def test_an_upload_waits_for_its_page(tmp_path: Path) -> None:
    begin, size = asyncio.Event(), 0

    async def upload(scope: Any, receive: Any, send: Any) -> None:
        nonlocal size
        await begin.wait()
        while (message := await receive())["more_body"]:
            size += len(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"thanks"})

    pieces = [{"type": "http.request", "body": bytes(LARGE), "more_body": True} for _ in range(PIECES)]
    client = Client(*pieces, {"type": "http.request", "body": b"", "more_body": False})
    async with connected(tmp_path, upload) as (relay, _):
        asking = asyncio.create_task(relay(scope("POST"), client.receive, client.send))
        await until(lambda: client.asked)
        await asyncio.sleep(0.1)
        waiting = client.asked
        begin.set()
        await asyncio.wait_for(asking, 10)

    assert waiting < PIECES / 4
    assert (size, client.body) == (PIECES * LARGE, b"thanks")


async def dies(scope: Any, receive: Any, send: Any) -> None:
    """As if the process was killed when it had heard what it is to do."""
    if scope["path"] == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half of ", "more_body": True})
    await receive()
    send.__self__._writer.transport.abort()
    await asyncio.sleep(60)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_page_to_read_is_made_here_when_its_process_is_killed(tmp_path: Path, method: str) -> None:
    client = Client({"type": "http.request", "body": b"all of it", "more_body": False})
    async with connected(tmp_path, dies, grace_s=0) as (relay, _):
        await relay(scope(method), client.receive, client.send)

    assert (client.status, client.body) == (200, b"here all of it")


@pytest.mark.parametrize(("accept", "kind"), [(b"text/html,*/*", b"text/html"), (b"*/*", b"application/json")])
async def test_what_may_have_been_done_is_not_done_twice(tmp_path: Path, accept: bytes, kind: bytes) -> None:
    client = Client()
    async with connected(tmp_path, dies, grace_s=0) as (relay, _):
        await relay(scope("POST", headers=[(b"accept", accept)]), client.receive, client.send)

    assert client.status == 502
    assert dict(client.heard[0]["headers"])[b"content-type"].startswith(kind)
    assert b"try again" in client.body


async def test_a_large_body_is_not_kept_for_another_time(tmp_path: Path) -> None:
    client = Client({"type": "http.request", "body": bytes(LARGE + 1), "more_body": False})
    async with connected(tmp_path, dies, grace_s=0) as (relay, _):
        await relay(scope(), client.receive, client.send)

    assert client.status == 502


async def test_an_answer_that_breaks_off_is_not_ended(tmp_path: Path) -> None:
    client = Client()
    async with connected(tmp_path, dies, grace_s=0) as (relay, _):
        await relay(scope(path="/begun"), client.receive, client.send)

    assert client.heard[-1] == {"type": "http.response.body", "body": b"half of ", "more_body": True}


async def test_a_page_that_fails_is_an_error_of_the_page(tmp_path: Path) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    client = Client()
    async with connected(tmp_path, broken) as (relay, _):
        await relay(scope("POST"), client.receive, client.send)

    assert client.status == 500


CONNECT = {"type": "websocket.connect"}


async def figures(scope: Any, receive: Any, send: Any) -> None:
    """A WebSocket that says back what it is told."""
    assert await receive() == CONNECT
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"].upper()})


def socket_scope() -> dict[str, Any]:
    return {"type": "websocket", "path": "/ws/teams/red/", "headers": [], "client": None, "subprotocols": []}


async def test_a_websocket_goes_across(tmp_path: Path) -> None:
    client = Client(CONNECT, {"type": "websocket.receive", "text": "grün", "bytes": None})
    client.goodbye = {"type": "websocket.disconnect", "code": 1001}
    async with connected(tmp_path, figures) as (relay, _):
        asking = asyncio.create_task(relay(socket_scope(), client.receive, client.send))
        await until(lambda: len(client.heard) == 2)
        client.leave()
        await asyncio.wait_for(asking, 5)

    assert [message["type"] for message in client.heard] == ["websocket.accept", "websocket.send"]
    assert client.heard[1]["text"] == "GRÜN"


async def test_a_websocket_waits_for_a_process_that_starts(tmp_path: Path) -> None:
    client = Client(CONNECT)
    relay = Relay(says_here)
    relay.keeper = Keeper(Place(tmp_path), grace_s=1, command=("sleep",))
    place = relay.keeper._place
    place.folder.mkdir()
    asking = asyncio.create_task(relay(socket_scope(), client.receive, client.send))
    with place.lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        server = PagesServer(figures, place, grace_s=1)
        serving = asyncio.create_task(server.run())
        await until(lambda: client.heard)
        server.end()
        await asyncio.wait_for(asyncio.gather(asking, serving), 5)

    assert client.heard[0]["headers"] == []


async def test_a_websocket_is_asked_to_come_again_when_the_process_ends(tmp_path: Path) -> None:
    client = Client(CONNECT)
    async with connected(tmp_path, figures, grace_s=60) as (relay, server):
        asking = asyncio.create_task(relay(socket_scope(), client.receive, client.send))
        await until(lambda: client.heard)
        server.end()
        await asyncio.wait_for(asking, 5)

    assert client.heard[-1] == {"type": "websocket.close", "code": 1012}


async def test_a_websocket_that_is_not_open_yet_is_opened_here(tmp_path: Path) -> None:
    client = Client(CONNECT)
    async with connected(tmp_path, dies, grace_s=0) as (relay, _):
        await relay(socket_scope(), client.receive, client.send)

    assert client.heard[0]["headers"] == [(b"from", b"here")]


async def test_an_end_waits_for_the_requests_that_are_there(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await echo(scope, receive, send)

    first, second = Client(), Client()
    async with connected(tmp_path, slow, grace_s=5) as (relay, server):
        asking = asyncio.create_task(relay(scope(), first.receive, first.send))
        await until(lambda: first.asked)
        await asyncio.sleep(0.01)
        server.end()
        await asyncio.sleep(0.01)
        await relay(scope(), second.receive, second.send)
        go_on.set()
        await asyncio.wait_for(asking, 5)

    assert (first.status, second.body) == (207, b"here ")


async def test_nobody_looks_and_it_ends(tmp_path: Path) -> None:
    async with connected(tmp_path, figures, idle_s=0.05, tick_s=0.01) as (relay, _):
        client = Client(CONNECT)
        asking = asyncio.create_task(relay(socket_scope(), client.receive, client.send))
        await until(lambda: client.heard)
        await asyncio.sleep(0.1)
        assert (tmp_path / "run/pages").exists(), "somebody looks"
        client.leave()
        await asking

        await until(lambda: not (tmp_path / "run/pages").exists())


async def test_a_process_whose_socket_was_removed_makes_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(tmp_path, echo, tick_s=0.01) as (relay, server):
        (tmp_path / "run/pages").unlink()
        client = Client()
        await relay(scope(), client.receive, client.send)
        await until(server._ending.is_set)

    assert client.body == b"here "
    assert "was removed" in caplog.text


async def test_without_the_help_of_a_kernel_it_ends_after_its_server(tmp_path: Path) -> None:
    async with connected(tmp_path, echo, tick_s=0.01) as (_, server):
        server._parent += 1
        await until(server._ending.is_set)
        await until(lambda: not (tmp_path / "run/pages").exists())

    assert not server._guests


async def test_what_lies_where_the_socket_belongs_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "elsewhere/run").mkdir(parents=True)
    place = tmp_path / "elsewhere/run/pages"
    place.write_text("not a socket")
    server = PagesServer(echo, Place(tmp_path / "elsewhere"), grace_s=1)
    await asyncio.wait_for(server.run(on_ready=server.end), 5)

    assert not place.exists()
