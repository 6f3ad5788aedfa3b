"""Runs a management command for `./gateway`, with every foreseeable failure told in one line."""

from __future__ import annotations

import os
import sys

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.db.utils import DatabaseError, InterfaceError

from llmgateway.supervisor import EXIT_CONFIGURATION, say


def run_management_command(name: str, arguments: list[str], *, prepared: bool = True) -> int:
    """The exit status. With `prepared`, the database's tables are brought up to date before.

    EXIT_CONFIGURATION says that trying again does not help.
    """
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmgateway.settings")
    try:
        django.setup()
        if prepared and "--help" not in arguments:
            from llmgateway.management.preparation import migrate_if_needed

            migrate_if_needed()
        _command(name).run_from_argv(["./gateway", name, *arguments])
    except ImproperlyConfigured as error:
        say(_one_line(error))
        return EXIT_CONFIGURATION
    except (DatabaseError, InterfaceError) as error:
        say(_database_trouble(error))
        return EXIT_CONFIGURATION
    except OSError as error:
        if error.filename is None:
            raise
        say(
            f"{error.filename} cannot be used ({error.strerror}): mend its permissions, or choose another folder with --data DIR."
        )
        return EXIT_CONFIGURATION
    except SystemExit as ended:
        return _status(ended)
    return 0


def _command(name: str) -> BaseCommand:
    app = get_commands()[name]
    return app if isinstance(app, BaseCommand) else load_command_class(app, name)


def _database_trouble(error: Exception) -> str:
    from django.conf import settings

    if settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"):
        place = f"the database {settings.DATABASES['default']['NAME']}"
        what = "check its permissions and the space on the disk, or restore a backup."
    else:
        place, what = "PostgreSQL", "check DATABASE_URL, and that the server runs and lets this user in."
    return f"{place} cannot be used ({_one_line(error)}): {what}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _status(ended: SystemExit) -> int:
    if isinstance(ended.code, int):
        return ended.code
    if ended.code:
        print(ended.code, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # The supervisor's server; it prepares everything itself.
    sys.exit(run_management_command(sys.argv[1], sys.argv[2:], prepared=False))
