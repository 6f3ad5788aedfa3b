"""The commands around the file: what they print, where, and how they fail."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from llmgateway import services
from llmgateway.key_secrets import digest
from llmgateway.models import ApiKey, Team

pytestmark = pytest.mark.django_db

TEXT = "version: 1\nteams: {t: {}}\nkeys: {k: {team: t}}\n"


def run(name: str, *arguments: Any, **options: Any) -> str:
    out = StringIO()
    call_command(name, *arguments, stdout=out, stderr=StringIO(), **options)
    return out.getvalue()


def test_import_prints_the_diff_and_the_generated_secret(file: Callable[[str], Path]) -> None:
    output = run("import_config", file(TEXT))

    secret = output.rsplit("k: ", 1)[1].strip()
    assert digest(secret.encode(), services.newest_pepper()).hex() == ApiKey.objects.get().digest
    assert "+ key k" in output
    assert "2 created, 0 changed, 0 removed, 0 unchanged." in output


def test_a_dry_run_says_so_and_prints_no_secret(file: Callable[[str], Path]) -> None:
    output = run("import_config", file(TEXT), dry_run=True)

    assert "+ key k" in output
    assert "Dry run: nothing was written." in output
    assert "sk-gw-" not in output
    assert not Team.objects.exists()


def test_mistakes_end_the_command_with_file_line_and_field(file: Callable[[str], Path]) -> None:
    path = file("version: 1\nkeys:\n  k: {tame: t}\n")

    with pytest.raises(CommandError) as raised:
        run("import_config", path)

    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{path}:3: keys.k.tame: ") or lines[0].startswith(f"{path}:3: keys.k.team: ")
    assert lines[-1] == "Nothing was written."


@pytest.mark.parametrize(("content", "part"), [(None, "cannot be read"), (b"\xff\xfe\xfa", "is not UTF-8")])
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(CommandError, match=part):
        run("import_config", path)


def test_export_prints_what_import_reads(file: Callable[[str], Path]) -> None:
    run("import_config", file(TEXT))

    output = run("import_config", file(run("export_config", with_secrets_as_env=True)), prune=True)

    assert output == "0 created, 0 changed, 0 removed, 2 unchanged.\n"


def test_create_key_prints_the_secret_alone() -> None:
    Team.objects.create(name="t")

    secret = run("create_key", "dev", team="t", models=["a", "b"], expires_at="2030-01-31").strip()

    key = ApiKey.objects.get()
    assert digest(secret.encode(), services.newest_pepper()).hex() == key.digest
    assert (key.name, key.allowed_models) == ("dev", ["a", "b"])
    assert key.expires_at is not None
    assert key.expires_at.isoformat() == "2030-01-31T00:00:00+00:00"


def test_create_key_reads_models_as_a_list_of_names() -> None:
    Team.objects.create(name="t")

    run("create_key", "dev", "--team", "t", "--models", "a, b")

    assert ApiKey.objects.get().allowed_models == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["dev", "--team", "nope"], "There is no team nope; there are t."),
        (["a b", "--team", "t"], "name: "),
        (["dev", "--team", "t", "--models", "a b"], "allowed_models: "),
        (["dev", "--team", "t", "--expires-at", "never"], "--expires-at: "),
    ],
)
def test_create_key_says_what_is_wrong(arguments: list[str], part: str) -> None:
    Team.objects.create(name="t")

    with pytest.raises(CommandError) as raised:
        run("create_key", *arguments)

    assert str(raised.value).startswith(part)
    assert not ApiKey.objects.exists()
