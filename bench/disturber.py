"""`python -m bench.disturber KIND PORT`: one kind of work of the gateway's, again and again, until a line comes in.

It stands in for admins, the background worker and people at dashboards: beside the gateway on its database, or over its
port. It prints "ready", and at the end how often it did its work. It gives way to everything else on the machine, for
it is its work that is to be felt, not the loss of a CPU.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial

RELOAD_EVERY_S = 0.5
DAYS = 29
READERS = 4
_stopping = threading.Event()

Work = Callable[[], object]


def reloads() -> Iterator[Work]:
    """All of the configuration, twice a second: as the log of changes asks for when a whole table has changed."""
    from django.db import connection

    xid = "pg_current_xact_id()::text::bigint" if connection.vendor == "postgresql" else "0"

    def reload() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO llmgateway_configchange (table_name, row_id, owner, transaction_id, created_at) "
                f"VALUES ('', '', '', {xid}, CURRENT_TIMESTAMP)"
            )

    while True:  # Until it is told to stop.
        yield reload
        _stopping.wait(RELOAD_EVERY_S)


def rollups() -> Iterator[Work]:
    """Days summed anew, hours held against the ledger, budgets looked at: what the background worker does now and then."""
    from django.db import connection

    from billing.alerts.check import raise_alerts
    from billing.day_sums import repair_day
    from billing.reconciliation import reconcile

    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for back in itertools.cycle(range(1, DAYS)):
        day = today - timedelta(days=back)
        yield partial(repair_day, connection, day)
        yield partial(reconcile, since=day, until=day + timedelta(days=1))
        yield partial(raise_alerts, datetime.now(UTC))


def pages(port: int) -> list[Iterator[Work]]:
    """Dashboard, admin and management API, by several readers at once who never rest."""
    from django.conf import settings
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
    from django.contrib.sessions.backends.db import SessionStore

    from llmgateway.management_api.tokens import token_create

    user, _ = get_user_model().objects.get_or_create(username="reader", is_superuser=True, is_staff=True)
    session = SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[-1]
    session.create()
    _, secret = token_create(name=f"reader-{session.session_key}", scopes=["usage:read", "keys:read"])
    headers = {"Cookie": f"{settings.SESSION_COOKIE_NAME}={session.session_key}"}
    bearer = {"Authorization": f"Bearer {secret}"}
    asked = [
        ("/teams/team-007/?period=30d", headers),
        ("/manage/api/v1/usage/summary", bearer),
        ("/admin/billing/usagerecord/?period=month", headers),
        ("/manage/api/v1/usage?team=team-007", bearer),
        ("/requests/?team=team-007", headers),
        ("/admin/llmgateway/apikey/", headers),
    ]
    _wait_for_process(port)
    return [_reader(port, asked[number:] + asked[:number]) for number in range(READERS)]


def _wait_for_process(port: int) -> None:
    """Have the process that makes pages started, if there is to be one. What its start costs is paid once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    made = ""
    while made not in {"process", "here"}:
        for path in ("/login/", "/health"):
            connection.request("GET", path)
            answer = connection.getresponse().read()
        made = json.loads(answer)["pages"]["made"]
        _stopping.wait(0.1)


def _reader(port: int, asked: list[tuple[str, dict[str, str]]]) -> Iterator[Work]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def get(path: str, headers: dict[str, str]) -> None:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {body[:300]!r}")

    for path, headers in itertools.cycle(asked):
        yield partial(get, path, headers)


def lock() -> Iterator[Work]:
    """Nothing enters the ledger meanwhile. Once."""
    from django.db import connection, transaction

    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE billing_usagerecord IN EXCLUSIVE MODE")
        yield lambda: None
        _stopping.wait()


def carry_on(works: Iterator[Work], done: list[int], ready: Callable[[], None]) -> None:
    for work in works:
        if _stopping.is_set():
            return
        work()
        done.append(1)
        ready()


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    os.nice(19)
    os.environ["DJANGO_SETTINGS_MODULE"] = "llmgateway.settings"
    import django

    django.setup()
    works = pages(port) if kind == "pages" else [{"config": reloads, "rollups": rollups, "lock": lock}[kind]()]
    done: list[int] = []
    begun = threading.Event()
    threads = [threading.Thread(target=carry_on, args=(work, done, begun.set), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    begun.wait(60)
    print("ready", flush=True)
    sys.stdin.readline()
    _stopping.set()
    for thread in threads:
        thread.join(30)
    print(len(done), flush=True)


if __name__ == "__main__":
    main()
