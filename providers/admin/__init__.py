"""The admin of providers: where requests go, with which secret, and under which names. One noun per module."""

from providers.admin import aliases, catalogue, credentials, deployments, providers

__all__ = ["aliases", "catalogue", "credentials", "deployments", "providers"]
