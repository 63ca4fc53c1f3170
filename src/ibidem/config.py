"""One way to configure: frozen dataclasses, one YAML file, and flags that spell the same keys.

    optim:
      warmup_steps: 100           is           --optim.warmup-steps 100

A field whose key is a word of Python has an underscore behind it: `from_` is the key `from` and the flag `--from`.
Flags win over the file, the file over the defaults. Keys and types are checked by pydantic; every scalar of the file
is read as text, like a flag, so `1e-3` is a number where one is expected and `no` stays a word elsewhere.
"""

import ast
import dataclasses
import difflib
import inspect
import keyword
import re
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ibidem.errors import ConfigError

C = TypeVar("C")
Tree = dict[str, Any]

URL = re.compile(r"(?i:[a-z][a-z0-9+.-]*)://")
"""How a URL begins; in capitals, it is one of no protocol, and no path of this machine."""
Url = Annotated[str, Field(pattern=f"^{URL.pattern}")]
"""Of a store that fsspec opens."""

POSITIONAL = "positional"  # Annotated[Path, POSITIONAL]: given without a flag
WRITTEN = "written"  # Annotated[Path, WRITTEN]: the command writes there, though the key is no output or cache
STORED = "stored"  # Annotated[Path, STORED]: it may be a URL of a store; use `places.AnyPlace`
OPTIONAL = "optional"  # Annotated[Group, OPTIONAL]: settings leave the group out while all its values are the defaults
REPORTED = "reported"  # Annotated[..., REPORTED]: where figures are sent or how a run is kept: it affects no result


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def configuration(cls: type[C]) -> type[C]:
    """Turn a class into a frozen, keyword-only dataclass whose keys and types are checked."""
    strict = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
    return typing.cast("type[C]", pydantic_dataclass(frozen=True, kw_only=True, config=strict)(cls))


def parse(config_type: type[C], argv: Sequence[str]) -> C:
    """Build a configuration from flags and, if `--config FILE` is among them, a YAML file.

    Raises:
        ConfigError: a key is unknown or missing, or a value is invalid; one line lists all problems.
    """
    flags = _read_flags(config_type, argv)
    file = flags.pop("config", None) if "config" not in _fields(config_type) else None
    tree = _merge(_as_fields(read_yaml(Path(file))), flags) if file else flags
    return build(config_type, tree, origin=f"{file}: " if file else "", flags=flags)


def build(
    config_type: type[C], tree: Mapping[str, Any], *, origin: str = "", flags: Mapping[str, Any] | None = None
) -> C:
    """Check a tree of values against a configuration type.

    Args:
        config_type: the type.
        tree: the values.
        origin: where they come from, for messages.
        flags: those of the values that come from flags instead.

    Raises:
        ConfigError: a key is unknown or missing, or a value is invalid; one line lists all problems.
    """
    if urls := [f"{key} {value}" for key, value in _urls(config_type, tree)]:
        raise ConfigError(f"{origin}{'; '.join(urls)}: give a path of this machine; it cannot be at a store")
    try:
        return TypeAdapter(config_type).validate_python(_with_lists(config_type, tree))
    except ValidationError as error:
        of_flags: list[str] = []
        of_origin: list[str] = []
        for problem in error.errors():
            listed = of_flags if _is_given(flags or {}, problem["loc"]) else of_origin
            listed.append(_explain(config_type, problem, as_flag=listed is of_flags))
        said = [*of_flags, *([f"{origin}{'; '.join(of_origin)}"] if of_origin else [])]
        unknown = [_key_of(problem) for problem in error.errors() if problem["type"] in UNKNOWN]
        raise ConfigError("; ".join(said) + _known(config_type, unknown)) from None


def split_flags(config_type: type[C], argv: Sequence[str]) -> tuple[list[str], C]:
    """Take the flags of one configuration out of a command's words; return the other words, and its values.

    Raises:
        ConfigError: a value is missing or invalid.
    """
    flags = {flag: kind for flag, kind, _ in describe(config_type)}
    words, taken, others = list(argv), list[str](), list[str]()
    while words:
        word = words.pop(0)
        name, equals, _ = word.partition("=")
        (taken if name in flags else others).append(word)
        is_switch = flags.get(name, "").startswith("bool")
        if name in flags and not equals and not is_switch and words:
            taken.append(words.pop(0))
    return others, parse(config_type, taken)


