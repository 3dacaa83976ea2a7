"""Settings, and where each came from: the only module that reads the environment.

Precedence: ``configure(…)``, then ``UWSGITASKS_<NAME>``, then ``set-ph = tasks-<name>=…`` in
``uwsgi.ini``, then the default. Never ``UWSGI_…``: uWSGI turns those variables into options of
its own (``parse_sys_envs`` in ``core/utils.c``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .errors import ConfigError

ENV_PREFIX = "UWSGITASKS_"
PLACEHOLDER_PREFIX = "tasks-"


class Settings(NamedTuple):
    """The settings in force; the table in the reference tells each name in every place."""

    home: str | None = None
    spooler: str | None = None
    secret: tuple[str, ...] = ()
    serializer: str = "pickle"
    executor: str = "auto"
    strict: bool = False
    accept_unsigned: bool = False
    naive_at: str = "local"
    max_attempts: int = 1000
    unknown_grace: float = 60.0
    queues: tuple[tuple[str, str], ...] = ()
    max_crashes: int = 3
    max_interruptions: int = 100
    allowed_packages: tuple[str, ...] = ()
    max_message_bytes: int = 64 << 20
    dead_max_count: int = 10_000
    dead_max_bytes: int = 1 << 30
    dead_max_age: float = 90 * 86400.0
    durability: str = "os"
    max_tasks: int | None = None
    max_rss: int | None = None
    history: bool = True
    history_max_age: float = 7 * 86400.0
    history_max_count: int = 1_000_000
    store_results: bool = False
    max_result_bytes: int = 1 << 20
    keep_logs: int = 20


class Origins(NamedTuple):
    """Settings with the place that each came from."""

    settings: Settings
    sources: Mapping[str, str]


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "": True}
    words.update({"0": False, "false": False, "no": False, "off": False})
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("it takes true or false")


def _path(value: Any) -> str | None:
    if value is None:
        return None
    path = os.fspath(value)
    if not isinstance(path, str) or not path:
        raise ValueError("it takes a path")
    return os.path.abspath(path)


def _secret(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    keys = value.split(",") if isinstance(value, str) else list(value)
    keys = [key.decode() if isinstance(key, bytes) else key for key in keys]
    if not all(isinstance(key, str) and len(key) >= 16 for key in keys):
        raise ValueError("it takes a text of at least 16 characters, or a list of such")
    return tuple(keys)


def _one_of(*words: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"it takes one of {', '.join(words)}")
        return str(value)

    return parse


def _count(value: Any) -> int:
    number = int(value) if isinstance(value, str) else value
    if type(number) is not int or number < 1:
        raise ValueError("it takes a whole number from 1")
    return number


def _seconds(value: Any) -> float:
    seconds = value.total_seconds() if hasattr(value, "total_seconds") else float(value)
    if isinstance(value, bool) or not 0 <= seconds < float("inf"):
        raise ValueError("it takes seconds, 0 or more")
    return float(seconds)


def _number(value: Any) -> int:
    number = int(value) if isinstance(value, str) else value
    if type(number) is not int or not 0 <= number <= 10_000:
        raise ValueError("it takes a whole number from 0 to 10000")
    return number


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _bytes(value: Any) -> int:
    number: Any = value
    if isinstance(value, str):
        digits = value.strip().lower().removesuffix("b").rstrip("kmg")
        unit = value.strip().lower().removesuffix("b")[len(digits) :]
        number = int(digits) * _UNITS[unit] if digits.isdigit() and unit in _UNITS else None
    if type(number) is not int or number < 1:
        raise ValueError("it takes a number of bytes, or a text such as '200M'")
    return number


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value in (None, "", 0, "0") else parse(value)


def _words(value: Any) -> tuple[str, ...]:
    words = value.split(",") if isinstance(value, str) else list(value)
    words = [word.strip() for word in words]
    if not all(words):
        raise ValueError("it takes names of packages, '*' for any")
    return tuple(words)


def _queues(value: Any) -> tuple[tuple[str, str], ...]:
    pairs = json.loads(value) if isinstance(value, str) else dict(value)
    if not all(isinstance(word, str) and word for pair in pairs.items() for word in pair):
        raise ValueError("it takes a mapping of queue names to spool directories")
    return tuple((name, os.path.realpath(path)) for name, path in pairs.items())


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "home": _path,
    "spooler": _path,
    "secret": _secret,
    "serializer": _one_of("pickle", "json"),
    "executor": _one_of("auto", "spooler", "mule", "runtime"),
    "strict": _boolean,
    "accept_unsigned": _boolean,
    "naive_at": _one_of("local", "utc"),
    "max_attempts": _count,
    "unknown_grace": _seconds,
    "queues": _queues,
    "max_crashes": _count,
    "max_interruptions": _count,
    "allowed_packages": _words,
    "max_message_bytes": _bytes,
    "dead_max_count": _count,
    "dead_max_bytes": _bytes,
    "dead_max_age": _seconds,
    "durability": _one_of("os", "disk", "memory"),
    "max_tasks": _optional(_count),
    "max_rss": _optional(_bytes),
    "history": _boolean,
    "history_max_age": _seconds,
    "history_max_count": _count,
    "store_results": _boolean,
    "max_result_bytes": _bytes,
    "keep_logs": _number,
}


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for a near miss, else an empty text."""
    import difflib  # for a mistake only, not for each import of the library

    near = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def check(values: Mapping[str, Any], place: str = "configure()") -> dict[str, Any]:
    """Return the values, parsed.

    Raises:
        ConfigError: A name is unknown or a value can't be meant.
    """
    return {name: _parse(name, value, place) for name, value in values.items()}


