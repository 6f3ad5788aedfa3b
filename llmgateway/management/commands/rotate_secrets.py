"""`./gateway rotate-secrets`: new secrets; what the old ones protect keeps working."""

from __future__ import annotations

import os
import secrets
from typing import Any

from cryptography.fernet import Fernet
from django.core.management.base import BaseCommand
from django.db import transaction
from django.utils import timezone

from billing.models import UsageReporter
from llmgateway import conf as conf_module
from llmgateway.audit import acting_as
from llmgateway.conf import Conf, read_env_file, read_environment
from llmgateway.key_secrets import pepper_fingerprint
from llmgateway.management_api.models import ManagementToken
from llmgateway.models import ApiKey, AuthSource
from llmgateway.secrets_file import write_secrets
from providers.models import Credential

FIELD_KEYS = Conf.field_keys.name
PEPPERS = Conf.key_peppers.name


class Command(BaseCommand):
    help = (
        "Make a new field key and encrypt every credential and reporter's secret with it, and a new pepper for the keys "
        "that are made from now on. Old peppers stay while a key needs them; the field key before stays until the next "
        "rotation."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        conf = conf_module.conf
        self._own = read_env_file(conf.secrets_file)
        field_keys = self._add(FIELD_KEYS, Fernet.generate_key().decode(), conf.field_keys)
        peppers = self._add(PEPPERS, secrets.token_hex(32), conf.key_peppers)
        # First the file, with everything old still in it: whenever this stops, all that is stored can be read.
        self._save({FIELD_KEYS: field_keys, PEPPERS: peppers})
        count = reencrypt_credentials()
        self._save({FIELD_KEYS: field_keys[:2], PEPPERS: peppers_in_use(peppers)})
        self.stdout.write(f"Encrypted {count} credentials with the newest field key.")
        kept = len(conf_module.conf.key_peppers) - 1
        self.stdout.write(
            f"Keys made from now on use the newest pepper; {kept} older kept for the keys that need them."
        )
        self.stdout.write("Restart every gateway on this database now: until then it does not know new keys' pepper.")

    def _add(self, name: str, fresh: str, current: list[str]) -> list[str]:
        """`current` with `fresh` before it, if it is ours to write."""
        if self._own.get(name, "").split(",") == current:
            return [fresh, *current]
        self.stdout.write(
            f"{name} is set in the environment or .env, so put a new value first there yourself, restart, and run this again."
        )
        return current

    def _save(self, lists: dict[str, list[str]]) -> None:
        ours = {name: ",".join(values) for name, values in lists.items() if self._is_ours(name)}
        self._own.update(ours)
        write_secrets(conf_module.conf.secrets_file, self._own)
        conf_module.conf = Conf(read_environment(dict(os.environ)))

    def _is_ours(self, name: str) -> bool:
        return conf_module.conf.values.get(name) == self._own.get(name)


@transaction.atomic
def reencrypt_credentials() -> int:
    """Encrypt every stored secret with the newest field key, all or none. Returns how many credentials there are.

    Raises:
        ImproperlyConfigured: one cannot be read with the keys there are; nothing is changed.
    """
    credentials = list(Credential.objects.select_for_update())
    with acting_as(source="rotate-secrets"):
        for credential in credentials:
            credential.set_secret(credential.stored_secret())
            credential.save(update_fields=["encrypted_secret"])
        for reporter in UsageReporter.objects.select_for_update():
            reporter.encrypt_again()
            reporter.save(update_fields=["encrypted_secret", "encrypted_headers"])
    return len(credentials)


def peppers_in_use(peppers: list[str]) -> list[str]:
    """The newest, and the older ones that may be needed: by a key, by a secret that a rotation replaced, by a file."""
    if _digests_of_unknown_pepper():
        return peppers
    used = {
        pepper
        for model in (ApiKey, ManagementToken)
        for pepper in model._default_manager.filter(revoked_at=None).values_list("pepper_id", flat=True).distinct()  # noqa: SLF001  # Django's documented API
    }
    return [peppers[0], *(pepper for pepper in peppers[1:] if pepper_fingerprint(bytes.fromhex(pepper)) in used)]


def _digests_of_unknown_pepper() -> bool:
    """Whether there are digests that do not say which pepper made them."""
    rotated = ApiKey.objects.exclude(previous_digest="").filter(previous_valid_until__gt=timezone.now())
    return rotated.exists() or AuthSource.objects.filter(kind=AuthSource.Kind.STATIC_FILE).exists()
