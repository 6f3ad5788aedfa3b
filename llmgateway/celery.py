"""The Celery application. Money never depends on it: a task is only a wake-up, the work lies in rows."""

import os
import time
import warnings
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.schedules import crontab
from celery.signals import beat_embedded_init, celeryd_init, worker_ready
from django.conf import settings

from llmgateway import conf as conf_module
from llmgateway.processes import die_with_parent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmgateway.settings")

# It warns of the super-user, whom containers commonly run as, because of pickled messages; ours are JSON.
warnings.filterwarnings("ignore", category=SecurityWarning)

WORKER_PID = os.getpid()
"""Of the process that loads this module; the scheduler, which is forked from it, keeps it."""
HEARTBEAT_FILE = "worker-heartbeat"
HEARTBEAT_S = 30

app = Celery("llmgateway")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    # A message that nobody took in time is worth nothing; the next one says the same.
    "heartbeat": {"task": "llmgateway.heartbeat", "schedule": HEARTBEAT_S, "options": {"expires": HEARTBEAT_S}},
    "events": {"task": "billing.deliver_events", "schedule": 2, "options": {"expires": 2}},
    "budget alerts": {"task": "billing.check_budget_alerts", "schedule": 15, "options": {"expires": 15}},
    "days": {"task": "billing.sum_days", "schedule": crontab(minute=7)},
    "reconciliation": {"task": "billing.reconcile", "schedule": crontab(hour=3, minute=17)},
    "old usage": {"task": "billing.forget_old_usage", "schedule": crontab(hour=2, minute=37)},
    "old responses": {"task": "billing.forget_old_responses", "schedule": 600, "options": {"expires": 600}},
    "old events": {"task": "billing.forget_old_events", "schedule": 3600, "options": {"expires": 3600}},
}


def prepare_broker_folders() -> None:
    """The file-system broker does not make its own folders."""
    options: dict[str, object] = getattr(settings, "CELERY_BROKER_TRANSPORT_OPTIONS", {})
    for folder in options.values():
        if isinstance(folder, str):
            Path(folder).mkdir(parents=True, exist_ok=True)


@celeryd_init.connect  # type: ignore[untyped-decorator]  # the library has no types
def _before_the_worker_starts(**_: Any) -> None:
    prepare_broker_folders()


@beat_embedded_init.connect  # type: ignore[untyped-decorator]  # the library has no types
def _before_the_scheduler_starts(**_: Any) -> None:
    """The scheduler is a process of its own, and must not outlive a worker that was killed."""
    die_with_parent(WORKER_PID)


@app.task(name="llmgateway.heartbeat")  # type: ignore[untyped-decorator]  # the library has no types
def heartbeat() -> None:
    """Shows `./gateway doctor` that the scheduler and the worker run."""
    (conf_module.conf.data_dir / HEARTBEAT_FILE).write_text(f"{time.time():.0f}\n")


@worker_ready.connect  # type: ignore[untyped-decorator]
def _when_the_worker_is_ready(**_: Any) -> None:
    """The scheduler asks for the first heartbeat only when one interval has passed."""
    heartbeat()
