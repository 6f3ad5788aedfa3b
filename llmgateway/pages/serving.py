"""What the process that makes pages does from its start to its end. There is no data plane in it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import uvloop
from django.urls import reverse

from llmgateway import conf as conf_module
from llmgateway import memory
from llmgateway.pages.applications import Pages
from llmgateway.pages.place import Place
from llmgateway.pages.server import PagesServer

AT_ONCE = 4
"""Pages wait for their database now and then; more at once only take turns."""
START_S = 60
"""One that does not listen by then is ended by an alarm, so that another can be tried."""


def serve(grace_s: float) -> None:
    """Until a signal, or until nobody has looked for a while."""
    signal.alarm(START_S)
    memory.use_one_heap()
    # The first page would wait for it.
    reverse("admin:index")
    uvloop.run(_serve(grace_s))


async def _serve(grace_s: float) -> None:
    server = PagesServer(Pages(at_once=AT_ONCE), Place(conf_module.conf.data_dir), grace_s=grace_s)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.end)
    memory.Returning().start()
    await server.run(on_ready=_on_ready)
    logging.shutdown()
    # Python would wait for the thread of a page that has outlived the grace.
    os._exit(0)


def _on_ready() -> None:
    signal.alarm(0)
