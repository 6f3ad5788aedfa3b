"""Writes events of usage into the table `llm_usage` of another SQL database, each once however often it is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler

from billing.reporters.addresses import PrivateAddressError, database_host, is_public, resolve_now
from billing.reporters.claims import Outcome
from billing.reporters.models import Delivery, UsageReporter

TABLE = "llm_usage"
COLUMNS = {
    "request_id": "varchar(128) PRIMARY KEY",
    "user_id": "text NOT NULL",
    "api_key": "text NOT NULL",
    "team": "text NOT NULL",
    "model": "text NOT NULL",
    "prompt_tokens": "bigint NOT NULL",
    "completion_tokens": "bigint NOT NULL",
    "total_tokens": "bigint NOT NULL",
    "estimated": "boolean NOT NULL",
    "is_stream": "boolean NOT NULL",
    "status": "varchar(16) NOT NULL",
    "endpoint": "text NOT NULL",
    "timestamp": "timestamp with time zone NOT NULL",
    "backend_url": "text NOT NULL",
    "cost_usd": "numeric(20, 12)",
    "cost_pico_usd": "bigint",
}
"""In the order of the payload. Costs are empty where the reporter leaves them out."""
CONNECT_S = 10


class UsageTable:
    """The table behind one reporter. Blocking; a connection lives for one call.

    Raises, when it is made:
        ImproperlyConfigured: the password cannot be read.
    """

    def __init__(self, reporter: UsageReporter) -> None:
        self._url = reporter.url
        self._password = reporter.resolve_secret()
        self._allow_private = reporter.allow_private_network

    def write(self, deliveries: Sequence[Delivery]) -> Outcome:
        """All of them or none. Rows that are there already stay as they are."""
        rows = [json.loads(delivery.payload) for delivery in deliveries]
        try:
            with closing(self._connect()) as connection, connection.cursor() as cursor:
                # Looked for first: an account that may only insert is refused even a table that is there already.
                if TABLE not in connection.introspection.table_names(cursor):
                    cursor.execute(_create_statement())
                connection.set_autocommit(False)
                cursor.executemany(_insert_statement(), [[row.get(name) for name in COLUMNS] for row in rows])
                connection.commit()
        except PrivateAddressError as error:
            return Outcome(error=f"{error}.", unavailable=True)
        except (DatabaseError, InterfaceError, ImproperlyConfigured) as error:
            return Outcome(error=self._plain(error), unavailable=True)
        return Outcome()

    def _connect(self) -> BaseDatabaseWrapper:
        settings = connection_settings(self._url, self._password, allow_private=self._allow_private)
        return ConnectionHandler({"default": settings}).create_connection("default")

    def _plain(self, error: Exception) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        return text.replace(self._password, "…") if self._password else text


def connection_settings(url: str, password: str, *, allow_private: bool) -> dict[str, Any]:
    """Django's settings of a connection to `url`, pinned to an address that was just checked.

    Raises:
        PrivateAddressError: it lies on a private network.
    """
    settings: dict[str, Any] = dict(environ.Env.db_url_config(url))
    options = settings.setdefault("OPTIONS", {})
    if urlsplit(url).scheme == "sqlite":
        options["timeout"] = CONNECT_S
        return settings
    settings["PASSWORD"] = password
    options["connect_timeout"] = CONNECT_S
    options["options"] = f"-c statement_timeout={CONNECT_S}s"
    if not allow_private:
        options["hostaddr"] = _checked_address(database_host(url))
    return settings


def _checked_address(host: str) -> str:
    addresses = resolve_now(host)
    if not addresses or any(not is_public(address) for address in addresses):
        raise PrivateAddressError(f"{host} leads to a private network or nowhere, which this reporter does not allow")
    return str(addresses[0])


def _create_statement() -> str:
    columns = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
    return f"CREATE TABLE IF NOT EXISTS {TABLE} ({columns})"


def _insert_statement() -> str:
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    values = ", ".join(["%s"] * len(COLUMNS))
    return f"INSERT INTO {TABLE} ({names}) VALUES ({values}) ON CONFLICT (request_id) DO NOTHING"  # noqa: S608  # our own names
