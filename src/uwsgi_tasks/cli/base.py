"""What all commands share: their help, suggestions, errors, and the home that they work on."""

from __future__ import annotations

import os
import re
from typing import Any, NoReturn

import click

from .. import config, engine, record
from ..check import gather
from ..check.ini import Options, read
from ..errors import ConfigError
from ..home import NAME
from ..worker.ini import DEFAULT_HOME

OK, FOUND, USAGE, NO_HOME = 0, 1, 2, 3


class Failure(Exception):
    """A command can't do what it was asked for.

    Args:
        sentence: What, and why.
        remedy: What to try.
        code: The exit code.
    """

    def __init__(self, sentence: str, remedy: str = "", code: int = FOUND) -> None:
        super().__init__(sentence)
        self.remedy = remedy
        self.code = code


def fail(sentence: str, remedy: str = "", code: int = FOUND) -> NoReturn:
    """End the command with an error.

    Raises:
        Failure: Always.
    """
    raise Failure(sentence, remedy, code)


class Command(click.Command):
    """A command whose help ends with examples and what to see also.

    Args:
        examples: Command lines, without the program's name; a comment may follow ``  # ``.
        see_also: Names of other commands.
    """

    def __init__(
        self, *args: Any, examples: tuple[str, ...] = (), see_also: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.see_also = see_also

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return what stands before the first colon or full stop of the help."""
        return re.split(r"[:;]|\.(?=\s|$)", self.help or "", maxsplit=1)[0]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, and what to see also."""
        program = ctx.find_root().info_name
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}{program} {line}\n")
        if self.see_also:
            with formatter.section("See also"):
                names = ", ".join(f"{program} {name}" for name in self.see_also.split(", "))
                formatter.write_text(names)


class Group(Command, click.Group):
    """A group of commands that knows what was meant."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name.

        Raises:
            click.UsageError: There is none; the error names the nearest one.
        """
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = config.suggest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


Group.group_class = Group


class Where:
    """What the global options say: which home, how much to tell.

    Args:
        home: ``--home``.
        ini: ``--ini``.
        quiet: ``-q``.
        verbose: How often ``-v`` was given.
    """

    def __init__(
        self, home: str = "", ini: str = "", quiet: bool = False, verbose: int = 0
    ) -> None:
        self.asked = home
        self.ini = ini or ("uwsgi.ini" if os.path.isfile("uwsgi.ini") else "")
        self.is_ini_asked = bool(ini)
        self.quiet = quiet
        self.verbose = verbose
        self._options: Options | None = None
        self._home = ""

    def options(self) -> Options:
        """Return the options of the ini file; none without one."""
        if self._options is None:
            try:
                self._options = read(self.ini, config.variable) if self.ini else Options([])
            except OSError as error:
                fail(
                    f"{self.ini} can't be read: {error.strerror}",
                    "name the file with --ini FILE",
                    USAGE,
                )
        return self._options

    def configure(self) -> None:
        """Let the library use the home that was asked for; it needn't be there.

        Precedence: ``--home``, then the environment, then the ini file, then what a worker made
        here.
        """
        settings: dict[str, Any] = {}
        options, prefix = self.options(), config.PLACEHOLDER_PREFIX
        for name in config.Settings._fields:
            text = options.placeholder(prefix + name.replace("_", "-"))
            if text is not None and config.variable(config.ENV_PREFIX + name.upper()) is None:
                settings[name] = text
        home, spooler = (config.variable(config.ENV_PREFIX + word) for word in ("HOME", "SPOOLER"))
        if self.asked:
            home = settings["home"] = record.home_at(os.path.abspath(self.asked))
        if home and not spooler:
            settings.update(_spool_around(home))
        elif not spooler and not {"home", "spooler"} & settings.keys():
            spools = gather.spools_of(options)
            if spools:
                settings["spooler"] = spools[0]
            elif os.path.isdir(DEFAULT_HOME):
                settings["home"] = os.path.abspath(DEFAULT_HOME)
        engine.configure(**settings)

    def home_path(self) -> str:
        """Return the path of the home in use, empty where nothing names one."""
        settings = engine.current().settings
        if settings.home:
            return record.home_at(settings.home)
        return os.path.join(settings.spooler, NAME) if settings.spooler else ""

    def home(self, *, make: bool = False) -> str:
        """Return the path of the home, which has to be there.

        Args:
            make: Make one in the spool directory, where that is what is named.

        Raises:
            Failure: There is none.
        """
        path = self.home_path()
        if make and path and os.path.isdir(os.path.dirname(path)):
            engine.current().require_site()
        if not path:
            fail(
                "no home is known here: there is neither --home, UWSGITASKS_HOME, a uwsgi.ini with"
                " a spooler, nor .uwsgi-tasks",
                "uwsgi-tasks --home PATH …, with the directory .uwsgi_tasks in the server's spool",
                NO_HOME,
            )
        if not os.path.exists(os.path.join(path, "fingerprint")):
            fail(
                f"there is no home at {path}: no server has made it yet",
                "start the server once, or name another place with --home",
                NO_HOME,
            )
        return path

    def record(self) -> record.Record | None:
        """Return what the server wrote down of itself, if it did."""
        return record.read(self.home())

    def is_up(self) -> bool:
        """Tell whether a server serves the home now."""
        return record.is_up(self.home())


def _spool_around(home: str) -> dict[str, str]:
    """Return the spool directory in which a home lies whose server hasn't told where tasks go."""
    folder, name = os.path.split(os.path.abspath(home))
    is_told = os.path.exists(os.path.join(home, record.NAME))
    return {"spooler": folder} if name == NAME and not is_told else {}


pass_where = click.make_pass_decorator(Where)


def problem_of(error: Exception) -> tuple[str, int]:
    """Return what an error of the library says, and the exit code for it."""
    code = USAGE if isinstance(error, ConfigError) else FOUND
    return str(error.args[0] if isinstance(error, KeyError) else error), code
