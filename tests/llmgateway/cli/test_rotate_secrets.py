"""Rotation of secrets: what the old ones protect keeps working."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.utils import timezone

from billing.models import UsageReporter
from llmgateway import conf as conf_module
from llmgateway import services
from llmgateway.conf import Conf, read_environment
from llmgateway.key_secrets import pepper_fingerprint
from llmgateway.models import ApiKey, Team
from llmgateway.secrets_file import ensure_secrets
from providers.models import Credential, Provider

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A data folder with secrets of its own."""
    ensure_secrets(tmp_path / "secrets.env")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path))
    before = conf_module.conf
    conf_module.conf = Conf(read_environment({"GATEWAY_DATA_DIR": str(tmp_path)}))
    yield
    conf_module.conf = before


@pytest.fixture
def credential() -> Credential:
    provider = Provider.objects.create(name="acme", adapter="openai", base_url="https://api.example.com/v1")
    credential = Credential(provider=provider)
    credential.set_secret("sk-provider-secret")
    credential.save()
    return credential


def rotate() -> Conf:
    call_command("rotate_secrets", verbosity=0)
    return conf_module.conf


def test_credentials_are_encrypted_with_the_new_key(credential: Credential) -> None:
    old_key = conf_module.conf.field_keys[0]

    conf = rotate()

    credential.refresh_from_db()
    newest = Fernet(conf.field_keys[0])
    assert newest.decrypt(credential.encrypted_secret.removeprefix("fernet:")) == b"sk-provider-secret"
    assert conf.field_keys == [conf.field_keys[0], old_key]
    assert conf.secrets_file.stat().st_mode & 0o777 == 0o600


def test_secrets_of_reporters_are_encrypted_with_the_new_key(credential: Credential) -> None:
    reporter = UsageReporter(name="billing", url="https://hooks.example.org/usage")
    secret = reporter.make_secret()
    reporter.set_headers({"Authorization": "Bearer of-the-receiver"})
    reporter.save()

    newest = Fernet(rotate().field_keys[0])

    reporter.refresh_from_db()
    assert newest.decrypt(reporter.encrypted_secret.removeprefix("fernet:")).decode() == secret
    assert b"of-the-receiver" in newest.decrypt(reporter.encrypted_headers.removeprefix("fernet:"))


def test_a_process_from_before_still_reads_credentials(credential: Credential) -> None:
    before = conf_module.conf
    rotate()
    conf_module.conf = before

    credential.refresh_from_db()

    assert credential.resolve_secret() == "sk-provider-secret"


def test_a_credential_that_cannot_be_read_stops_the_rotation(credential: Credential) -> None:
    other = Credential.objects.create(
        provider=credential.provider,
        name="lost",
        encrypted_secret="fernet:" + Fernet(Fernet.generate_key()).encrypt(b"x").decode(),
    )
    stored = credential.encrypted_secret

    with pytest.raises(Exception, match="cannot be decrypted"):
        rotate()

    credential.refresh_from_db()
    assert credential.encrypted_secret == stored
    assert credential.stored_secret() == "sk-provider-secret"
    assert other.pk


def test_the_old_pepper_stays_while_a_key_needs_it() -> None:
    key, _ = services.key_create(team=Team.objects.create(name="search"), name="app")
    old = conf_module.conf.key_peppers[0]

    conf = rotate()

    assert conf.key_peppers == [conf.key_peppers[0], old]
    assert key.pepper_id == pepper_fingerprint(bytes.fromhex(old))
    fresh, _ = services.key_create(team=key.team, name="app-2")
    assert fresh.pepper_id == pepper_fingerprint(bytes.fromhex(conf.key_peppers[0]))


def test_an_old_pepper_that_nothing_needs_goes() -> None:
    key, _ = services.key_create(team=Team.objects.create(name="search"), name="app")
    services.key_revoke(key)
    old = conf_module.conf.key_peppers[0]

    conf = rotate()

    assert old not in conf.key_peppers
    assert len(conf.key_peppers) == 1


def test_the_pepper_of_a_replaced_secret_stays_until_its_grace_is_over() -> None:
    key, _ = services.key_create(team=Team.objects.create(name="search"), name="app")
    old = conf_module.conf.key_peppers[0]
    rotate()
    services.key_rotate(key, grace=timedelta(hours=1))

    assert old in rotate().key_peppers

    ApiKey.objects.update(previous_valid_until=timezone.now() - timedelta(seconds=1))
    assert old not in rotate().key_peppers


def test_secrets_of_the_environment_are_left_to_whoever_set_them(
    credential: Credential, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = f"{Fernet.generate_key().decode()},{conf_module.conf.field_keys[0]}"
    monkeypatch.setenv("GATEWAY_FIELD_KEYS", theirs)
    conf_module.conf = Conf({**conf_module.conf.values, "GATEWAY_FIELD_KEYS": theirs})

    conf = rotate()

    assert ",".join(conf.field_keys) == theirs
    assert "GATEWAY_FIELD_KEYS is set in the environment" in capsys.readouterr().out
    credential.refresh_from_db()
    assert (
        Fernet(conf.field_keys[0]).decrypt(credential.encrypted_secret.removeprefix("fernet:")) == b"sk-provider-secret"
    )
