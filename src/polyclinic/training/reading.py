"""Reading a recipe's YAML: overrides, and what is wrong with it in a person's words, with the line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..schema import Modality, PolyclinicError

Place = Sequence[int | str]


class RecipeError(PolyclinicError):
    """A recipe that cannot be followed."""


@dataclass(frozen=True, slots=True)
class Source:
    """A recipe's file: its words, and the keys and values that they and the overrides give, not yet checked."""

    file: Path
    text: str
    data: dict[str, Any]
    overrides: Sequence[str] = ()


def folder() -> Path:
    """Where the shipped recipes are: in the package, or beside the sources."""
    packaged = Path(__file__).parents[1] / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "recipes"


def find(path: str | Path) -> Path:
    """The file of a path, or of a shipped recipe's name.

    Raises:
        RecipeError: with the names there are.
    """
    if Path(path).is_file():
        return Path(path)
    shipped = {p.stem: p for p in sorted(folder().glob("*.yaml"))}
    if str(path) in shipped:
        return shipped[str(path)]
    raise RecipeError(
        f"no recipe {path}",
        "a file, or one of " + ", ".join(shipped),
        guess(Path(path).stem, shipped, "check the path"),
    )


def guess(found: str, there: Iterable[str], otherwise: str) -> str:
    """A question after the closest name; where none is close, `otherwise`."""
    close = difflib.get_close_matches(found, list(there), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else otherwise


def read(place: Path, overrides: Sequence[str] = ()) -> Source:
    """A recipe's file, with the overrides in it.

    Raises:
        RecipeError: it is not YAML, has a key twice, or an override leads nowhere.
    """
    try:
        text = place.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        _once(yaml.compose(text), place)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{place.name} is not text (byte {error.start})", "UTF-8", "check the path") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(f"{place.name}{line} is not YAML: {what}", "a YAML file", "mend its syntax") from error
    if not isinstance(data, dict):
        raise RecipeError(
            f"{place.name} holds a {type(data).__name__}", "keys and values", "see `polyclinic recipe show demo`"
        )
    for override in overrides:
        _set(data, override)
    return Source(place, text, data, overrides)


def _once(node: yaml.Node | None, place: Path) -> None:
    """Refuse a key that stands twice: YAML keeps the last in silence."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _once(item, place)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            raise RecipeError(
                f"{place.name}, line {line}: {key.value!r} stands there twice (also in line {seen[key.value]})",
                "each key once",
                "remove or rename one of them",
            )
        seen[key.value] = line
        _once(value, place)


def _set(data: dict[str, Any], override: str) -> None:
    path, mark, value = override.partition("=")
    if not mark or not path:
        raise RecipeError(f"the override {override!r}", "KEY.KEY=VALUE", "for example --set stages.0.steps=10")
    at: Any = data
    *way, last = path.split(".")
    try:
        for key in way:
            at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
        at[int(last) if isinstance(at, list) else last] = yaml.safe_load(value)
    except (IndexError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RecipeError(
            f"the override {override!r} leads nowhere", "a path of the recipe", "see `polyclinic recipe show`"
        ) from error


def _line(text: str, place: Place) -> int | None:
    """The line of a key, as far as the path can be followed."""
    node = yaml.compose(text)
    line = None
    for key in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _in_file(data: Any, place: Place, missing: bool) -> Place:
    """A path of pydantic's as it stands in the file: without the unions' tags, and with the last key where it is missing."""
    path: list[int | str] = []
    for number, key in enumerate(place):
        inside: dict[Any, Any] = (
            data if isinstance(data, dict) else dict(enumerate(data)) if isinstance(data, list) else {}
        )
        if key in inside or (missing and number == len(place) - 1):
            path.append(key)
            data = inside.get(key)
    return path


def _touching(overrides: Sequence[str], key: str) -> list[str]:
    """The overrides that set a key, a part of it, or what it is a part of."""
    ways = {o: o.partition("=")[0] + "." for o in overrides}
    return [o for o, way in ways.items() if (key + ".").startswith(way) or way.startswith(key + ".")]


def _at(schema: dict[str, Any], place: Place) -> dict[str, Any]:
    """What the schema says of a place; nothing where it does not know it."""

    def resolved(at: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in at:
            at = schema["$defs"][at["$ref"].rsplit("/", 1)[1]]
        return at

    at = resolved(schema)
    for key in place:
        if isinstance(key, int) and "items" in at:
            at = at["items"]
        elif isinstance(key, str) and key in at.get("properties", {}):
            at = at["properties"][key]
        elif "discriminator" in at and key in at["discriminator"]["mapping"]:
            at = {"$ref": at["discriminator"]["mapping"][key]}
        elif isinstance(at.get("additionalProperties"), dict):
            at = at["additionalProperties"]
        elif "patternProperties" in at:
            (at,) = at["patternProperties"].values()
        else:
            return {}
        at = resolved(at)
    return at


def _fields_at(schema: dict[str, Any], place: Place) -> list[str]:
    """The keys that a place of the recipe may have."""
    return sorted(_at(schema, place).get("properties", {}))


def _kinds_at(schema: dict[str, Any], place: Place) -> list[str]:
    """The kinds of thing that may stand at a place."""
    return sorted(_at(schema, place).get("discriminator", {}).get("mapping", {}))


def explained(error: ValidationError, source: Source, schema: dict[str, Any]) -> RecipeError:
    """The first thing that is wrong, as a person would say it; how many more there are.

    Args:
        error: pydantic's.
        source: what was checked.
        schema: the recipe's JSON Schema, which knows what could stand at each place.
    """
    # A list is also called too short when one of its items is wrong; a key that is missing is often there, misspelt.
    problems = [e for e in error.errors() if not (e["type"] == "too_short" and e["input"])] or error.errors()
    first: Any = min(problems, key=lambda e: e["type"] != "extra_forbidden")
    loc = [p for p in first["loc"] if p != "[key]"]
    message = str(first["msg"]).removeprefix("Value error, ")
    if loc:
        path = _in_file(source.data, loc, first["type"] in ("missing", "extra_forbidden"))
    else:  # a check of the whole recipe: its words start with the place
        words, _, message = message.partition(": ")
        path = [int(p) if p.isdigit() else p for p in words.split(".")]
    key = ".".join(map(str, path))
    line = _line(source.text, path)
    where = source.file.name + (f", line {line}" if line else "")
    where += "".join(f", with --set {o}" for o in _touching(source.overrides, key)) + f": {key}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    there = _choices(first, schema, loc)
    found = str(first.get("ctx", {}).get("tag", first["input"]))
    match first["type"]:
        case "extra_forbidden":
            return RecipeError(f"{where} is not a key{more}", _one_of(there), guess(str(loc[-1]), there, "remove it"))
        case "union_tag_invalid":
            return RecipeError(f"{where} of kind {found!r}{more}", _one_of(there), guess(found, there, "choose one"))
        case "enum":
            words = f"{where}: an unknown modality {found!r}{more}"
            return RecipeError(words, _one_of(there), guess(found, there, "choose one"))
        case "literal_error":
            return RecipeError(f"{where} is {found!r}{more}", _one_of(there), guess(found, there, "choose one"))
        case "union_tag_not_found":
            return RecipeError(
                f"{where} without a `kind`{more}", _one_of(there), "add it; see `polyclinic recipe show demo`"
            )
        case "missing":
            return RecipeError(
                f"{where} is missing{more}", f"the key {path[-1]!r}", "add it; see `polyclinic recipe show demo`"
            )
    said = f" is {first['input']!r}" if isinstance(first["input"], str | int | float) else ""
    words = f"{where}{said}: {message}{more}"
    return RecipeError(words, "a recipe that fits together", "see `polyclinic recipe schema` or `recipe show demo`")


def _choices(problem: Any, schema: dict[str, Any], loc: Place) -> list[str]:
    """What could stand where pydantic has a problem."""
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return _fields_at(schema, loc[:-1])
        case "enum":
            return [m.value for m in Modality]
        case "union_tag_invalid":
            return [t.strip(" '") for t in context["expected_tags"].split(",")]
        case "literal_error":
            return [t.strip(" '") for t in str(context["expected"]).replace(" or ", ", ").split(",")]
        case "union_tag_not_found":
            return _kinds_at(schema, loc)
    return []


def _one_of(there: Iterable[str]) -> str:
    return "one of " + ", ".join(there)
