"""What is wrong with a configuration file, each with its line and field. All of it is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the file something stands: `keys.dev-001.limits[0].per` on line 12."""

    path: str
    line: int
    column: int

    def child(self, step: str | int) -> Place:
        """A field or item of this place that does not stand in the file, or not by itself."""
        return Place(child_path(self.path, step), self.line, self.column)


def child_path(path: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{path}[{step}]"
    return f"{path}.{step}" if path else step


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence about one place of the file."""

    place: Place
    message: str


@dataclass(slots=True)
class Problems:
    """Collects what is wrong, so that one run tells it all."""

    file: str
    found: list[Problem] = field(default_factory=list)
    seen: int = 0
    """Grows with each problem, and whenever one that was told before is met again."""

    def add(self, place: Place, message: str) -> None:
        self.seen += 1
        self.found.append(Problem(place, message))

    def meet_again(self) -> None:
        """Something that was told already makes what is being read unusable, too."""
        self.seen += 1

    def lines(self) -> list[str]:
        """`config.yaml:12: keys.dev-001.limits[0].per: …`, in the order of the file."""
        ordered = sorted(self.found, key=lambda problem: (problem.place.line, problem.place.column))
        return [self._line(problem) for problem in ordered]

    def _line(self, problem: Problem) -> str:
        path = f"{problem.place.path}: " if problem.place.path else ""
        return f"{self.file}:{problem.place.line}: {path}{problem.message}"

    def raise_if_any(self) -> None:
        """Raise `ConfigFileError` with every problem found so far."""
        if self.found:
            raise ConfigFileError(self.lines())


class ConfigFileError(Exception):
    """The file cannot be applied. Nothing was written; `lines` says what to mend."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