def _with_lists(config_type: type[Any], tree: Any) -> Any:
    """Turn a text where a list is due into a list of one: `prompts: "import os"`."""
    if not isinstance(tree, Mapping):
        return tree
    fields, given = _fields(config_type), _as_fields(tree)
    return {key: _with_list(fields[key].annotation, value) if key in fields else value for key, value in given.items()}


def _urls(config_type: type[Any], tree: Any) -> Iterator[tuple[str, str]]:
    """Yield key and value of what is a URL where only a path of this machine will do."""
    fields = _fields(config_type)
    for name, value in _as_fields(tree).items() if isinstance(tree, Mapping) else ():
        annotation = fields[name].annotation if name in fields else None
        key = _as_key(name)
        if nested := _nested(annotation):
            yield from ((f"{key}.{inner}", url) for inner, url in _urls(nested, value))
        elif (nested := _nested_by_name(annotation)) and isinstance(value, Mapping):
            found = ((each, pair) for each, item in value.items() for pair in _urls(nested, item))
            yield from ((f"{key}.{each}.{inner}", url) for each, (inner, url) in found)
        elif _mentions(annotation, Path) and STORED not in fields[name].metadata and not _mentions(annotation, str):
            given = value if isinstance(value, list | tuple) else [value]
            yield from ((key, text) for text in given if isinstance(text, str) and URL.match(text))


def _as_fields(tree: Mapping[str, Any]) -> Tree:
    """Return a tree with the names of fields as keys."""
    return {f"{key}_" if keyword.iskeyword(key) else key: value for key, value in tree.items()}


def _as_key(name: str) -> str:
    """Return the key of a field.

    >>> _as_key("from_"), _as_key("seed")
    ('from', 'seed')
    """
    return name.removesuffix("_") if keyword.iskeyword(name.removesuffix("_")) else name


def _with_list(annotation: Any, value: Any) -> Any:
    if _mentions_list(annotation):
        return [value] if isinstance(value, str | Path) else value
    if nested := _nested(annotation):
        return _with_lists(nested, value)
    if (nested := _nested_by_name(annotation)) and isinstance(value, Mapping):
        return {name: _with_lists(nested, item) for name, item in value.items()}
    return value


def _is_given(tree: Mapping[str, Any], place: Sequence[Any]) -> bool:
    for key in place:
        if not isinstance(tree, Mapping):
            break
        if key not in tree:
            return False
        tree = tree[key]
    return bool(place)


def read_yaml(path: Path) -> Tree:
    """Read a YAML mapping with every scalar as text; `null` and empty values are None."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextLoader)  # noqa: S506 - text only
    except OSError as error:
        is_shipped = path.parts[:1] == ("configs",) and shipped(str(Path(*path.parts[1:]))).is_file()
        hint = "`ibidem init configs` writes it" if is_shipped else "give --config an existing YAML file"
        raise ConfigError(f"{path}: {error.strerror}; {hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the file must contain keys and values")
    return typing.cast("Tree", _nulls(tree))


class _TextLoader(yaml.BaseLoader):
    """Reads every scalar as text, and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if duplicate := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.YAMLError(f"key {duplicate!r} appears twice")
        return super().construct_mapping(node, deep)


def shipped(name: str, folder: str = "configs") -> Path:
    """Return the path of what ships with the program: in an installed wheel, or in the checkout.

    >>> shipped("model/tiny.py").exists(), shipped("glossary.md", "docs").exists()
    (True, True)
    """
    package = Path(__file__).parent
    installed = package / folder
    return (installed if installed.exists() else package.parents[1] / folder) / name


def resolved(config: Any) -> Tree:
    """Return every value of a configuration, defaults included, as JSON values."""
    return typing.cast("Tree", TypeAdapter(type(config)).dump_python(config, mode="json"))


