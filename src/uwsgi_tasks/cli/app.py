"""The program: its global options, its commands, and how it ends."""

from __future__ import annotations

import logging
import sys

import click

from ..errors import UwsgiTasksError
from .base import FOUND, OK, USAGE, Failure, Group, Where, problem_of

_COMMANDS = {
    "looking": ("status", "list", "show"),
    "live": ("watch", "top"),
    "acting": ("call", "retry", "cancel", "purge", "pause", "resume", "drain", "reload"),
    "deads": ("dead",),
    "scheduling": ("schedules",),
    "carrying": ("export", "import"),
    "debugging": ("run",),
    "projects": ("init", "completion"),
    "checking": ("check",),
    "working": ("worker",),
}
"""Module of each command: only that of the one that runs is imported."""


class Program(Group):
    """The commands, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return [name for names in _COMMANDS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or ``None``."""
        import importlib

        for module, names in _COMMANDS.items():
            if cmd_name in names:
                found = importlib.import_module(f"{__package__}.{module}")
                command: click.Command = getattr(found, f"{cmd_name}_command")
                return command
        return None


@click.group(
    "uwsgi-tasks",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=(
        "status",
        "list --state dead",
        "call shop.tasks.send_mail --args '[\"ada@example.com\"]' --wait",
        "--home /srv/app/spool/.uwsgi_tasks top",
    ),
)
@click.option(
    "--home",
    metavar="PATH",
    default="",
    help="The home of the server, or the spool directory that it lies in.  [env: UWSGITASKS_HOME;"
    " default: that of the ini file, or .uwsgi-tasks here]",
)
@click.option(
    "--ini", metavar="FILE", default="", help="The server's ini file.  [default: uwsgi.ini here]"
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what was asked for, and errors.")
@click.option("-v", "--verbose", count=True, help="Log what the library does; -vv: all of it.")
@click.version_option(None, "--version", package_name="uwsgi-tasks", prog_name="uwsgi-tasks")
@click.pass_context
def program(ctx: click.Context, home: str, ini: str, quiet: bool, verbose: int) -> None:
    """See and steer the background tasks of a uWSGI server.

    It works on the server's home, from any process that reaches it, also when the server is down.
    Exit codes: 0 all is well, 1 problems were found, 2 the command line is wrong, 3 there is no
    home.
    """
    logging.basicConfig(
        format="%(levelname)s %(name)s: %(message)s",
        level=[logging.ERROR if quiet else logging.WARNING, logging.INFO, logging.DEBUG][
            min(verbose, 2)
        ],
    )
    ctx.obj = where = Where(home, ini, quiet, verbose)
    if ctx.invoked_subcommand not in ("init", "completion", "worker", "check"):
        where.configure()


def main(arguments: list[str] | None = None) -> int:
    """Run the program, and return its exit code.

    Args:
        arguments: The command line; by default that of the process.
    """
    try:
        code = program.main(arguments, prog_name="uwsgi-tasks", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except click.ClickException as error:
        return _tell(*_usage(error))
    except Failure as error:
        return _tell(str(error), error.remedy, error.code)
    except (UwsgiTasksError, KeyError) as error:
        sentence, code = problem_of(error)
        return _tell(sentence, "", code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:  # its reader has seen enough
        sys.stderr.close()
        return FOUND


def _usage(error: click.ClickException) -> tuple[str, str, int]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "uwsgi-tasks"
    return error.format_message().rstrip("."), f"{path} --help", USAGE


def _tell(sentence: str, remedy: str, code: int) -> int:
    end = "" if sentence.endswith((".", "?", "…")) else "."
    click.echo(f"Error: {sentence}{end}" + (f" Try: {remedy}" if remedy else ""), err=True)
    return code
