"""Write the commands' help into docs/reference/cli.md, below its marker; a test compares it.

Usage: python scripts/cli_reference.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from uwsgi_tasks.cli.app import program

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"
MARKER = "<!-- from here on written by scripts/cli_reference.py -->\n"
WIDTH = 92


def commands(
    command: click.Command = program, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Return the path of each command with its help, the program itself first."""
    name = "uwsgi-tasks" if parent is None else command.name
    context = click.Context(
        command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH, auto_envvar_prefix=""
    )
    context.help_option_names = ["-h", "--help"]
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from commands(found, context)


def generated() -> str:
    """Return the part of the page that follows from the commands."""
    parts = [f"## {path}\n\n```text\n{text}\n```\n" for path, text in commands()]
    return "\n".join(parts)


def page() -> str:
    """Return the page as it should be."""
    head = PAGE.read_text(encoding="utf-8").partition(MARKER)[0]
    return f"{head}{MARKER}\n{generated()}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
