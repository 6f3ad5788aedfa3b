"""Entries to rows, in one transaction: nothing is half-saved, and a second run of the same file writes nothing.

A trial run does exactly the same and rolls back, so that it finds every problem a real one would.
"""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction

from llmgateway.config_file.apply import access, everyone, routes
from llmgateway.config_file.apply.prices import apply_prices
from llmgateway.config_file.apply.prune import handle_unnamed
from llmgateway.config_file.apply.reporters import apply_reporters
from llmgateway.config_file.apply.session import Session
from llmgateway.config_file.entries import Document
from llmgateway.config_file.problems import Problems
from llmgateway.config_file.report import Report


def apply_document(
    document: Document,
    problems: Problems,
    *,
    dry_run: bool = False,
    prune: bool = False,
    show: Callable[[Report], None] | None = None,
) -> Report:
    """Make the database say what `document` says. `show` is called with the diff before anything becomes permanent.

    Raises:
        ConfigFileError: something is wrong; nothing was written.
    """
    with transaction.atomic():
        session = Session(document, problems, prune=prune)
        routes.apply_routes(session)
        apply_prices(session)
        access.apply_access(session)
        everyone.apply_for_everyone(session)
        apply_reporters(session)
        handle_unnamed(session)
        problems.raise_if_any()
        if show is not None:
            show(session.report)
        if dry_run:
            session.report.secrets.clear()
            transaction.set_rollback(True)
    return session.report
