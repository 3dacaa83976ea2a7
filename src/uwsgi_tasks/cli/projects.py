"""Setting a project up: init, completion."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import click

from .base import Command, fail
from .output import as_json
from .parameters import json_option

_SKIPPED = {"venv", ".venv", "node_modules", "tests", "migrations", "build", "dist", "docs"}
_MOST_FILES = 500


class Project(NamedTuple):
    """What lies in a directory.

    Attributes:
        kind: ``"Django"``, ``"Flask"``, ``"WSGI"`` or ``"Python"``.
        module: What uWSGI loads: ``package.module:callable``.
        tasks: Module to import where there is no web application.
        next_steps: What is left to do, for people.
    """

    kind: str
    module: str
    tasks: str
    next_steps: tuple[str, ...]


_HEAD = "; uwsgi.ini: written by uwsgi-tasks init for this {kind} project\n[uwsgi]\n"
_APPLICATION = """
; the application
chdir = %d
http-socket = 127.0.0.1:8080
module = {module}
need-app = true
"""
_NO_APPLICATION = """
; no web application: only tasks
chdir = %d
import = {tasks}
"""
_TASKS = """
; background tasks
; the process that starts and watches the others
master = true
; the directory of the queue, and a process that works on it (%d: the directory of this file)
spooler = %dspool
; how many such processes
spooler-processes = 1
; first in, first out
spooler-ordered = true
; a reload keeps the virtual environment
binary-path = $(VIRTUAL_ENV)/bin/python
; `uwsgi-tasks reload` waits for running tasks, and tells the master here
master-fifo = %dmaster.fifo
; SIGTERM stops, as systemd and containers expect
die-on-term = true
; a misspelt option is an error
strict = true

; settings of uwsgi-tasks, as set-ph = tasks-NAME=VALUE; `uwsgi-tasks check --show-config` has all
; set-ph = tasks-max-tasks=1000
"""


def find(folder: Path) -> Project:
    """Return what project lies in a directory."""
    if (folder / "manage.py").is_file():
        return _django(folder)
    for path in _sources(folder):
        text = path.read_text(encoding="utf-8", errors="replace")
        name = _module_name(folder, path)
        if made := re.search(r"^(\w+)\s*=\s*Flask\(", text, re.M):
            return _web("Flask", f"{name}:{made[1]}")
        made = re.search(r"^def (create_app|make_app)\(", text, re.M)
        if made and "Flask(" in text:
            return _web("Flask", f"{name}:{made[1]}()")
        if re.search(r"^(def application\(|application\s*=)", text, re.M):
            return _web("WSGI", name)
    return _plain(folder)


def _web(kind: str, module: str) -> Project:
    package = module.partition(":")[0]
    return Project(
        kind,
        module,
        "",
        (f"decorate functions with @uwsgi_tasks.task, in a module that {package} imports",),
    )


def _django(folder: Path) -> Project:
    text = (folder / "manage.py").read_text(encoding="utf-8", errors="replace")
    named = re.search(r"DJANGO_SETTINGS_MODULE['\"],\s*['\"]([\w.]+)['\"]", text)
    package = named[1].split(".")[0] if named else folder.name
    return Project(
        "Django",
        f"{package}.wsgi",
        "",
        (
            "decorate functions with @uwsgi_tasks.task, in the tasks.py of your applications",
            f"see the how-to for Django: {package}/wsgi.py has to import them before the fork",
        ),
    )


def _plain(folder: Path) -> Project:
    for path in _sources(folder):
        if re.search(r"\buwsgi_tasks\b", path.read_text(encoding="utf-8", errors="replace")):
            name = _module_name(folder, path)
            return Project("Python", "", name, (f"import all modules with tasks in {name}",))
    return Project(
        "Python", "", "tasks", ("write tasks.py, with functions decorated by @uwsgi_tasks.task",)
    )


def _sources(folder: Path) -> list[Path]:
    """Return the project's own modules: well-known names first, then those nearest the top."""
    found = []
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("*/*.py")):
        inner = path.relative_to(folder).parts[:-1]
        if not _SKIPPED & set(inner) and not any(part.startswith(".") for part in inner):
            found.append(path)
    first = ("wsgi.py", "app.py", "application.py", "main.py", "__init__.py")
    rank = {name: number for number, name in enumerate(first)}
    found.sort(key=lambda path: (rank.get(path.name, len(rank)), len(path.parts)))
    return found[:_MOST_FILES]


def _module_name(folder: Path, path: Path) -> str:
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def ini_of(project: Project, *, whole: bool) -> str:
    """Return the ini file of a project, or only the part for tasks."""
    head = _HEAD.format(kind=project.kind)
    if not whole:
        return head.replace("uwsgi.ini:", "uwsgi-tasks.ini:") + _TASKS
    middle = _APPLICATION if project.module else _NO_APPLICATION
    return head + middle.format(module=project.module, tasks=project.tasks) + _TASKS


@click.command(
    "init",
    cls=Command,
    examples=("init", "init --show  # write nothing", "init --force"),
    see_also="check, worker",
)
@click.argument(
    "directory", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--show", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--force", is_flag=True, help="Overwrite a uwsgi.ini; the old one is kept beside it.")
@json_option
def init_command(directory: Path, show: bool, force: bool, as_json_: bool) -> None:
    """Write a commented uwsgi.ini for the project that lies here: Django, Flask, WSGI, or plain.

    Where there is a uwsgi.ini already it is left alone: what tasks need goes to uwsgi-tasks.ini
    beside it, with the line that brings it in.
    """
    project = find(directory.resolve())
    whole = force or not (directory / "uwsgi.ini").exists()
    path = directory / ("uwsgi.ini" if whole else "uwsgi-tasks.ini")
    text = ini_of(project, whole=whole)
    if show:
        click.echo(text, nl=False)
        return
    if path.exists():
        if not force:
            fail(f"{path} is there already, and nothing was written", "--show, or --force")
        path.replace(path.with_name(path.name + ".old"))
    path.write_text(text, encoding="utf-8")
    steps = _next_steps(project, directory, whole)
    if as_json_:
        as_json({"kind": project.kind, "file": path, "next": steps})
        return
    click.echo(f"Found a {project.kind} project{f' ({project.module})' if project.module else ''}")
    click.echo(f"Wrote {path}\n\nNext:")
    for number, step in enumerate(steps, 1):
        click.echo(f"  {number}. {step}")


def _next_steps(project: Project, directory: Path, whole: bool) -> list[str]:
    include = [] if whole else ["add `ini = %duwsgi-tasks.ini` to the [uwsgi] part of uwsgi.ini"]
    folder = "" if str(directory) == "." else f"{directory}/"
    check = (
        f"run `uwsgi-tasks --ini {folder}uwsgi.ini check`" if folder else "run `uwsgi-tasks check`"
    )
    return [*include, *project.next_steps, check, f"start it: `uwsgi {folder}uwsgi.ini`"]


@click.command(
    "completion",
    cls=Command,
    examples=(
        "completion bash > ~/.local/share/bash-completion/completions/uwsgi-tasks",
        "completion zsh > ~/.zfunc/_uwsgi-tasks",
        "completion fish > ~/.config/fish/completions/uwsgi-tasks.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that lets a shell complete commands and options."""
    from click.shell_completion import get_completion_class

    from .app import program

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(program, {}, "uwsgi-tasks", "_UWSGI_TASKS_COMPLETE").source())
