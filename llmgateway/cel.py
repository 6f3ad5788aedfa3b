"""The one door to CEL. It takes 17 MB, so it is loaded by the first expression, and without its command line."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import cel

    Program: TypeAlias = cel.Program


def compiled(text: str) -> Program:
    """Raises ValueError for a text that is no expression."""
    sys.modules.setdefault("cel.cli", ModuleType("cel.cli"))
    import cel

    return cel.compile(text)
