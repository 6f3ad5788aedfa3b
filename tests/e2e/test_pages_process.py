"""The process that makes pages, as people and programs meet it: it may be killed at any moment, and nobody sees an error."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect
from websockets.typing import Origin

from llmgateway.http import httpx
from tests.e2e.harness import KEY, Product, Provider, running_product, wait_for
from tests.e2e.launched import descendants, is_alive

PASSWORD = "correct horse battery staple"
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
FORM = "application/x-www-form-urlencoded"


def facts(product: Product) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{product.url}/health").json()["pages"]
    return found


def pages_process(product: Product) -> int:
    """Its id, when it answers."""

    def found() -> int:
        assert httpx.get(f"{product.url}/login/").status_code == 200
        now = facts(product)
        return int(now["pid"]) if now["made"] == "process" else 0

    return int(wait_for(found, "a page of a process of its own", within_s=40, pause_s=0.05))


@contextmanager
def visitor(product: Product) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=product.url, timeout=20) as client:
        yield client


def log_in(client: httpx.Client, password: str = PASSWORD) -> httpx.Response:
    [token] = TOKEN.findall(client.get("/login/").text)
    form = {"csrfmiddlewaretoken": token, "username": "admin", "password": password}
    return client.post("/login/", data=form, headers={"referer": f"{client.base_url}/login/"})


class HalfRequest:
    """One whose body has not come yet, so that whoever answers it waits."""

    def __init__(self, product: Product, head: str, body: bytes) -> None:
        self._rest = body[1:]
        self._socket = socket.create_connection(("127.0.0.1", product.port), timeout=20)
        lines = f"{head} HTTP/1.1\r\nhost: 127.0.0.1:{product.port}\r\ncontent-length: {len(body)}\r\n"
        self._socket.sendall(f"{lines}content-type: {FORM}\r\nconnection: close\r\n\r\n".encode() + body[:1])

    def say_the_rest(self) -> None:
        self._socket.sendall(self._rest)

    def answer(self) -> bytes:
        with self._socket:
            said = b""
            while piece := self._socket.recv(65536):
                said += piece
            return said


def until_they_are_there(product: Product, count: int) -> None:
    """Until the process has a connection for each of the requests that were just sent."""
    wait_for(lambda: len(open_sockets(facts(product)["pid"])) > count, "the requests at the process", within_s=10)


def open_sockets(pid: int) -> list[str]:
    """Connections to the server, and the socket that it listens on."""
    ours = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith("/run/pages")}
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))  # noqa: PTH115  # no path
        except FileNotFoundError:
            continue
    return [link for link in links if link.removeprefix("socket:[").removesuffix("]") in ours]


def test_pages_are_made_in_a_process_of_their_own(product: Product) -> None:
    pid = pages_process(product)

    assert pid in descendants(product.child.process.pid)
    assert os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, product.child.process.pid) or (
        os.getpriority(os.PRIO_PROCESS, pid) == 19
    )
    with visitor(product) as client:
        style = client.get("/static/admin/css/base.css", headers={"accept-encoding": "gzip"})
        assert (style.status_code, style.headers["content-type"]) == (200, 'text/css; charset="utf-8"')
        assert client.get("/no-such-page").status_code == 404
        assert client.get("/manage/api/v1/keys").status_code == 401
        assert client.head("/login/").status_code == 200
    assert facts(product) == {"made": "process", "pid": pid}


def test_somebody_logs_in_and_sees_live_figures(product: Product) -> None:
    pages_process(product)
    with visitor(product) as client:
        assert log_in(client).headers["location"] == "/"
        assert client.get("/").status_code == 200
        assert client.get("/admin/llmgateway/team/").status_code == 200

        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        address = f"ws://127.0.0.1:{product.port}/ws/teams/platform/"
        with connect(address, origin=Origin(product.url), additional_headers={"cookie": cookies}) as live:
            assert {"cost", "requests"} <= json.loads(live.recv(timeout=10)).keys()


def test_a_form_without_its_token_is_refused(product: Product) -> None:
    pages_process(product)

    assert httpx.post(f"{product.url}/login/", data={"username": "admin"}).status_code == 403


def test_whoever_guesses_passwords_is_known_by_address(product: Product) -> None:
    pages_process(product)
    with visitor(product) as client:
        assert log_in(client, "wrong").status_code == 200

    with closing(sqlite3.connect(product.data / "gateway.sqlite3")) as database:
        addresses = database.execute("SELECT DISTINCT ip_address FROM axes_accessattempt").fetchall()
    assert addresses == [("127.0.0.1",)]


def test_what_a_page_saves_holds_for_the_next_second(product: Product) -> None:
    pages_process(product)
    words = product.manage("create_token", "editor", "--scopes", "keys:write").split()
    [secret] = [word for word in words if word.startswith("gw-mgmt-")]
    with visitor(product) as client:
        client.headers["authorization"] = f"Bearer {secret}"
        made = client.post("/manage/api/v1/keys", json={"name": "from-a-page", "team": "platform"})
        assert made.status_code == 201, made.text
        headers = {"authorization": f"Bearer {made.json()['secret']}"}
        began = time.monotonic()
        wait_for(lambda: httpx.get(f"{product.url}/v1/models", headers=headers).status_code == 200, "the new key")

    assert time.monotonic() - began < 1


def test_a_page_to_read_is_made_all_the_same_when_the_process_is_killed_and_no_change_is_made_twice(
    product: Product,
) -> None:
    pid = pages_process(product)
    reading = HalfRequest(product, "GET /login/", b"xy")
    changing = HalfRequest(product, "POST /login/", b"username=admin")
    until_they_are_there(product, 2)

    os.kill(pid, signal.SIGKILL)
    reading.say_the_rest()

    assert b" 200 " in reading.answer().split(b"\r\n")[0]
    answer = changing.answer()
    assert b" 502 " in answer.split(b"\r\n")[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "interrupted"
    assert "ended amid POST /login/" in product.child.output
    assert pages_process(product) != pid


def test_many_who_come_while_it_starts_are_all_answered(product: Product) -> None:
    os.kill(pages_process(product), signal.SIGKILL)

    with ThreadPoolExecutor(20) as pool, visitor(product) as client:
        statuses = set(pool.map(lambda _: client.get("/login/").status_code, range(100)))

    assert statuses == {200}
    pid = pages_process(product)
    assert [each for each in descendants(product.child.process.pid) if is_pages(each)] == [pid]


def is_pages(pid: int) -> bool:
    return b"llmgateway.pages\0" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_it_ends_with_its_server_however_that_ends_and_may_be_left_out(tmp_path: Path, provider: Provider) -> None:
    with running_product(tmp_path, provider) as product:
        first = pages_process(product)
        request = HalfRequest(product, "POST /login/", b"username=admin")
        until_they_are_there(product, 1)
        product.child.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not (product.data / "run/pages").exists(), "its end", within_s=10)
        request.say_the_rest()
        assert b" 403 " in request.answer().split(b"\r\n")[0], "what has begun is answered"
        assert product.child.process.wait(20) == 0
        assert not is_alive(first)

        product.restart()
        second = pages_process(product)
        product.child.process.kill()
        product.child.process.wait()
        wait_for(lambda: not is_alive(second), "the end of the process", within_s=10)

        product.environment["PAGES_PROCESS"] = "never"
        product.restart()
        assert httpx.get(f"{product.url}/login/").status_code == 200
        assert facts(product) == {"made": "here", "pid": 0}
        assert descendants(product.child.process.pid) == []


def test_apps_know_nothing_of_it(product: Product) -> None:
    os.kill(pages_process(product), signal.SIGSTOP)
    try:
        answer = httpx.get(f"{product.url}/v1/models", headers={"authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200
        assert httpx.get(f"{product.url}/login/", timeout=10).status_code == 200, "nobody waits for it for long"
    finally:
        os.kill(facts(product)["pid"], signal.SIGCONT)
