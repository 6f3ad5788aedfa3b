"""What an import does to secrets: those of providers are encrypted, those of keys told once or hashed."""

from __future__ import annotations

import pytest

from llmgateway import services
from llmgateway.key_secrets import digest, pepper_fingerprint
from llmgateway.models import (
    ApiKey,
)
from providers.models import Credential
from tests.llmgateway.config_file.apply_scene import ROUTES
from tests.llmgateway.config_file.conftest import Environment, load, problems

pytestmark = pytest.mark.django_db
SECRET = "a-secret-of-my-own-choice"


def test_a_provider_key_is_stored_encrypted_and_masked_in_the_diff() -> None:
    report = load(ROUTES)

    stored = Credential.objects.get()
    assert stored.stored_secret() == "sk-test"
    assert "sk-test" not in stored.encrypted_secret
    assert "sk-test" not in "\n".join(report.lines())


def test_a_changed_provider_key_replaces_the_stored_one() -> None:
    load(ROUTES)

    report = load(ROUTES.replace("sk-test", "sk-next"))

    assert Credential.objects.get().stored_secret() == "sk-next"
    assert report.summary().startswith("0 created, 1 changed")
    assert "sk-" not in "\n".join(report.lines())


def test_a_credential_without_a_key_keeps_the_stored_one() -> None:
    load(ROUTES)

    report = load(ROUTES.replace(", api_key: sk-test", ""))

    assert Credential.objects.get().stored_secret() == "sk-test"
    assert report.changes == []


def test_a_variable_brings_in_a_secret(environment: Environment) -> None:
    environment(ACME_KEY="sk-from-outside")

    load(ROUTES.replace("sk-test", "'${ACME_KEY}'"))

    assert Credential.objects.get().stored_secret() == "sk-from-outside"


# Secrets of keys


def test_a_generated_secret_is_told_once_and_works() -> None:
    report = load("teams: {t: {}}\nkeys: {k: {team: t}}\n")

    secret = report.secrets["k"]
    key = ApiKey.objects.get()
    assert secret.startswith(f"sk-gw-{key.public_id}-")
    assert digest(secret.encode(), services.newest_pepper()).hex() == key.digest
    assert secret not in "\n".join(report.lines())
    assert load("teams: {t: {}}\nkeys: {k: {team: t}}\n").secrets == {}


def test_a_chosen_secret_works_and_is_not_shown() -> None:
    report = load(f"teams: {{t: {{}}}}\nkeys: {{k: {{team: t, secret: {SECRET}}}}}\n")

    assert digest(SECRET.encode(), services.newest_pepper()).hex() == ApiKey.objects.get().digest
    assert report.secrets == {}
    assert SECRET not in "\n".join(report.lines())


def test_a_changed_secret_replaces_the_old_one_at_once() -> None:
    """Also one that was still good from a rotation before."""
    text = "teams: {{t: {{}}}}\nkeys: {{k: {{team: t, secret: {}}}}}\n"
    load(text.format(SECRET))
    services.key_rotate(ApiKey.objects.get())

    load(text.format("another-secret-of-my-own"))

    key = ApiKey.objects.get()
    assert key.digest == digest(b"another-secret-of-my-own", services.newest_pepper()).hex()
    assert (key.previous_digest, key.previous_valid_until) == ("", None)


def test_an_empty_secret_keeps_the_one_of_an_existing_key(environment: Environment) -> None:
    text = "teams: {t: {}}\nkeys: {k: {team: t, secret: '${DEV_KEY:-}'}}\n"
    environment(DEV_KEY=SECRET)
    load(text)
    before = ApiKey.objects.get().digest
    environment(DEV_KEY="")

    report = load(text)

    assert ApiKey.objects.get().digest == before
    assert report.changes == []


def test_a_digest_stands_in_for_the_secret() -> None:
    pepper = services.newest_pepper()
    stored = digest(SECRET.encode(), pepper).hex()

    load(
        f"pepper: {pepper_fingerprint(pepper)}\nteams: {{t: {{}}}}\n"
        f"keys: {{k: {{team: t, digest: {stored}, public_id: abcdefghij}}}}\n"
    )

    key = ApiKey.objects.get()
    assert (key.digest, key.pepper_id, key.public_id) == (stored, pepper_fingerprint(pepper), "abcdefghij")


def test_a_digest_of_another_pepper_is_an_error_that_names_both() -> None:
    ours = pepper_fingerprint(services.newest_pepper())

    found = problems(f"pepper: 0123456789abcdef\nteams: {{t: {{}}}}\nkeys: {{k: {{team: t, digest: {'a' * 64}}}}}\n")

    assert len(found) == 1
    assert found[0].startswith("config.yaml:4: keys.k.digest: ")
    assert "0123456789abcdef" in found[0]
    assert ours in found[0]


def test_a_key_of_an_older_pepper_is_recognised_by_its_secret(environment: Environment) -> None:
    """After the peppers were rotated, an import must not count every key as changed."""
    text = f"teams: {{t: {{}}}}\nkeys: {{k: {{team: t, secret: {SECRET}}}}}\n"
    load(text)
    old = services.newest_pepper()
    environment(GATEWAY_KEY_PEPPERS=f"{'ab' * 32},{old.hex()}")

    report = load(text)

    assert report.changes == []
    assert ApiKey.objects.get().pepper_id == pepper_fingerprint(old)
