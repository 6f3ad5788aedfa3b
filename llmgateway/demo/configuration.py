"""What the demo is made of: `demo.yaml`, imported once. From then on it is the admin's, as any gateway's is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmgateway.audit import acting_as
from llmgateway.config_file.importing import import_file
from llmgateway.key_secrets import digest
from llmgateway.models import Team
from llmgateway.selectors import usable_keys
from llmgateway.services import peppers
from providers.models import Provider

FILE = Path(__file__).with_name("demo.yaml")
PROVIDER = "fake"
TEAM_PREFIX = "demo"


def configure(provider_url: str, former_urls: Iterable[str] = ()) -> None:
    """Import the demo's configuration, unless something of it is there: importing it again would undo what an admin did.

    `former_urls` are addresses at which its provider listened before; where the row still says so, it learns the new one.

    Raises:
        ConfigFileError: it cannot be imported.
    """
    if not _is_configured():
        import_file(FILE)
        return
    provider = Provider.objects.filter(name=PROVIDER, base_url__in=former_urls).first()
    if provider is not None and provider.base_url != provider_url:
        provider.base_url = provider_url
        with acting_as(source="demo"):
            provider.save(update_fields=["base_url"])


def lets_in(secret: str) -> bool:
    """Whether the demo's key is still what the demo made: an admin may have rotated, disabled or deleted it."""
    digests = [digest(secret.encode(), pepper).hex() for pepper in peppers()]
    return usable_keys().filter(digest__in=digests).exists()


def _is_configured() -> bool:
    return Provider.objects.filter(name=PROVIDER).exists() or Team.objects.filter(name__startswith=TEAM_PREFIX).exists()
