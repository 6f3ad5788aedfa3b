"""Values to entries: which fields each noun has, what is not supported yet, and which file is whole."""

from __future__ import annotations

from llmgateway.config_file.entries import Document, SettingsEntry
from llmgateway.config_file.fields import FieldReader
from llmgateway.config_file.problems import Problems
from llmgateway.config_file.reading import Fields
from llmgateway.config_file.schema import access, routes
from llmgateway.config_file.schema.limits import read_budgets, read_limits
from llmgateway.config_file.schema.prices import read_prices

VERSION = 1
"""Of the format. A file of another version is refused whole."""

# What PostgreSQL's columns hold; SQLite would take more, and the file must mean the same on both.
_INTEGER, _SMALL_INTEGER = 2**31 - 1, 2**15 - 1


def read_document(tree: Fields, problems: Problems) -> Document:
    """Every entry that could be read. What is wrong is added to `problems`."""
    reader = FieldReader(tree, problems)
    version = reader.integer("version", required=True)
    if version is not None and version != VERSION:
        reader.add("version", f"This gateway reads version {VERSION} of the format.")
    document = Document()
    routes.read_routes(reader, document)
    document.prices = read_prices(reader)
    access.read_access(reader, document)
    document.limits = read_limits(reader, scoped=True)
    document.budgets = read_budgets(reader)
    document.settings = _read_settings(reader)
    reader.finish()
    return document


def _read_settings(parent: FieldReader) -> SettingsEntry | None:
    if not parent.has("settings"):
        return None
    reader = parent.object("settings")
    retries = reader.object("retries")
    values = {
        "request_body_limit_mb": reader.integer("request_body_limit_mb", at_least=1, at_most=_INTEGER),
        "retry_attempts": retries.integer("attempts", at_most=_SMALL_INTEGER),
        "retry_initial_ms": retries.integer("initial_ms", at_most=_INTEGER),
        "retry_max_ms": retries.integer("max_ms", at_most=_INTEGER),
    }
    retries.finish()
    reader.finish()
    if not reader.usable:
        return None
    given = {name: value for name, value in values.items() if value is not None}
    places = reader.places() | {f"retries.{name}": place for name, place in retries.places().items()}
    return SettingsEntry(place=reader.place, places=places, values=given)