def _parse(name: str, value: Any, place: str) -> Any:
    parser = _PARSERS.get(name)
    if parser is None:
        hint = suggest(name, _PARSERS) or f". Settings: {', '.join(_PARSERS)}"
        raise ConfigError(f"{place}: there is no setting {name!r}{hint}")
    try:
        return parser(value)
    except (ValueError, TypeError, AttributeError) as error:
        shown = "…" if name == "secret" else repr(value)
        raise ConfigError(f"{place}: {name}={shown}: {error}") from None


def load(
    configured: Mapping[str, Any],
    option: Callable[[str], str | None],
    environ: Mapping[str, str] = os.environ,
) -> Origins:
    """Return the settings in force.

    Args:
        configured: What ``check`` gave for the calls of ``configure``.
        option: Returns the value of an option or placeholder of ``uwsgi.ini``.
        environ: The environment.

    Raises:
        ConfigError: A value in one of the places can't be meant.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in _PARSERS:
        variable = ENV_PREFIX + name.upper()
        placeholder = PLACEHOLDER_PREFIX + name.replace("_", "-")
        if name in configured:
            values[name], sources[name] = configured[name], "configure()"
        elif variable in environ:
            values[name], sources[name] = _parse(name, environ[variable], variable), variable
        elif (text := option(placeholder)) is not None:
            values[name] = _parse(name, text, placeholder)
            sources[name] = f"uwsgi.ini: set-ph = {placeholder}"
        else:
            sources[name] = "default"
    return Origins(Settings(**values), sources)


_variables: Any = getattr(os.environ, "_data", os.environ)  # the plain dict below: 20 times faster


def variable(name: str) -> str | None:
    """Return a variable of the environment."""
    return os.environ.get(name)


def environment() -> dict[Any, Any]:
    """Return the environment as it is, to be compared and put back later."""
    return dict(_variables)


def is_environment_changed(before: Mapping[Any, Any]) -> bool:
    """Tell whether the environment differs from what ``environment`` gave."""
    return bool(_variables != before)


def put_environment_back(before: Mapping[Any, Any]) -> None:
    """Make the environment what it was."""
    wanted = {os.fsdecode(name): os.fsdecode(value) for name, value in before.items()}
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    os.environ.update(wanted)
