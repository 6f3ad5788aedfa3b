"""The real product and the fake provider as processes of their own, started and ended reliably."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmgateway.http import httpx
from tests.e2e.console import Console
from tests.prepared import with_tables

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-gw-endtoend00-0123456789abcdefghij"
LIMITED_KEY = "sk-gw-limited000-0123456789abcdefghij"
PROVIDER_SECRET = "sk-fake-provider-secret"
INPUT_PRICE, OUTPUT_PRICE, CACHE_PRICE, CACHE_WRITE_PRICE = 150_000, 600_000, 75_000, 300_000
"""Pico-dollars per token, as the configuration below says in dollars per million."""

CONFIGURATION = """
version: 1
providers:
  fake:
    base_url: http://127.0.0.1:{port}/v1
    allow_private_network: true
    credentials: [{{name: main, api_key: {secret}}}]
  claude:
    adapter: anthropic
    base_url: http://127.0.0.1:{port}/v1
    allow_private_network: true
    credentials: [{{name: main, api_key: {secret}}}]
  google:
    adapter: gemini
    base_url: http://127.0.0.1:{port}/v1beta
    allow_private_network: true
    credentials: [{{name: main, api_key: {secret}}}]
  keeper:
    adapter: xai
    base_url: http://127.0.0.1:{port}/v1
    allow_private_network: true
    credentials: [{{name: main, api_key: {secret}}}]
deployments:
  keeper-main: {{provider: keeper, credential: main, model: fake-keeper}}
  claude-main: {{provider: claude, credential: main, model: claude-fake}}
  google-main: {{provider: google, credential: main, model: gemini-3-fake}}
  google-vectors: {{provider: google, credential: main, model: gemini-embedding-fake}}
  fake-chat-main: {{provider: fake, credential: main, model: fake-chat}}
  fake-embedding-main: {{provider: fake, credential: main, model: fake-embedding}}
  voice-main: {{provider: fake, credential: main, model: fake-realtime}}
  scribe-main: {{provider: fake, credential: main, model: scribe-fake}}
  impatient-main:
    provider: fake
    credential: main
    model: fake-impatient
    timeouts: {{connect_s: 1, first_token_s: 0.3, idle_s: 0.3, total_s: 5}}
aliases:
  chat: {{targets: [{{deployment: fake-chat-main}}]}}
  keeper: {{targets: [{{deployment: keeper-main}}]}}
  fake/chat: {{targets: [{{deployment: fake-chat-main}}]}}
  claude: {{targets: [{{deployment: claude-main}}]}}
  flash: {{targets: [{{deployment: google-main}}]}}
  vectors: {{targets: [{{deployment: google-vectors}}]}}
  embed: {{targets: [{{deployment: fake-embedding-main}}]}}
  voice: {{targets: [{{deployment: voice-main}}]}}
  impatient: {{targets: [{{deployment: impatient-main}}]}}
prices:
  - {{provider: fake, model: fake-chat, input: "0.15", output: "0.60", cache_read: "0.075", effective_from: 2026-01-01}}
  - {{provider: keeper, model: fake-keeper, input: "0.15", output: "0.60", effective_from: 2026-01-01}}
  - {{provider: fake, model: fake-embedding, input: "0.15", output: "0", effective_from: 2026-01-01}}
  - {{provider: fake, model: fake-impatient, input: "0.15", output: "0.60", effective_from: 2026-01-01}}
  - provider: fake
    model: fake-realtime
    input: "4"
    output: "16"
    cache_read: "0.4"
    audio_input: "32"
    audio_output: "64"
    effective_from: 2026-01-01
  - {{provider: fake, model: scribe-fake, input: "6", output: "6", effective_from: 2026-01-01}}
  - {{provider: google, model: gemini-3-fake, input: "0.15", output: "0.60", cache_read: "0.075", effective_from: 2026-01-01}}
  - {{provider: google, model: gemini-embedding-fake, input: "0.15", output: "0", effective_from: 2026-01-01}}
  - provider: claude
    model: claude-fake
    input: "0.15"
    output: "0.60"
    cache_read: "0.075"
    cache_write_5m: "0.3"
    effective_from: 2026-01-01
teams:
  platform: {{}}
  others: {{}}
keys:
  app: {{team: platform, secret: {key}}}
  limited:
    team: platform
    secret: {limited_key}
    models: [chat]
    limits: [{{metric: requests, per: minute, amount: 3}}]
{more}
settings: {{retries: {{attempts: 0}}, circuits: {{mode: log}}}}
"""


def wait_for(condition: Callable[[], Any], what: str, *, within_s: float = 30.0, pause_s: float = 0.01) -> Any:
    """The first truthy value of `condition`."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within_s:g} s"
        pause.wait(pause_s)
    return value


