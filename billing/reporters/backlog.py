"""How much waits in the outbox, for metrics and lists. Counts stop at a bound, for an exact one reads every row."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict, dataclass
from datetime import datetime

from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Sum
from django.utils import timezone

from billing.reporters.models import Delivery, ReporterState

log = logging.getLogger(__name__)

MOST_COUNTED = 100_000
EVERY_S = 15.0
JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of one reporter, or of all together."""

    pending: int = 0
    """At most `MOST_COUNTED`."""
    dead: int = 0
    oldest_age_s: float = 0.0
    """Since the oldest pending event was recorded."""
    delivered: int = 0
    """Events, ever."""
    failed: int = 0
    """Attempts, ever."""


def backlog(now: datetime, *, reporter_id: int | None = None) -> Backlog:
    rows, states = Delivery.objects.order_by(), ReporterState.objects.all()
    if reporter_id is not None:
        rows, states = rows.filter(reporter_id=reporter_id), states.filter(pk=reporter_id)
    pending = rows.filter(state=Delivery.State.PENDING)
    oldest = pending.order_by("id").values_list("created_at", flat=True).first()
    sums = states.aggregate(delivered=Sum("delivered", default=0), failed=Sum("failed", default=0))
    return Backlog(
        pending=pending[:MOST_COUNTED].count(),
        dead=rows.filter(state=Delivery.State.DEAD)[:MOST_COUNTED].count(),
        oldest_age_s=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
        delivered=sums["delivered"],
        failed=sums["failed"],
    )


class BacklogWatch:
    """The backlog as it was found last, for those who must not wait for the database. A thread asks now and then."""

    def __init__(self, *, every_s: float = EVERY_S) -> None:
        self.last = Backlog()
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook-backlog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def facts(self) -> dict[str, float]:
        """For `/health` and `/metrics`."""
        return asdict(self.last)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.refresh()
            self._stopping.wait(self._every_s)

    def refresh(self) -> None:
        """Asks the database. While that is away the last answer stays."""
        try:
            self.last = backlog(timezone.now())
        except (DatabaseError, InterfaceError) as error:
            log.warning("The backlog of webhooks cannot be read: %s", error)
        finally:
            connection.close()
