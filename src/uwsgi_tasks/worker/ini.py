"""What the worker gives uWSGI: where things lie, and the configuration that says so."""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from .. import config, home, record
from . import WorkerOptions

DEFAULT_HOME = ".uwsgi-tasks"
TARGET_MODULE = "uwsgi_tasks.worker.target"
PLACEHOLDER = "tasks-worker"
_QUEUE = re.compile(r"[\w.-]+")
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?")
_MOST_MULES = 256
_FIXED = [
    ("strict", "true"),
    ("master", "true"),
    ("die-on-term", "true"),
    ("single-interpreter", "true"),
    ("spooler-quiet", "true"),
    ("auto-procname", "true"),
    ("procname-prefix-spaced", "uwsgi-tasks"),
]


class Layout(NamedTuple):
    """Where things lie.

    Attributes:
        home: The home.
        spool: The spool directory of tasks without a queue of their own.
        queues: Name of a queue, and its spool directory.
    """

    home: str
    spool: str
    queues: dict[str, str]

    def spools(self) -> list[str]:
        """Return every spool directory, the default one first."""
        return [self.spool, *self.queues.values()]

    def file(self, name: str) -> str:
        """Return the path of something in the home."""
        return os.path.join(self.home, name)


def layout_of(options: WorkerOptions) -> Layout:
    """Return where a worker keeps what; see ``WorkerOptions.home``.

    Raises:
        ConfigError: A setting can't be meant.
    """
    settings = config.load({}, lambda name: None).settings
    told = options.home or settings.home
    if not told and settings.spooler:
        told = os.path.join(settings.spooler, home.NAME)
    path = os.path.realpath(record.home_at(told or DEFAULT_HOME))
    inside = os.path.basename(path) == home.NAME
    spool = os.path.dirname(path) if inside else os.path.join(path, "spool")
    return Layout(path, spool, {name: f"{spool}-{name}" for name, _ in options.queues})


def problem_of(options: WorkerOptions, *, has_django: bool) -> str | None:
    """Return what can't be meant of what a worker is told, or ``None``."""
    if not options.targets and not has_django:
        return (
            "nothing to run: name a module with tasks (`package.module` or a .py file), or set"
            " DJANGO_SETTINGS_MODULE for a Django project"
        )
    numbers = [
        ("processes", options.processes, 1),
        ("max_tasks", options.max_tasks, 1),
        ("max_rss", options.max_rss, 1),
        ("mules", options.mules, 0),
        ("grace", options.grace, 0),
        *((f"queue {name}", number, 1) for name, number in options.queues),
    ]
    for name, number, least in numbers:
        if number is not None and number < least:
            return f"{name}: {number} is too small, it takes {least} or more"
    if options.mules > _MOST_MULES:
        return f"mules: a server has at most {_MOST_MULES}"
    if options.reload and options.once:
        return "reload and once exclude each other"
    names = [name for name, _ in options.queues]
    wrong = [name for name in names if not _QUEUE.fullmatch(name) or names.count(name) > 1]
    if wrong:
        return f"queue {wrong[0]!r}: a name has letters, digits, `_`, `-` and `.`, and comes once"
    return next(filter(None, map(_target_problem, options.targets)), None)


def _target_problem(target: str) -> str | None:
    if target.endswith(".py"):
        if not os.path.isfile(target):
            return f"there is no file {target}"
        stem = os.path.basename(target)[:-3]
        return None if stem.isidentifier() else f"{target}: its name can't be imported: rename it"
    if _TARGET.fullmatch(target):
        return None
    return f"{target!r} is no package.module, package.module:function or .py file"


def text_of(options: WorkerOptions, layout: Layout, python: str, virtual_env: str = "") -> str:
    """Return the configuration.

    Args:
        options: What the worker is told.
        layout: Where things lie.
        python: The interpreter that a reload starts again.
        virtual_env: For a uWSGI that isn't the running interpreter's module.
    """
    lines = [
        *_FIXED,
        ("binary-path", python),
        ("master-fifo", layout.file("master.fifo")),
        ("mule-reload-mercy", str(max(1, round(options.grace)))),
        *[("spooler", layout.spool)] * options.processes,
    ]
    for name, number in options.queues:
        lines += [("spooler", layout.queues[name])] * number
    if options.mules:
        lines.append(("mules", str(options.mules)))
    if virtual_env:
        lines.append(("home", virtual_env))
    lines += [("set-ph", f"{name}={value}") for name, value in _placeholders(options, layout)]
    lines.append(("shared-import", TARGET_MODULE))
    # uWSGI replaces %x in values
    return "[uwsgi]\n" + "".join(f"{k} = {v.replace('%', '%%')}\n" for k, v in lines)


def _placeholders(options: WorkerOptions, layout: Layout) -> list[tuple[str, str]]:
    told = {
        "targets": [os.path.abspath(t) if t.endswith(".py") else t for t in options.targets],
        "directory": os.getcwd(),
        "home": layout.home,
        "level": "WARNING" if options.quiet else "DEBUG" if options.verbose else "INFO",
    }
    chosen = [(PLACEHOLDER, json.dumps(told))]
    if layout.queues:
        chosen.append(("tasks-queues", json.dumps(layout.queues)))
    if options.max_tasks:
        chosen.append(("tasks-max-tasks", str(options.max_tasks)))
    if options.max_rss:
        chosen.append(("tasks-max-rss", str(options.max_rss)))
    return chosen
