"""Reading a recipe's YAML: overrides, and what is wrong with it in a person's words, with the line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..schema import Modality, PolyclinicError

Place = Sequence[int | str]


class RecipeError(PolyclinicError):
    """A recipe that cannot be followed."""


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


def read(place: Path, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """The recipe's keys and values, not yet checked, and its text.

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
    return data, text


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
                continue  # a union's tag stands in pydantic's path and not in the file
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def _fields_at(schema: dict[str, Any], place: Place) -> list[str]:
    """The keys that a place of the recipe may have."""
    names = schema["$defs"]
    at: dict[str, Any] = schema
    for key in place:
        while "$ref" in at:
            at = names[at["$ref"].rsplit("/", 1)[1]]
        if isinstance(key, int) and "items" in at:
            at = at["items"]
        elif isinstance(key, str) and key in at.get("properties", {}):
            at = at["properties"][key]
        elif "discriminator" in at and key in at["discriminator"]["mapping"]:
            at = {"$ref": at["discriminator"]["mapping"][key]}
        elif isinstance(at.get("additionalProperties"), dict):
            at = at["additionalProperties"]
        else:
            return []
    while "$ref" in at:
        at = names[at["$ref"].rsplit("/", 1)[1]]
    return sorted(at.get("properties", {}))


def explained(error: ValidationError, place: Path, text: str, schema: dict[str, Any]) -> RecipeError:
    """The first thing that is wrong, as a person would say it; how many more there are.

    Args:
        error: pydantic's.
        place: the recipe's file.
        text: what it holds.
        schema: the recipe's JSON Schema, which knows what could stand at each place.
    """
    first: Any = error.errors()[0]
    loc = [p for p in first["loc"] if p != "[key]"]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not loc:  # a check of the whole recipe: its words start with the place
        loc = [int(p) if p.isdigit() else p for p in message.split(":")[0].split(".")]
        key = ""
    else:
        key = ".".join(str(p) for p in loc)
    line = _line(text, loc)
    where = f"{place.name}{f', line {line}' if line else ''}: {key}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    context = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            there = _fields_at(schema, loc[:-1])
            return RecipeError(f"{where} is not a key{more}", _one_of(there), guess(str(loc[-1]), there, "remove it"))
        case "union_tag_invalid":
            there = [t.strip(" '") for t in context["expected_tags"].split(",")]
            found = str(context["tag"])
            return RecipeError(f"{where} of kind {found!r}{more}", _one_of(there), guess(found, there, "choose one"))
        case "enum":
            there, found = [m.value for m in Modality], str(first["input"])
            words = f"{where}: an unknown modality {found!r}{more}"
            return RecipeError(words, _one_of(there), guess(found, there, "choose one"))
        case "literal_error":
            there = [t.strip(" '") for t in str(context["expected"]).replace(" or ", ", ").split(",")]
            found = str(first["input"])
            return RecipeError(f"{where} is {found!r}{more}", _one_of(there), guess(found, there, "choose one"))
        case "missing" | "union_tag_not_found":
            return RecipeError(f"{where} is missing{more}", message, "add it; see `polyclinic recipe show demo`")
    words = f"{where}: {message}{more}" if key else f"{where}{message}{more}"
    return RecipeError(words, "a recipe that fits together", "see `polyclinic recipe schema` or `recipe show demo`")


def _one_of(there: Iterable[str]) -> str:
    return "one of " + ", ".join(there)
