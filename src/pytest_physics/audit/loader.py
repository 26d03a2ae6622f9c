"""Read a statements file (YAML, or JSON, which YAML contains), with messages that name the line.

Numbers keep the text with which they were written. Duplicate keys, unknown keys, and numbers that are words are errors; an unknown key is
answered with the nearest known one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pytest_physics.audit.statements import NUMBER, Statements, printed
from pytest_physics.errors import ConfigurationError, nearest
from pytest_physics.metrology.forensics.finding import Printed

Place = tuple[str | int, ...]
MAX_PROBLEMS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Statements with what is needed to speak about their file."""

    statements: Statements
    path: Path
    sha256: str


def load(path: Path) -> Loaded:
    """Statements in ``path``; raises :class:`ConfigurationError` with file and line."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}; give the path of a statements file.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    return Loaded(statements=parse(text, name=str(path)), path=path, sha256=hashlib.sha256(raw).hexdigest())


def parse(text: str, *, name: str = "statements") -> Statements:
    """Statements in ``text``."""
    lines: dict[Place, int] = {}
    try:
        _refuse_aliases(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = _value(node, (), lines) if node is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{name}, line {line}: {error.problem or 'not YAML'}; correct the file and run again.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{name}: not YAML ({type(error).__name__}); correct the file and run again.") from None
    except ValueError as error:
        raise ConfigurationError(f"{name}, {error}") from None
    if not isinstance(data, dict):
        raise ConfigurationError(
            f"{name}, line 1: a statements file is a mapping that begins with 'title' and 'source'; see docs/audit.md."
        )
    try:
        return Statements.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_problems(error, name, lines))) from None


def _value(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:  # noqa: ANN401 -- any YAML value
    """Plain value of a node; floats keep their text, and every place its line."""
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*place, i), lines) for i, item in enumerate(node.value)]
    text = str(node.value)
    if node.tag in {"tag:yaml.org,2002:float", "tag:yaml.org,2002:int"}:
        return _number(text)
    if node.tag == "tag:yaml.org,2002:timestamp":
        return text
    return yaml.SafeLoader("").construct_object(node)


def _number(text: str) -> int | Printed | str:
    """What looks like a number to people; YAML also means 19:00 and 0x10, and those stay text."""
    if text.lstrip("+-").isdecimal():
        return int(text)
    return printed(text) if NUMBER.fullmatch(text) else text


def _refuse_aliases(text: str) -> None:
    """An alias may stand for a thousand others; numbers are written out."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(  # noqa: TRY004 -- the file is wrong, not a type
                f"line {event.start_mark.line + 1}: aliases (*{event.anchor}) are not read; write the numbers out."
            )


def _mapping(node: yaml.MappingNode, place: Place, lines: dict[Place, int]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        if key in out:
            raise ValueError(f"line {key_node.start_mark.line + 1}: '{key}' is given twice; keep one.")
        out[key] = _value(value_node, (*place, key), lines)
        lines[(*place, key)] = key_node.start_mark.line + 1
    return out


def _problems(error: ValidationError, name: str, lines: Mapping[Place, int]) -> list[str]:
    """One line per problem: file, line, place, what is wrong."""
    found: dict[str, None] = {}
    for problem in error.errors():
        place = problem["loc"]
        where = ".".join(str(part) for part in place)
        found[f"{name}, line {_line(place, lines)}: {where + ': ' if where else ''}{_words(problem, place)}"] = None
    return list(found)[:MAX_PROBLEMS]


def _line(place: Place, lines: Mapping[Place, int]) -> int:
    """Line of the nearest enclosing place that the file has."""
    return next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), 1)


def _words(problem: Any, place: Place) -> str:  # noqa: ANN401 -- pydantic's ErrorDetails
    if problem["type"] == "extra_forbidden":
        return f"there is no such key here{nearest(str(place[-1]), known_keys(place[:-1]))}; see docs/audit.md"
    if problem["type"] == "missing":
        return "is missing, and the check needs it"
    return str(problem["msg"]).removeprefix("Value error, ")


def known_keys(place: Place) -> list[str]:
    """Keys that the format knows at ``place``, from its JSON Schema."""
    schema = Statements.model_json_schema()
    node: dict[str, Any] = schema
    for part in place:
        node = _resolved(_step(node, part), schema)
    return list(node.get("properties", {}))


def _step(node: Mapping[str, Any], part: str | int) -> dict[str, Any]:
    named = node.get("properties", {}).get(part) or node.get("additionalProperties", {})
    found = node.get("items", {}) if isinstance(part, int) else named
    return found if isinstance(found, dict) else {}


def _resolved(node: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    node = next((option for option in node.get("anyOf", ()) if option.get("type") != "null"), node)
    name = node.get("$ref", "").rpartition("/")[2]
    return schema["$defs"][name] if name else node
