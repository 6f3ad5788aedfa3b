"""Every `curl` of the documentation works as pasted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from llmgateway.models import ApiKey, RateLimit
from tests.llmgateway.admin.world import World
from tests.llmgateway.management_api.conftest import Caller

pytestmark = pytest.mark.django_db

PAGE = Path(settings.BASE_DIR) / "docs" / "management-api.md"
COMMANDS = [block for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL) if block.startswith("curl")]


def run(command: str, variables: dict[str, str]) -> Any:
    """What a shell and curl would do with `command`."""
    for name, value in variables.items():
        command = re.sub(rf"\${name}\b", value, command)
    assert "$" not in command, f"The answers so far do not tell every variable of {command}"
    words = iter(shlex.split(command.replace("\\\n", " "))[1:])
    method, headers, body, address = "", {}, "", ""
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = next(words)
        else:
            address = word
    kind = headers.pop("Content-Type", "")
    assert bool(kind) == bool(body), f"A body and its type go together: {command}"
    path = address.removeprefix("http://gateway")
    return Client().generic(method or ("POST" if body else "GET"), path, body, content_type=kind, headers=headers)


def test_every_command_works_as_pasted_one_after_the_other(operator: Caller, world: World) -> None:
    variables = {"GATEWAY": "http://gateway", "TOKEN": operator.secret}
    answers = []

    for command in COMMANDS:
        answer = run(command, variables)
        answers.append(answer.status_code)
        assert answer.status_code in {200, 201, 204}, f"{command}\n{answer.content.decode()}"
        if answer.status_code == 201:
            kind = re.search(r"/v1/([a-z]+?)s?\b", command)
            assert kind is not None
            variables[kind[1].upper()] = str(answer.json()["id"])

    assert len(answers) >= 15
    assert ApiKey.objects.get(name="dev-002").revoked_at is not None
    assert not RateLimit.objects.filter(key__name="dev-002").exists()
