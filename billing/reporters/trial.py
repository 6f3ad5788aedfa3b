"""A test event for one reporter, sent at once and written down nowhere."""

from __future__ import annotations

import asyncio
import secrets

from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from billing.reporters.claims import Outcome
from billing.reporters.database import UsageTable
from billing.reporters.models import Delivery, UsageReporter
from billing.reporters.payload import TEST, trial_payload
from billing.reporters.webhook import Webhook


def send_trial(reporter: UsageReporter) -> Outcome:
    """Posts an event of type `test`; of a database it makes sure that the table is there. Blocks up to ten seconds."""
    try:
        if reporter.is_webhook:
            return asyncio.run(_post(reporter))
        return UsageTable(reporter).write([])
    except ImproperlyConfigured as error:
        return Outcome(error=str(error))


async def _post(reporter: UsageReporter) -> Outcome:
    event = Delivery(
        event_id=f"test_{secrets.token_hex(8)}", type=TEST, payload=trial_payload(timezone.now().timestamp())
    )
    async with Webhook(reporter) as webhook:
        return await webhook.send([event])
