"""The one door to the HTTP client library.

Everything else imports `httpx` from here, so that moving to its successor is a change of one file.
"""

import sys
from types import ModuleType

# Its command line, without which it does as well, brings along 6 MB of other libraries.
sys.modules.setdefault("httpx._main", ModuleType("httpx._main"))

import httpx  # noqa: E402  # The command line must be out of the way first.

__all__ = ["httpx"]
