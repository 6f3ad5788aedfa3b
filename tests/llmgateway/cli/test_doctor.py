"""`./gateway doctor` finds what is broken and says what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.db import connection

from llmgateway import conf as conf_module
from llmgateway.conf import Conf, read_environment
from llmgateway.management.commands import doctor
from llmgateway.models import ApiKey, Team
from llmgateway.secrets_file import ensure_secrets
from llmgateway.triggers import ensure_triggers
from providers.models import Credential, Provider

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path) -> Iterator[Path]:
    ensure_secrets(tmp_path / "secrets.env")
    before = conf_module.conf
    conf_module.conf = Conf(read_environment({"GATEWAY_DATA_DIR": str(tmp_path)}))
    yield tmp_path
    conf_module.conf = before


def test_a_sound_gateway_has_no_errors() -> None:
    findings = doctor.examine()

    assert [finding for finding in findings if finding.level == doctor.ERROR] == []
    assert {finding.subject for finding in findings} >= {"data folder", "database", "migrations", "triggers", "keys"}


def test_secrets_that_others_can_read_are_an_error(data_dir: Path) -> None:
    (data_dir / "secrets.env").chmod(0o644)

    assert doctor.data_folder().advice == f"chmod 600 {data_dir / 'secrets.env'}"


def test_a_missing_trigger_is_an_error() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DROP TRIGGER note_config_change_llmgateway_team_insert")
    try:
        assert doctor.triggers().level == doctor.ERROR
    finally:
        ensure_triggers()


def test_a_credential_of_another_field_key_is_an_error() -> None:
    provider = Provider.objects.create(name="acme", adapter="openai", base_url="https://api.example.com/v1")
    secret = "fernet:" + Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    Credential.objects.create(provider=provider, encrypted_secret=secret)

    finding = doctor.credentials()

    assert (finding.level, finding.found) == (doctor.ERROR, "1 of 1 cannot be used")


def test_a_key_of_another_pepper_is_an_error() -> None:
    team = Team.objects.create(name="search")
    ApiKey.objects.create(name="app", team=team, public_id="abc", digest="0" * 64, pepper_id="another")

    assert doctor.peppers().level == doctor.ERROR


@pytest.mark.parametrize(("age_s", "level"), [(5, "ok"), (600, "warning")])
def test_the_worker_is_known_by_its_heartbeat(data_dir: Path, age_s: int, level: str) -> None:
    (data_dir / "worker-heartbeat").write_text(f"{time.time() - age_s:.0f}\n")

    assert doctor.worker().level == level
