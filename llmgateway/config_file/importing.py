"""A configuration file to rows, from its path to the report. What commands and the start of the gateway call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from django.db import IntegrityError

from llmgateway import conf as conf_module
from llmgateway.audit import acting_as
from llmgateway.config_file.apply import apply_document
from llmgateway.config_file.problems import ConfigFileError, Problems
from llmgateway.config_file.reading import read
from llmgateway.config_file.report import Report
from llmgateway.config_file.schema import read_document


def import_file(
    file: Path,
    *,
    dry_run: bool = False,
    prune: bool = False,
    show: Callable[[Report], None] | None = None,
) -> Report:
    """Make the database say what `file` says, or with `dry_run` only find out what that would change.

    Raises:
        ConfigFileError: it cannot be read or something in it is wrong; nothing was written.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigFileError([f"{file}: cannot be read: {error.strerror}."]) from error
    except UnicodeDecodeError as error:
        raise ConfigFileError([f"{file}: is not UTF-8 text; save it as UTF-8."]) from error
    return import_text(text, str(file), dry_run=dry_run, prune=prune, show=show)


def import_text(
    text: str,
    file: str = "config.yaml",
    *,
    variables: Mapping[str, str] | None = None,
    dry_run: bool = False,
    prune: bool = False,
    show: Callable[[Report], None] | None = None,
) -> Report:
    """As `import_file`, for a text; `file` stands in the messages, `variables` in place of the environment."""
    problems = Problems(file)
    tree = read(text, conf_module.conf.values if variables is None else variables, problems)
    if not tree.items:
        problems.raise_if_any()
    document = read_document(tree, problems)
    try:
        with acting_as(source="import"):
            return apply_document(document, problems, dry_run=dry_run, prune=prune, show=show)
    except IntegrityError as error:
        # The first line alone: what follows it may quote the row, and with it a digest.
        reason = str(error).partition("\n")[0]
        raise ConfigFileError(
            [
                f"{file}: somebody changed the same rows at the same time ({reason}); nothing was written. Import it again."
            ]
        ) from error
