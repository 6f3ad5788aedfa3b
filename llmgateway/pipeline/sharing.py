"""How the workers of a gateway agree on the health of deployments, as far as `health` needs to know."""

from __future__ import annotations

from typing import Protocol


class Sharing(Protocol):
    """How workers agree. Every call returns at once."""

    def may_try(self, number: int) -> bool:
        """Whether this worker may let one request try a half-open deployment; asking makes it ask the others."""
        ...

    def trial_began(self, number: int) -> None: ...

    def trial_ended(self, number: int) -> None: ...

    def changed(self, number: int) -> None:
        """This worker has opened or closed the circuit, or has probed."""
        ...

    def counted(self, number: int) -> None:
        """It has seen a failure, or, after failures, an answer."""
        ...


class Alone:
    """There are no others."""

    def may_try(self, number: int) -> bool:
        return True

    def trial_began(self, number: int) -> None:
        pass

    def trial_ended(self, number: int) -> None:
        pass

    def changed(self, number: int) -> None:
        pass

    def counted(self, number: int) -> None:
        pass
