"""`./gateway serve`: one server process. `./gateway` runs it beside the background worker."""

from __future__ import annotations

import asyncio
import os
import socket
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from django.apps import apps
from django.core.management import call_command
from django.core.management.base import BaseCommand

from llmgateway import conf as conf_module
from llmgateway.api.connections import Bounds, Connections, allow_more_files
from llmgateway.api.http_protocol import GatewayProtocol
from llmgateway.api.socket_protocol import SocketProtocol
from llmgateway.management.preparation import (
    FirstAdmin,
    collect_static_if_changed,
    create_first_admin,
    migrate_if_needed,
)
from llmgateway.memory import forget_modules
from llmgateway.pages.keeper import Keeper
from llmgateway.pages.place import Place
from llmgateway.setting_sources import changed_settings

UNSENT_BYTES = 128 * 1024


class GatewayServer(uvicorn.Server):
    """uvicorn that says when it is ready, and turns readiness off before it stops accepting connections."""

    def __init__(
        self, config: uvicorn.Config, *, on_ready: Callable[[], None], on_stop: Callable[[], None] = lambda: None
    ) -> None:
        """`on_stop` is called on the event loop when the server has been told to stop."""
        super().__init__(config)
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        if self.started:
            for server in self.servers:
                for listener in server.sockets:
                    _keep_little_unsent(listener.fileno())
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        from llmgateway.wiring import begin_shutdown

        if not self.should_exit:
            begin_shutdown()
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._on_stop)
        super().handle_exit(sig, frame)
        # uvicorn raises captured signals again when it is done, which would end us by a signal after a clean stop.
        self._captured_signals.clear()


def _keep_little_unsent(listener: int) -> None:
    """Of each answer the kernel holds no more than this; what a client does not read would fill megabytes for each."""
    with socket.socket(fileno=os.dup(listener)) as plug:
        if hasattr(socket, "TCP_NOTSENT_LOWAT") and plug.family in {socket.AF_INET, socket.AF_INET6}:
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


class Command(BaseCommand):
    help = "Prepare the database and static files, then serve."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--config", metavar="FILE", help="configuration to import before listening")
        parser.add_argument("--fd", type=int, help="a bound socket to listen on; ./gateway passes one")
        parser.add_argument("--ready-fd", type=int, help="a pipe to write to when requests are answered")

        parser.add_argument("--prepared", action="store_true", help="another server has prepared database and files")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["prepared"]:
            self.prepare(options["config"])
        # Only now: loading it reads the tables.
        from llmgateway.asgi import application, pages
        from llmgateway.wiring import watch

        conf = conf_module.conf
        allow_more_files()
        connections = Connections(Bounds.of(conf))
        keeper = Keeper(Place(conf.data_dir), grace_s=conf.shutdown_grace_s)
        if conf.pages_process == "auto":
            pages.keeper = keeper
        watch(connections, pages.facts)
        config = uvicorn.Config(
            application,
            host=conf.host,
            port=conf.port,
            loop="uvloop",
            http=cast("Any", partial(GatewayProtocol, connections=connections)),
            ws=SocketProtocol,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=2048,
            timeout_keep_alive=conf.keep_alive_s,
            timeout_graceful_shutdown=conf.shutdown_grace_s,
        )
        sockets = [socket.socket(fileno=options["fd"])] if options["fd"] is not None else None
        server = GatewayServer(config, on_ready=lambda: self._ready(options), on_stop=keeper.begin_end)
        server.run(sockets=sockets)

    def prepare(self, config_file: str | None) -> None:
        """All that must be true before a request is answered."""
        if migrate_if_needed():
            print("Database tables are up to date now.")
        collect_static_if_changed()
        print_first_admin(create_first_admin())
        if config_file:
            call_command("import_config", config_file)
        for app in apps.get_app_configs():
            # They were loaded to see whether the tables are up to date.
            forget_modules(f"{app.name}.migrations")

    def _ready(self, options: dict[str, Any]) -> None:
        if not options["prepared"]:
            self.print_ready()
        fd = options["ready_fd"]
        if fd is not None:
            os.write(fd, b"1")
            os.close(fd)

    def print_ready(self) -> None:
        """Where everything is, and which settings are not the defaults."""
        conf = conf_module.conf
        root = base_url(conf.host, conf.port)
        print("LLM Gateway is ready.")
        for name, url in (("API", "/v1"), ("dashboard", "/"), ("admin", "/admin/"), ("health", "/health")):
            print(f"  {name:<10} {root}{url}")
        changed = ", ".join(f"{source.name}={source.shown} ({source.source})" for source in changed_settings(conf))
        print(f"  {'data':<10} {conf.data_dir}")
        print(f"  {'settings':<10} {changed or 'all defaults'}", flush=True)


def print_first_admin(admin: FirstAdmin | None) -> None:
    if admin is None:
        return
    for provider in admin.providers:
        print(f"Set up the provider {provider}.")
    if not admin.password:
        print(f"Created the first admin {admin.username!r} with the password of DJANGO_SUPERUSER_PASSWORD.", flush=True)
        return
    rows = [
        "The first admin was created. This password is shown only now:",
        "",
        f"  user name  {admin.username}",
        f"  password   {admin.password}",
    ]
    width = max(len(row) for row in rows) + 2
    print(
        "\n".join(
            ["", "┌" + "─" * width + "┐", *(f"│ {row:<{width - 1}}│" for row in rows), "└" + "─" * width + "┘", ""]
        ),
        flush=True,
    )


def base_url(host: str, port: int) -> str:
    """How a browser on this machine reaches a server that listens on `host`."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104  # compared, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
