"""The one door to the HTTP client library.

Everything else imports `httpx` from here, so that moving to its successor is a change of one file.
"""

import httpx

__all__ = ["httpx"]
