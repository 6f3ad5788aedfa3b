"""`./gateway doctor`: checks everything the gateway needs, one line each, with what to do."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor

from llmgateway import conf as conf_module
from llmgateway.development import BROWSERS
from llmgateway.key_secrets import pepper_fingerprint
from llmgateway.management.preparation import check_database
from llmgateway.models import ApiKey
from llmgateway.search_indexes import EXTENSION, missing_indexes
from llmgateway.supervisor import StartError, check_data_folder
from llmgateway.triggers import missing_triggers
from providers.models import Credential

OK, WARNING, ERROR = "ok", "warning", "error"
WORKER_SILENT_S = 120
LEAST_FREE_MB = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `advice` is empty when there is nothing to do."""

    subject: str
    level: str
    found: str
    advice: str = ""


Check = Callable[[], Finding]


class Command(BaseCommand):
    help = "Check everything the gateway needs and say what to do. Exit status 1 if something must be mended."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object per check")

    def handle(self, *args: Any, **options: Any) -> None:
        findings = examine()
        for finding in findings:
            self.stdout.write(json.dumps(asdict(finding)) if options["json"] else _line(finding))
        if any(finding.level == ERROR for finding in findings):
            sys.exit(1)


def examine() -> list[Finding]:
    """Every check, in the order in which things are needed. Without a database, those that read it are left out."""
    findings = [python(), data_folder(), disk(), database()]
    if findings[-1].level == OK:
        findings.append(migrations())
        if findings[-1].level == OK:
            findings += [triggers(), searches(), credentials(), peppers()]
    return [*findings, port(), worker(), browser()]


def _line(finding: Finding) -> str:
    advice = f" → {finding.advice}" if finding.advice else ""
    return f"{finding.level:<8} {finding.subject:<18} {finding.found}{advice}"


def python() -> Finding:
    return Finding("python", OK, sys.version.split()[0])


def data_folder() -> Finding:
    folder = conf_module.conf.data_dir
    try:
        check_data_folder(folder)
    except StartError as error:
        return Finding("data folder", ERROR, str(error))
    secrets = conf_module.conf.secrets_file
    if secrets.exists() and secrets.stat().st_mode & 0o077:
        return Finding("data folder", ERROR, f"{secrets} can be read by others", f"chmod 600 {secrets}")
    return Finding("data folder", OK, str(folder))


def disk() -> Finding:
    free = shutil.disk_usage(conf_module.conf.data_dir).free // 2**20
    if free < LEAST_FREE_MB:
        advice = "make room: without it requests are refused, for what they cost could not be written down"
        return Finding("disk", ERROR, f"{free} MB free", advice)
    return Finding("disk", OK, f"{free} MB free")


def database() -> Finding:
    try:
        check_database()
        connection.ensure_connection()
    except (DatabaseError, InterfaceError, ImproperlyConfigured) as error:
        return Finding("database", ERROR, " ".join(str(error).split()), "check DATABASE_URL or the data folder")
    return Finding("database", OK, connection.display_name)


def migrations() -> Finding:
    executor = MigrationExecutor(connection)
    waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if waiting:
        return Finding("migrations", WARNING, f"{len(waiting)} not applied", "./gateway applies them at its next start")
    return Finding("migrations", OK, "all applied")


def triggers() -> Finding:
    """Without them a running gateway does not notice changes."""
    missing = missing_triggers(connection)
    if missing:
        return Finding(
            "triggers", ERROR, f"{len(missing)} missing", "run `python manage.py migrate`, which puts them back"
        )
    return Finding("triggers", OK, "all in place")


def searches() -> Finding:
    """Without their indexes, searches among very many names take longer."""
    missing = missing_indexes(connection)
    if missing:
        advice = f"create the extension {EXTENSION} in the database; the next start makes the indexes"
        return Finding("search indexes", WARNING, f"{len(missing)} missing: searches read all names", advice)
    return Finding("search indexes", OK, "all in place")


def credentials() -> Finding:
    troubled = []
    rows = list(Credential.objects.filter(enabled=True).select_related("provider"))
    for credential in rows:
        try:
            credential.resolve_secret()
        except ImproperlyConfigured as error:
            troubled.append(f"{credential}: {error}")
    if troubled:
        return Finding("credentials", ERROR, f"{len(troubled)} of {len(rows)} cannot be used", " ".join(troubled))
    return Finding("credentials", OK, f"{len(rows)} readable")


def peppers() -> Finding:
    known = {pepper_fingerprint(bytes.fromhex(pepper)) for pepper in conf_module.conf.key_peppers}
    orphans = ApiKey.objects.filter(revoked_at=None).exclude(pepper_id__in=known).count()
    if orphans:
        advice = "put the pepper they were made with into GATEWAY_KEY_PEPPERS, or rotate these keys"
        return Finding("keys", ERROR, f"{orphans} cannot be recognised", advice)
    return Finding("keys", OK, f"{ApiKey.objects.filter(revoked_at=None).count()} recognised")


def port() -> Finding:
    conf = conf_module.conf
    with socket.socket(socket.AF_INET6 if ":" in conf.host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        taken = probe.connect_ex((conf.host, conf.port)) == 0
    place = f"{conf.host}:{conf.port}"
    return Finding(
        "port", OK, f"{place} is in use, by a running gateway if you started one" if taken else f"{place} is free"
    )


def worker() -> Finding:
    """By the heartbeat that the scheduler asks for and the worker writes."""
    file = conf_module.conf.data_dir / "worker-heartbeat"
    try:
        age = time.time() - float(file.read_text())
    except FileNotFoundError:
        return Finding("background worker", WARNING, "has not run on this data folder yet", "start ./gateway")
    if age > WORKER_SILENT_S:
        return Finding(
            "background worker", WARNING, f"last seen {age:.0f} s ago", "start ./gateway, or look into its log"
        )
    return Finding("background worker", OK, f"seen {age:.0f} s ago")


def browser() -> Finding:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        return Finding("chromium", OK, "not installed; only the browser tests need it")
    return Finding("chromium", OK, found)