def settings(config: Any) -> Tree:
    """Return the values that affect a result: all except paths and trackers, which say where and never what.

    An optional group at its defaults is left out, so that a result is described as before there was such a group.
    """
    kept: Tree = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        declared = _fields(type(config))[field.name]
        if REPORTED in declared.metadata:
            continue
        if OPTIONAL in declared.metadata and value == declared.get_default(call_default_factory=True):
            continue
        if dataclasses.is_dataclass(value):
            kept[field.name] = settings(value)
        elif isinstance(value, dict) and _nested_by_name(field.type):
            kept[field.name] = {name: settings(item) for name, item in value.items()}
        elif not _mentions(field.type, Path):
            kept[field.name] = resolved(config)[field.name]
    return kept


def flattened(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    """Flatten nested settings to dotted keys.

    >>> flattened({"optim": {"lr": 0.1}})
    {'optim.lr': 0.1}
    """
    rows: Tree = {}
    for key, value in tree.items():
        rows |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return rows


def describe(config_type: type[Any], *, prefix: str = "") -> list[tuple[str, str, str]]:
    """List the flags of a configuration as (flag, type and default, meaning)."""
    rows = []
    for name, field in _fields(config_type).items():
        flag = prefix + _as_key(name).replace("_", "-")
        if nested := _nested(field.annotation):
            rows += describe(nested, prefix=f"{flag}.")
            continue
        if nested := _nested_by_name(field.annotation):
            rows += describe(nested, prefix=f"{flag}.NAME.")
            continue
        default = (
            "required" if field.is_required() else f"default {_show(field.get_default(call_default_factory=True))}"
        )
        shown = name.upper() if POSITIONAL in field.metadata else f"--{flag}"
        kind = _type_name(field.annotation) + (" or url" if STORED in field.metadata else "")
        rows.append((shown, f"{kind}, {default}", _description(config_type, name)))
    return rows


def suggest(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return a hint at the known word that was probably meant, behind a prefix; empty if none is close.

    >>> suggest("lrr", ["lr", "seed"]), suggest("lrr", ["lr", "seed"], prefix="optim.")
    ('; did you mean lr?', '; did you mean optim.lr?')
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _fields(config_type: type[Any]) -> dict[str, Any]:
    return typing.cast("dict[str, Any]", getattr(config_type, "__pydantic_fields__", {}))


def _description(config_type: type[Any], name: str) -> str:
    """Return the docstring of a field from the class that declares it: this one or a base class."""
    return next((meanings[name] for base in config_type.__mro__ if name in (meanings := _meanings(base))), "")


@cache
def _meanings(cls: type[Any]) -> dict[str, str]:
    """Read the field docstrings of a configuration from its source, if available; used only for help."""
    if not _fields(cls):
        return {}
    try:
        source = inspect.getsource(cls)
    except OSError:
        return {}
    (declared,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(declared, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(docstring.value.value)
        for field, docstring in pairwise(declared.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(docstring, ast.Expr)
        and isinstance(docstring.value, ast.Constant)
        and isinstance(docstring.value.value, str)
    }


def _nested(annotation: Any) -> type[Any] | None:
    """Return the configuration inside an annotation such as `OptimConfig` or `OptimConfig | None`."""
    options = [annotation, *(() if _is_mapping(annotation) else typing.get_args(annotation))]
    return next((option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None)


def _nested_by_name(annotation: Any) -> type[Any] | None:
    """Return the configuration inside an annotation such as `dict[str, OptimConfig]`."""
    return _nested(typing.get_args(annotation)[1]) if _is_mapping(annotation) else None


def _is_mapping(annotation: Any) -> bool:
    return typing.get_origin(annotation) is dict


def _mentions(annotation: Any, wanted: type) -> bool:
    return annotation is wanted or any(_mentions(part, wanted) for part in typing.get_args(annotation))


def _read_flags(config_type: type[Any], argv: Sequence[str]) -> Tree:
    """Read `--a.b VALUE`, `--a.b=VALUE`, a bare `--switch`, repeated flags and positional words into a tree.

    Behind an equals sign, what Python writes as a list or dict is one: `--a=[1, 2]`, `--a={'b': 1}`. The agents of
    sweeps pass such values.
    """
    tree: Tree = {}
    positionals = [name for name, field in _fields(config_type).items() if POSITIONAL in field.metadata]
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            if not positionals:
                raise ConfigError(f"unexpected argument {word!r}; flags start with --")
            name = positionals.pop(0)
            _put_once(tree, [name], word, name)
            continue
        name, equals, value = word[2:].partition("=")
        keys = _keys(config_type, name.split("."))
        annotation = _annotation(config_type, keys)
        if equals and _is_group(annotation) and (group := _literal(value, dict)) is not None:
            words[:0] = [f"--{name}.{key}={item}" for key, item in group.items()]
        elif _mentions_list(annotation):
            values = _listed(value) if equals else _take_values(words)
            _put(tree, keys, [*_get(tree, keys, []), *values])
        elif equals:
            _put_once(tree, keys, _null(value), name)
        elif words and not words[0].startswith("--"):
            _put_once(tree, keys, _null(words.pop(0)), name)
        elif annotation is bool:
            _put_once(tree, keys, "true", name)
        else:
            key = ".".join(keys)
            hint = _meant(config_type, key) or _known(config_type, [key]) if annotation is None else ""
            raise ConfigError(f"--{name} needs a value{hint}")
    return tree


def _keys(config_type: type[Any], words: Sequence[str]) -> list[str]:
    """Convert the words of a flag to keys: dashes become underscores, except in the free names of a mapping."""
    (first,) = _as_fields({words[0].replace("-", "_"): None})
    field = _fields(config_type).get(first)
    if field is not None and _is_mapping(field.annotation):
        inside = _nested_by_name(field.annotation)
        if inside and len(words) > 2:
            return [first, *words[1:2], *_keys(inside, words[2:])]
        return [first, *words[1:2], *(word.replace("-", "_") for word in words[2:])]
    nested = _nested(field.annotation) if field is not None else None
    if nested and len(words) > 1:
        return [first, *_keys(nested, words[1:])]
    return [first, *(word.replace("-", "_") for word in words[1:])]


def _listed(value: str) -> list[str]:
    listed = _literal(value, list)
    return [value] if listed is None else [str(item) for item in listed]


def _literal(value: str, kind: type[C]) -> C | None:
    """Return the list or dict that a text is in Python; None if it is another text."""
    if not value.startswith(("[", "{")):
        return None
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return literal if isinstance(literal, kind) else None


def _is_group(annotation: Any) -> bool:
    return annotation is not None and (_is_mapping(annotation) or _nested(annotation) is not None)


def _take_values(words: list[str]) -> list[str]:
    count = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
    values, words[:] = words[:count], words[count:]
    return values


def _annotation(config_type: type[Any], keys: Sequence[str]) -> Any:
    field = _fields(config_type).get(keys[0])
    if field is None:
        return None
    if _is_mapping(field.annotation) and len(keys) > 1:
        nested = _nested_by_name(field.annotation)
        return _annotation(nested, keys[2:]) if nested and len(keys) > 2 else typing.get_args(field.annotation)[1]
    nested = _nested(field.annotation)
    return _annotation(nested, keys[1:]) if nested and len(keys) > 1 else field.annotation


def _mentions_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (tuple, list)


def _put(tree: Tree, keys: Sequence[str], value: Any) -> None:
    _branch(tree, keys)[keys[-1]] = value


def _put_once(tree: Tree, keys: Sequence[str], value: Any, flag: str) -> None:
    branch = _branch(tree, keys)
    if isinstance(branch.get(keys[-1]), dict):
        raise ConfigError(f"--{flag} is used both as a value and as a group")
    if keys[-1] in branch:
        raise ConfigError(f"--{flag}: given twice")
    branch[keys[-1]] = value


def _branch(tree: Tree, keys: Sequence[str]) -> Tree:
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"--{key} is used both as a value and as a group")
        tree = branch
    return tree


def _get(tree: Tree, keys: Sequence[str], default: Any) -> Any:
    for key in keys:
        if key not in tree:
            return default
        tree = tree[key]
    return tree


def _merge(base: Tree, over: Tree) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and key in base:
            if not isinstance(base[key], dict):
                raise ConfigError(f"{key} is a group of keys, but the file sets it to the value {base[key]!r}")
            merged[key] = _merge(base[key], value)
        else:
            merged[key] = value
    return merged


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nulls(item) for item in value]
    return None if value == "" else _null(value)


def _null(value: str) -> str | None:
    return None if value in {"null", "~", "None", "none"} else value


NUMBERS = {"int_parsing": "a whole number", "float_parsing": "a number", "int_from_float": "a whole number"}


UNKNOWN = {"unexpected_keyword_argument", "extra_forbidden"}


def _key_of(problem: Mapping[str, Any]) -> str:
    return _as_key(".".join(map(str, problem["loc"])))


def _explain(config_type: type[Any], problem: Mapping[str, Any], *, as_flag: bool = False) -> str:
    field = _fields(config_type).get(".".join(map(str, problem["loc"])))
    key = _key_of(problem)
    if as_flag and field is None:
        key = re.sub(r"(?:\.\d+)+$", "", key)  # the place of a value among those of its flag
    is_positional = field is not None and POSITIONAL in field.metadata
    shown = key.upper() if is_positional else _flag(key) if as_flag else key
    match problem["type"]:
        case kind if kind in UNKNOWN:
            return f"unknown key {key}{_meant(config_type, key)}"
        case "missing" | "missing_keyword_only_argument" | "missing_argument":
            if is_positional:
                return f"{key} is required; give {key.upper()}"
            if field is not None and (nested := _nested(field.annotation)):
                needed = [flag for flag, kind, _ in describe(nested, prefix=f"{_flag(key)[2:]}.") if "required" in kind]
                return f"{key} is required; give {' and '.join(needed)}"
            return f"{key} is required; give {_flag(key)}"
        case "tuple_type" | "list_type":
            return f"{shown}: give a list (got {_show(problem['input'])})"
        case "too_short":
            return f"{shown}: give at least one"
        case kind if kind in NUMBERS:
            return f"{shown} must be {NUMBERS[kind]}, not {_show(problem['input'])!r}"
        case _:
            message = problem["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            return f"{shown or 'configuration'}: {message[0].lower()}{message[1:]} (got {_show(problem['input'])})"


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _beside(config_type: type[Any], key: str) -> list[str]:
    """Return the keys of the group that a key is in, without its name; all keys if there is no such group."""
    names = [flag.lstrip("-").replace("-", "_").lower() for flag, *_ in describe(config_type)]
    group = _group(key)
    return [name.removeprefix(group) for name in names if name.startswith(group)] or names


def _group(key: str) -> str:
    return key[: key.rfind(".") + 1]


def _meant(config_type: type[Any], key: str) -> str:
    group, beside = _group(key), _beside(config_type, key)
    groups = {name.partition(".")[0] for name in beside}
    return suggest(key.removeprefix(group), [*beside, *groups], prefix=group)


def _known(config_type: type[Any], unknown: Iterable[str]) -> str:
    """Return the keys beside those that are unknown, groups ending in a dot; empty if each is a mistyped known one."""
    far = [key for key in unknown if not _meant(config_type, key)]
    parts = [name.partition(".") for key in far for name in _beside(config_type, key)]
    return f"; known keys: {', '.join(dict.fromkeys(first + dot for first, dot, _ in parts))}" if parts else ""


def _show(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a group of {', '.join(map(str, value))}" if value else "none"
    if isinstance(value, tuple | list):
        return "none" if not value else " ".join(f'"{item}"' if " " in str(item) else str(item) for item in value)
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _type_name(annotation: Any) -> str:
    if hasattr(annotation, "__metadata__"):
        return _type_name(annotation.__origin__)
    if _is_mapping(annotation):
        key, value = map(_type_name, typing.get_args(annotation))
        return f"{value} by {key}"
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(typing.get_args(annotation))
    if arguments := [part for part in typing.get_args(annotation) if part is not Ellipsis]:
        names = [_type_name(part) for part in arguments if part is not type(None)]
        return f"{names[0]} ..." if _mentions_list(annotation) else " or ".join(names)
    return str(getattr(annotation, "__name__", annotation)).lower()
