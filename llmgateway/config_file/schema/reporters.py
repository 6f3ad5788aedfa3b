"""Whom to tell of usage."""

from __future__ import annotations

from billing.models import UsageReporter
from billing.reporters.models import STATUSES
from llmgateway.config_file.entries import Document, ReporterEntry
from llmgateway.config_file.fields import FieldReader
from llmgateway.validators import validate_name

MOST_IN_A_BATCH = 500


def read_reporters(parent: FieldReader, document: Document) -> None:
    """Fill in the document's reporters."""
    for name, value in parent.named("reporters", validate_name):
        reporter = _read(name, FieldReader(value, parent.problems))
        if reporter is None:
            document.unusable.add(("reporters", name))
        else:
            document.reporters.append(reporter)


def _read(name: str, reader: FieldReader) -> ReporterEntry | None:
    kind = reader.choice("kind", UsageReporter.Kind.values, default=UsageReporter.Kind.WEBHOOK)
    url = reader.text("url", required=True)
    secret = reader.text("secret")
    # Names are free, so the fields are asked for by what stands there.
    headers = None
    if reader.has("headers"):
        given = reader.object("headers")
        headers = {header: given.text(header) or "" for header in given.places()}
    enabled = reader.boolean("enabled")
    allow_private = reader.boolean("allow_private_network", default=False)
    usage = reader.boolean("usage", default=True)
    budgets = reader.boolean("budgets", default=False)
    statuses = reader.texts("statuses")
    for status in set(statuses) - set(STATUSES):
        reader.add("statuses", f"{status!r} is no way in which requests end; use {', '.join(STATUSES)}.")
    teams = reader.texts("teams", validate_name)
    api_key = reader.choice("api_key", UsageReporter.ApiKeyField.values, default=UsageReporter.ApiKeyField.ID)
    cost = reader.boolean("cost", default=True)
    batch_size = reader.integer("batch_size", 1, at_least=1, at_most=MOST_IN_A_BATCH)
    reader.finish()
    if not reader.usable or kind is None or url is None or api_key is None or batch_size is None:
        return None
    return ReporterEntry(
        place=reader.place,
        places=reader.places(),
        name=name,
        kind=kind,
        url=url,
        secret=secret or None,
        headers=headers,
        enabled=enabled,
        allow_private_network=bool(allow_private),
        reports_usage=bool(usage),
        reports_budgets=bool(budgets),
        statuses=statuses,
        teams=teams,
        api_key_field=api_key,
        includes_cost=bool(cost),
        batch_size=batch_size,
    )
