"""Provider secrets at rest: Fernet ciphertext in the database, or a reference to where the secret is kept."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.core.exceptions import ImproperlyConfigured

from llmgateway import conf as conf_module
from llmgateway.conf import Conf, read_environment

PREFIX = "fernet:"


def cipher(conf: Conf | None = None) -> MultiFernet:
    """Encrypts with the newest field key and decrypts with any of them."""
    try:
        return MultiFernet([Fernet(key) for key in (conf or conf_module.conf).field_keys])
    except ValueError as error:
        raise ImproperlyConfigured("GATEWAY_FIELD_KEYS must hold Fernet keys (32 bytes, URL-safe base64).") from error


def encrypt(text: str) -> str:
    return PREFIX + cipher().encrypt(text.encode()).decode()


def decrypt(stored: str) -> str:
    """The plain text of a stored value.

    Raises:
        ImproperlyConfigured: the key it was encrypted with is not among the field keys.
    """
    if not stored.startswith(PREFIX):
        raise ImproperlyConfigured("A stored credential is not encrypted; enter it again in the admin.")
    token = stored.removeprefix(PREFIX)
    try:
        return cipher().decrypt(token).decode()
    except InvalidToken:
        return _decrypt_with_newer_keys(token)


def _decrypt_with_newer_keys(token: str) -> str:
    """With the keys as they are now: `./gateway rotate-secrets` may have run since this process started."""
    try:
        return cipher(Conf(read_environment(dict(os.environ)))).decrypt(token).decode()
    except InvalidToken as error:
        raise ImproperlyConfigured(
            "A stored credential cannot be decrypted: restore the field key it was saved with (secrets.env) or enter it again."
        ) from error


def resolve_reference(text: str) -> str:
    """`env:NAME` and `file:PATH` lead to the secret; any other text is the secret itself.

    Raises:
        ImproperlyConfigured: the variable is not set, or the file cannot be read.
    """
    kind, _, target = text.partition(":")
    if kind == "env":
        value = conf_module.conf.values.get(target, "")
        if not value:
            raise ImproperlyConfigured(f"The environment variable {target} that a credential refers to is not set.")
        return value
    if kind == "file":
        try:
            return Path(target).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ImproperlyConfigured(
                f"The file {target} that a credential refers to cannot be read: {error.strerror}."
            ) from error
    return text


def is_reference(text: str) -> bool:
    return text.startswith(("env:", "file:"))
