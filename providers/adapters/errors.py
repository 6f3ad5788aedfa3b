"""What can go wrong inside an adapter.

AdapterError
├── UnknownAdapterError      no adapter has that name
├── CredentialError          a secret that is not of the kind that the provider takes
├── MalformedBodyError       a request that cannot be read
├── InexpressibleError       a request that can be read, and not be said in a provider's dialect
├── MalformedAnswerError     an answer that cannot be read
└── MalformedUsageError      usage that is not an object of numbers
"""

from __future__ import annotations


class AdapterError(Exception):
    """Base of the errors that adapters raise."""


class UnknownAdapterError(AdapterError):
    """No adapter has that name."""


class CredentialError(AdapterError, ValueError):
    """A secret that is not of the kind that the provider takes. The text says which kind it takes, and no more."""


class MalformedBodyError(AdapterError):
    """A request body that cannot be read. `param` is the field at fault; None: it is not even JSON."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InexpressibleError(AdapterError):
    """Something that a dialect cannot say and that must not be left out. `param` is the caller's field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class MalformedAnswerError(AdapterError):
    """An answer that is not in the dialect it should be in."""


class MalformedUsageError(AdapterError):
    """The provider's usage is not an object of numbers."""
