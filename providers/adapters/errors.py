"""What can go wrong inside an adapter.

AdapterError
├── UnknownAdapterError      no adapter has that name
└── MalformedUsageError      usage that is not an object of numbers
"""

from __future__ import annotations


class AdapterError(Exception):
    """Base of the errors that adapters raise."""


class UnknownAdapterError(AdapterError):
    """No adapter has that name."""


class MalformedUsageError(AdapterError):
    """The provider's usage is not an object of numbers."""
