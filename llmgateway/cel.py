"""The one door to CEL, without its command line: what that brings along costs 0.3 s and 10 MB at every start."""

from __future__ import annotations

import sys
from types import ModuleType

sys.modules.setdefault("cel.cli", ModuleType("cel.cli"))

import cel  # noqa: E402  # Its command line must be out of the way first.

__all__ = ["cel"]
