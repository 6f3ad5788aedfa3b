"""What must be true before the gateway serves: tables, static files, a first admin. Each step does nothing when it is done."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.finders import get_finders
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from llmgateway import search_indexes
from providers.seeding import seed_from_environment

FIRST_ADMIN = "admin"
CONNECT_TIMEOUT_S = 5


@dataclass(frozen=True, slots=True)
class FirstAdmin:
    """Who was created at the first start. `password` is empty when the operator chose it."""

    username: str
    password: str
    providers: tuple[str, ...]
    """What was set up from keys in the environment, in words."""


def check_database() -> None:
    """Connect once, past the pool, which would try for half a minute before it says why not.

    Raises:
        OperationalError: PostgreSQL does not answer, or does not let us in.
    """
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor == "postgresql":
        parameters = connection.get_connection_params()
        parameters.pop("pool", None)
        import psycopg

        with connection.wrap_database_errors:
            psycopg.connect(**{**parameters, "connect_timeout": CONNECT_TIMEOUT_S}).close()


def migrate_if_needed() -> bool:
    """Bring the database's tables up to date; whether there was anything to do.

    Raises:
        ImproperlyConfigured: the tables are of a newer version of the gateway.
    """
    check_database()
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    _refuse_newer_tables(executor.loader)
    if not executor.migration_plan(executor.loader.graph.leaf_nodes()):
        # An admin may have made the extension that they need, and a restored database comes without them.
        search_indexes.ensure_indexes()
        return False
    call_command("migrate", interactive=False, verbosity=0)
    return True


def _refuse_newer_tables(loader: MigrationLoader) -> None:
    unknown = sorted(
        f"{app}.{name}"
        for app, name in loader.applied_migrations
        if app in loader.migrated_apps
        and (app, name) not in loader.disk_migrations
        and not _is_replaced(loader, app, name)
    )
    if unknown:
        raise ImproperlyConfigured(
            f"The database was migrated by a newer version of the gateway ({', '.join(unknown)}): start that version, or "
            "restore a backup of this one."
        )


def _is_replaced(loader: MigrationLoader, app: str, name: str) -> bool:
    """Whether a squashed migration of this version stands for it."""
    return any((app, name) in migration.replaces for migration in loader.disk_migrations.values())


def collect_static_if_changed() -> bool:
    """Copy the pages' static files to where they are served from; whether there was anything to do."""
    stamp = Path(settings.STATIC_ROOT) / ".stamp"
    wanted = _static_fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted:
        return False
    call_command("collectstatic", interactive=False, verbosity=0, clear=True)
    stamp.write_text(wanted)
    return True


def _static_fingerprint() -> str:
    """Of every source file's place, size and time of change."""
    seen = hashlib.sha256()
    for finder in get_finders():
        for name, storage in finder.list([]):
            state = Path(storage.path(name)).stat()
            seen.update(f"{storage.path(name)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return seen.hexdigest()


@transaction.atomic
def create_first_admin() -> FirstAdmin | None:
    """At the first start: an admin who may do everything, and a provider for each key found in the environment.

    The first start is the one that finds nobody who may do everything, so it counts as done only when all of it is.
    """
    users = get_user_model()
    if users.objects.filter(is_superuser=True).exists():
        return None
    seeded = seed_from_environment()
    username = os.environ.get("DJANGO_SUPERUSER_USERNAME") or FIRST_ADMIN
    chosen = os.environ.get("DJANGO_SUPERUSER_PASSWORD", "")
    password = chosen or secrets.token_urlsafe(15)
    users.objects.create_superuser(username, os.environ.get("DJANGO_SUPERUSER_EMAIL", ""), password)
    return FirstAdmin(username, "" if chosen else password, tuple(map(str, seeded)))