class Child:
    """A process in a group of its own, so that ending it ends everything it started."""

    def __init__(self, *command: str, log: Path, env: dict[str, str], pass_fds: tuple[int, ...] = ()) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdout=output, stderr=output, pass_fds=pass_fds, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def check_running(self) -> None:
        assert self.process.poll() is None, f"the process ended with {self.process.returncode}:\n{self.output[-4000:]}"

    def end(self, how: signal.Signals = signal.SIGTERM, *, within_s: float = 15.0) -> int:
        """The exit status. Whatever is left after `within_s` is killed."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(within_s)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Provider:
    """The fake provider. `sent` is what it was sent since the last `reset`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        command = (sys.executable, "-m", "providers.fake_server", "--port", str(self.port), "--key", PROVIDER_SECRET)
        self._child = Child(*command, log=folder / "provider.log", env=environment())
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=5)
        wait_for(self._answers, "the start of the fake provider", within_s=20, pause_s=0.05)

    def _answers(self) -> bool:
        self._child.check_running()
        with contextlib.suppress(httpx.TransportError):
            return self._client.get("/_control/requests").is_success
        return False

    @property
    def sent(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = self._client.get("/_control/requests").json()
        return records

    @property
    def last(self) -> dict[str, Any]:
        return self.sent[-1]

    def script(self, *, times: int = 1, **script: Any) -> None:
        """What it does with the next `times` requests."""
        self._client.post("/_control/scripts", json={"script": script, "times": times}).raise_for_status()

    def reset(self) -> None:
        self._client.post("/_control/reset").raise_for_status()

    def close(self) -> None:
        self._client.close()
        self._child.end()


class Product:
    """`manage.py serve` on a free port, with a data folder of its own that outlives a kill."""

    def __init__(self, folder: Path, provider: Provider, *, more: str = "", **settings: str) -> None:
        """`more` is added to the configuration below."""
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self.environment = environment(
            GATEWAY_DATA_DIR=str(self.data),
            HOST="127.0.0.1",
            PORT=str(self.port),
            DJANGO_SUPERUSER_USERNAME="admin",
            DJANGO_SUPERUSER_PASSWORD="correct horse battery staple",
            SHUTDOWN_GRACE_S="5",
            **settings,
        )
        self.configuration = folder / "gateway.yaml"
        self.configuration.write_text(
            CONFIGURATION.format(
                port=provider.port, secret=PROVIDER_SECRET, key=KEY, limited_key=LIMITED_KEY, more=more
            )
        )
        if "DATABASE_URL" not in settings:
            with_tables(self.data)
        self.console = Console(folder, self.environment)
        self.child = self._serve("--config", str(self.configuration))

    def _serve(self, *options: str) -> Child:
        command = (sys.executable, "manage.py", "serve", *options)
        child = Child(*command, log=self._folder / "gateway.log", env=self.environment)

        def is_ready() -> bool:
            child.check_running()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
            return False

        try:
            wait_for(is_ready, "readiness", within_s=60, pause_s=0.05)
        except BaseException:
            child.end(signal.SIGKILL)
            raise
        return child

    def kill(self) -> None:
        """Without a chance to finish anything."""
        self.child.end(signal.SIGKILL)

    def restart(self) -> None:
        self.child = self._serve()

    def stop(self) -> int:
        return self.child.end()

    def manage(self, *command: str) -> str:
        """The output of a management command that runs beside the server."""
        return self.console.run(*command)

    def usage(self, *options: str) -> list[dict[str, Any]]:
        """The ledger, as scripts read it."""
        return [json.loads(line) for line in self.manage("usage", "--json", *options).splitlines()]

    def ledger_row(self, request_id: str) -> dict[str, Any]:
        """The one row of a request."""
        [row] = [row for row in self.usage() if row["request_id"] == request_id]
        return row

    def log_line(self, request_id: str = "", **fields: str) -> dict[str, Any]:
        """The one access line of a request, by its id or other fields; lines are written shortly after the answer."""
        wanted = {**fields, **({"request_id": request_id} if request_id else {})}
        lines = wait_for(lambda: self._log_lines(wanted), f"the log line of {wanted}")
        assert len(lines) == 1, lines
        line: dict[str, Any] = lines[0]
        return line

    def _log_lines(self, wanted: dict[str, str]) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.child.output.splitlines() if line.startswith("{")]
        return [line for line in lines if wanted.items() <= line.items()]


@contextlib.contextmanager
def running_provider(folder: Path) -> Iterator[Provider]:
    provider = Provider(folder)
    try:
        yield provider
    finally:
        provider.close()


@contextlib.contextmanager
def running_product(folder: Path, provider: Provider, *, more: str = "", **settings: str) -> Iterator[Product]:
    product = Product(folder, provider, more=more, **settings)
    try:
        yield product
    finally:
        product.console.close()
        product.stop()


def environment(**more: str) -> dict[str, str]:
    """The tests' clean environment without their data folder."""
    inherited = {name: value for name, value in os.environ.items() if name != "GATEWAY_DATA_DIR"}
    return {**inherited, "PYTHONUNBUFFERED": "1", **more}


def free_port() -> int:
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        port: int = plug.getsockname()[1]
        return port
