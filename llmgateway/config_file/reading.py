"""Text to a tree of values that know their line, with `${NAME}` replaced. It knows YAML, not what the fields mean.

Scalars keep the text that stands in the file, so that `0.15` is read as the decimal it is and never as a float.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from llmgateway.config_file.problems import Place, Problems, child_path

MAX_VALUES = 2_000_000
"""Of a whole file; aliases of aliases could otherwise grow without end."""

# libyaml's is ten times as fast; not every build of PyYAML has it. Nothing is constructed with either.
_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<given>:-(?P<default>[^}]*))?\}|\$\{")


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it stands in the file. `kind` is YAML's idea of it: `str`, `int`, `float`, `bool`, `null`, `timestamp`."""

    place: Place
    text: str
    kind: str
    broken: bool = False
    """A variable in it could not be read; that has been told already."""

    @property
    def is_null(self) -> bool:
        return self.kind == "null"


@dataclass(frozen=True, slots=True)
class Sequence:
    place: Place
    items: list[Value] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fields:
    place: Place
    items: dict[str, Value] = field(default_factory=dict)
    key_places: dict[str, Place] = field(default_factory=dict)


Value = Scalar | Sequence | Fields


def read(text: str, variables: Mapping[str, str], problems: Problems) -> Fields:
    """The tree of a file's text. What is wrong is added to `problems`; without a usable tree it is empty."""
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        _add_syntax_error(error, text, problems)
        return Fields(Place("", 1, 1))
    if node is None:
        problems.add(Place("", 1, 1), "The file is empty; start it with `version: 1`.")
        return Fields(Place("", 1, 1))
    tree = _Builder(variables, problems).build(node, "")
    if isinstance(tree, Fields):
        return tree
    problems.add(tree.place, "Expected fields such as `version: 1` and `keys:` at the top of the file.")
    return Fields(tree.place)


def _add_syntax_error(error: yaml.YAMLError, text: str, problems: Problems) -> None:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        context = f" ({error.context})" if error.context else ""
        problems.add(Place("", line, column), f"This is not YAML: {error.problem}{context}.")
    elif isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        problems.add(Place("", line, 1), f"There is a character that YAML does not allow: {error.reason}.")
    else:
        problems.add(Place("", 1, 1), f"This is not YAML: {error}.")


class _Builder:
    """Turns YAML's nodes into our values, one file at a time."""

    def __init__(self, variables: Mapping[str, str], problems: Problems) -> None:
        self.variables = variables
        self.problems = problems
        self.count = 0
        self.ancestors: set[int] = set()

    def build(self, node: yaml.Node, path: str) -> Value:
        place = Place(path, node.start_mark.line + 1, node.start_mark.column + 1)
        self.count += 1
        if id(node) in self.ancestors or self.count > MAX_VALUES:
            self._refuse_growth(place)
            return Scalar(place, "", "null", broken=True)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        self.ancestors.add(id(node))
        try:
            return self._collection(node, place)
        finally:
            self.ancestors.remove(id(node))

    def _refuse_growth(self, place: Place) -> None:
        if self.count <= MAX_VALUES + 1:
            self.problems.add(place, "An alias (`*name`) contains itself, or the file is too large; write it out.")

    def _collection(self, node: yaml.Node, place: Place) -> Value:
        if isinstance(node, yaml.SequenceNode):
            items = [self.build(item, child_path(place.path, index)) for index, item in enumerate(node.value)]
            return Sequence(place, items)
        assert isinstance(node, yaml.MappingNode)
        mapping = Fields(place)
        for key_node, value_node in node.value:
            self._add_item(mapping, key_node, value_node)
        return mapping

    def _add_item(self, mapping: Fields, key_node: yaml.Node, value_node: yaml.Node) -> None:
        key = self.build(key_node, mapping.place.path)
        if not isinstance(key, Scalar):
            self.problems.add(key.place, "A name must be plain text, not a list or fields.")
            return
        if key.broken:
            return
        path = child_path(mapping.place.path, key.text)
        key_place = Place(path, key.place.line, key.place.column)
        if key.text in mapping.items:
            first = mapping.key_places[key.text].line
            self.problems.add(key_place, f"This name stands here twice; the first is on line {first}.")
            return
        mapping.items[key.text] = self.build(value_node, path)
        mapping.key_places[key.text] = key_place

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Scalar:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if "${" not in node.value:
            return Scalar(place, node.value, kind)
        text = self._substitute(node.value, place)
        # A variable's value is taken as it is: an empty one is empty text, and `no` is not false.
        return Scalar(place, text if text is not None else "", "str", broken=text is None)

    def _substitute(self, text: str, place: Place) -> str | None:
        wrong: list[str] = []

        def value_of(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            if match["name"] is None:
                wrong.append(
                    "`${` starts a variable such as ${NAME} or ${NAME:-default}; write $${ for the characters."
                )
                return ""
            value = self.variables.get(match["name"], "")
            if value:
                return value
            if match["given"] is None:
                wrong.append(f"The environment variable {match['name']} is not set.")
            return match["default"] or ""

        result = _VARIABLE.sub(value_of, text)
        for message in wrong:
            self.problems.add(place, message)
        return None if wrong else result
