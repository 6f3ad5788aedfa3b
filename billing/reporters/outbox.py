"""The outbox: what reporters are to be told, written with the rows of the ledger in the drain's one transaction.

So an event is in the outbox exactly once, whoever dies when. Where no reporter is enabled, this costs one small query
a second while there is traffic, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from billing.reporters.models import Delivery, UsageReporter
from billing.reporters.payload import USAGE, Surroundings, Wanted, event_id, usage_payload
from billing.statement_sizes import in_steps
from billing.usage_columns import Columns
from llmgateway.models import ApiKey
from llmgateway.pipeline.protocols import Record
from providers.adapters.registry import adapter_names, get_adapter
from providers.models import Deployment

REREAD_S = 1.0
"""How long a change of reporters may take to count."""

_COLUMNS = (
    "event_id", "type", "reporter_id", "payload", "state", "attempts", "next_attempt_at", "claim", "last_error",
    "created_at",
)  # fmt: skip
_NAMES = ", ".join(f'"{name}"' for name in _COLUMNS)
_ROW = f"({', '.join(['%s'] * len(_COLUMNS))})"

Event = tuple[str, str, int, str]
"""Event id, type, reporter id, payload."""


class Outbox:
    """Adds what enabled reporters want to know of rows. Used by one thread."""

    def __init__(self, using: str = "default", *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._using = using
        self._monotonic = monotonic
        self._wanted: list[Wanted] = []
        self._read_at = float("-inf")

    def add(self, connection: BaseDatabaseWrapper, stored: Sequence[Columns]) -> None:
        """Must run inside the transaction that stores these rows, after everything that may find fault with them."""
        wanted = self._present()
        if not wanted or not stored:
            return
        rows = [record for part in stored for record in part.records()]
        around = Surroundings(self._backend_urls(), self._masked_keys(rows))
        insert_events(
            connection,
            [
                (event_id(row), USAGE, each.reporter_id, usage_payload(row, each, around))
                for each in wanted
                for row in rows
                if each.takes(row)
            ],
        )

    def _present(self) -> list[Wanted]:
        now = self._monotonic()
        if now - self._read_at >= REREAD_S:
            self._wanted, self._read_at = wanted_usage(self._using), now
        return self._wanted

    def _backend_urls(self) -> dict[str, str]:
        rows = Deployment.objects.using(self._using).values_list("name", "provider__base_url", "provider__adapter")
        return {name: base_url or _address_of(adapter) for name, base_url, adapter in rows}

    def _masked_keys(self, rows: Sequence[Record]) -> dict[str, str]:
        if all(each.api_key_field != UsageReporter.ApiKeyField.MASKED for each in self._wanted):
            return {}
        ids = {int(row["key_id"]) for row in rows if row["key_id"].isdecimal()}
        return {str(key.pk): key.masked for key in ApiKey.objects.using(self._using).filter(pk__in=ids)}


def _address_of(adapter: str) -> str:
    return get_adapter(adapter).base_url if adapter in adapter_names() else ""


def wanted_usage(using: str = "default") -> list[Wanted]:
    """What every enabled reporter of usage wants."""
    reporters = UsageReporter.objects.using(using).filter(enabled=True, reports_usage=True).order_by("id")
    return [
        Wanted(
            reporter.pk,
            frozenset(reporter.statuses),
            frozenset(team.pk for team in reporter.teams.all()),
            reporter.api_key_field,
            includes_cost=reporter.includes_cost,
        )
        for reporter in reporters.prefetch_related("teams")
    ]


def insert_events(connection: BaseDatabaseWrapper, events: Sequence[Event]) -> None:
    """Adds deliveries that are due at once. One that is there already stays as it is."""
    if not events:
        return
    now = connection.ops.adapt_datetimefield_value(datetime.now(UTC))
    rows = [
        (name, kind, reporter, payload, Delivery.State.PENDING.value, 0, now, "", "", now)
        for name, kind, reporter, payload in events
    ]
    with connection.cursor() as cursor:
        for some in in_steps(rows):
            cursor.execute(_insert_statement(len(some)), _flat(some))


def add_event(
    kind: str, name: str, payload: str, reporters: Iterable[UsageReporter], *, using: str = "default"
) -> None:
    """Adds one event for each of `reporters`. Must run inside the transaction of what it tells of."""
    insert_events(connections[using], [(name, kind, reporter.pk, payload) for reporter in reporters])


def _insert_statement(rows: int) -> str:
    return f"INSERT INTO billing_delivery ({_NAMES}) VALUES {', '.join([_ROW] * rows)} ON CONFLICT DO NOTHING"  # noqa: S608  # our own names


def _flat(rows: Sequence[Sequence[Any]]) -> list[Any]:
    return list(chain.from_iterable(rows))
