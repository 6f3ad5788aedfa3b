"""What can go wrong inside an adapter.

AdapterError
├── UnknownAdapterError      no adapter has that name
├── MalformedBodyError       a request that cannot be read
└── MalformedUsageError      usage that is not an object of numbers
"""

from __future__ import annotations


class AdapterError(Exception):
    """Base of the errors that adapters raise."""


class UnknownAdapterError(AdapterError):
    """No adapter has that name."""


class MalformedBodyError(AdapterError):
    """A request body that cannot be read. `param` is the field at fault; None: it is not even JSON."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class MalformedUsageError(AdapterError):
    """The provider's usage is not an object of numbers."""
