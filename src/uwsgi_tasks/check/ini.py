"""An ini file as uWSGI reads it: repeated keys, magic, placeholders, conditions, other files.

Sources: ``core/ini.c`` (lines, sections), ``magic_sub`` and ``uwsgi_opt_logic`` of ``core/uwsgi.c``
and ``core/config.c``. What can't be known without a server (host names, uids) is left as it is.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

_OFF = ("false", "off", "no", "0")
_OTHERS = ("ini", "include", "inherit")
_UNREAD = ("json", "js", "yaml", "yml", "xml", "config", "sqlite3", "ldap")
_MOST_DEPTH = 10
_PLACEHOLDERS = ("set-ph", "set-placeholder", "set")


class Entry(NamedTuple):
    """An option as it stands somewhere.

    Attributes:
        name: Of the option.
        value: Its value, everything replaced that can be.
        place: File and line.
        is_placeholder: It was set by ``set-ph`` or the like, and is no option of uWSGI.
    """

    name: str
    value: str
    place: str
    is_placeholder: bool = False


class Options:
    """Options in the order in which uWSGI meets them; each may stand several times.

    Args:
        entries: The options.
        path: The file that they come from; empty for those of a running server.
        notes: What couldn't be read, for people.
    """

    def __init__(self, entries: list[Entry], path: str = "", notes: tuple[str, ...] = ()) -> None:
        self.entries = entries
        self.path = path
        self.notes = notes

    def all(self, *names: str) -> list[str]:
        """Return the values of options, in their order."""
        return [entry.value for entry in self.entries if entry.name in names]

    def last(self, *names: str) -> str | None:
        """Return the last value of options, or ``None``."""
        values = self.all(*names)
        return values[-1] if values else None

    def has(self, *names: str) -> bool:
        """Tell whether one of the options is there and not switched off."""
        return any(value.lower() not in _OFF for value in self.all(*names))

    def number(self, *names: str) -> int | None:
        """Return the last value as uWSGI takes it for a number: its leading digits, else 0."""
        value = self.last(*names)
        if value is None:
            return None
        digits = re.match(r"\s*[+-]?\d+", value)
        return int(digits[0]) if digits else 0

    def placeholder(self, name: str) -> str | None:
        """Return the value of a placeholder or option, as the settings are looked up."""
        value = self.last(name)
        return "" if value == "true" else value


def read(path: str, variable: Callable[[str], str | None] = lambda name: None) -> Options:
    """Read an ini file, and the files that it names.

    Args:
        path: The file; ``file:section`` names another section than ``uwsgi``.
        variable: Returns a variable of the environment.

    Raises:
        OSError: The file can't be read. Of a file that it names this is a note.
    """
    reader = _Reader(variable)
    reader.read(path)
    return Options(reader.entries, os.path.abspath(path.partition(":")[0]), tuple(reader.notes))


class _Reader:
    """Reads one file after the other into one list.

    Args:
        variable: Returns a variable of the environment.
    """

    def __init__(self, variable: Callable[[str], str | None]) -> None:
        self._variable = variable
        self._depth = 0
        self.entries: list[Entry] = []
        self.notes: list[str] = []

    def read(self, name: str) -> None:
        file, section = _split(name)
        with open(file, encoding="utf-8", errors="surrogateescape") as opened:
            text = opened.read()
        magic = _magic(os.path.abspath(file), section)
        self._take(list(_lines(text, section, file, magic)), {})

    def _take(self, lines: list[Entry], loop: Mapping[str, str]) -> None:
        conditions: list[bool] = []
        at = 0
        while at < len(lines):
            entry = lines[at]
            at += 1
            value = self._replace(entry.value, loop)
            if entry.name.startswith("if-"):
                conditions.append(self._holds(entry.name[3:], value))
            elif entry.name in ("endif", "end-if"):
                conditions = conditions[:-1]
            elif entry.name in ("for", "for-times", "for-glob"):
                end = _end_of_loop(lines, at)
                if all(conditions):
                    for item in _items(entry.name, value):
                        self._take(lines[at:end], {**loop, "_": item})
                at = end + 1
            elif all(conditions):
                self._add(entry._replace(value=value))

    def _add(self, entry: Entry) -> None:
        if entry.name in _OTHERS:
            self._include(entry)
        elif entry.name in _UNREAD:
            self.notes.append(f"{entry.place}: {entry.name} = {entry.value} isn't read here")
        elif entry.name in _PLACEHOLDERS:
            name, _, value = entry.value.partition("=")
            self.entries.append(Entry(name, value, entry.place, True))
        else:
            self.entries.append(entry)

    def _include(self, entry: Entry) -> None:
        name = entry.value
        if name.startswith(":"):
            name = entry.place.rpartition(":")[0] + name
        if self._depth >= _MOST_DEPTH:
            self.notes.append(f"{entry.place}: {entry.name} = {entry.value} goes round in circles")
            return
        self._depth += 1
        try:
            self.read(name)
        except OSError as error:
            self.notes.append(f"{entry.place}: {name} can't be read: {error.strerror}")
        finally:
            self._depth -= 1

    def _replace(self, text: str, loop: Mapping[str, str]) -> str:
        text = re.sub(r"\$\((\w+)\)", lambda m: self._variable(m[1]) or "", text)
        text = re.sub(r"@\(([^()]+)\)", lambda m: self._content(m[1]), text)

        def placeholder(match: re.Match[str]) -> str:
            if match[1] in loop:
                return loop[match[1]]
            values = [entry.value for entry in self.entries if entry.name == match[1]]
            return values[-1] if values else match[0]

        return re.sub(r"%\(([\w.-]+)\)", placeholder, text)

    def _content(self, path: str) -> str:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError as error:
            self.notes.append(f"@({path}) can't be read: {error.strerror}")
            return ""

    def _holds(self, condition: str, value: str) -> bool:
        negated, condition = condition.startswith("not-"), condition.removeprefix("not-")
        name, _, wanted = value.partition("=")
        if condition == "env":
            found = self._variable(name)
            holds = found == wanted if wanted else found is not None
        elif condition == "opt":
            values = [entry.value for entry in self.entries if entry.name == name]
            holds = wanted in values if wanted else bool(values)
        elif condition in ("exists", "file", "dir"):
            test = {"exists": os.path.exists, "file": os.path.isfile, "dir": os.path.isdir}
            holds = test[condition](value)
        else:
            return True  # uids, host names, plugins: what follows is looked at all the same
        return holds is not negated


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    file, _, section = file.partition(":")
    return f"{folder}{slash}{file}", section or "uwsgi"


def _lines(text: str, section: str, file: str, magic: Mapping[str, str]) -> Iterator[Entry]:
    here = ""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip(" \t\r")
        if line.startswith("["):
            here = line[1:-1]
        elif line and here == section and line[0] not in ";#":
            key, _, value = line.partition("=")
            value = re.sub(r"%(.)", lambda m: magic.get(m[1], m[0]), value.strip(" \t"))
            yield Entry(key.strip(" \t"), value, f"{file}:{number}")


def _magic(path: str, section: str) -> dict[str, str]:
    folder, base = os.path.split(path)
    stem, _, extension = base.rpartition(".") if "." in base else (base, "", "")
    return {
        "p": path,
        "o": path,
        "s": base,
        "d": folder.rstrip("/") + "/",
        "c": os.path.basename(folder),
        "e": extension,
        "n": stem,
        "x": section,
        "%": "%",
    }


def _end_of_loop(lines: list[Entry], at: int) -> int:
    ends = (place for place in range(at, len(lines)) if lines[place].name in ("endfor", "end-for"))
    return next(ends, len(lines))


def _items(kind: str, value: str) -> list[str]:
    if kind == "for-times":
        return [str(number) for number in range(1, int(value) + 1)] if value.isdigit() else []
    words = value.split()
    return [path for word in words for path in glob.glob(word)] if kind == "for-glob" else words
