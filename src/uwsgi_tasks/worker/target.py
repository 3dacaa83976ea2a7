"""What uWSGI imports in the worker's master, before it forks: it imports what is to run."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import sys
import traceback
from typing import Any

from .. import engine
from ..integrations import django
from .ini import PLACEHOLDER

_FORMAT = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"


def load(told: dict[str, Any]) -> None:
    """Import the targets.

    Args:
        told: What the parent wrote into the configuration; see ``ini.text_of``.

    Raises:
        Exception: Whatever importing them raises.
    """
    sys.path.insert(0, told["directory"])
    if django.is_configured():
        django.django_setup()
        if not told["targets"]:
            django.import_tasks()
    for target in told["targets"]:
        _import(target)
    _set_logging_up(told["level"])
    _check_home(told["home"])


def _import(target: str) -> None:
    """Import a module; a plain function behind a colon is called, as an application factory is."""
    if target.endswith(".py"):
        folder, name = os.path.split(target)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        importlib.import_module(name.removesuffix(".py"))
        return
    name, _, attribute = target.partition(":")
    module = importlib.import_module(name)
    if attribute:
        found = getattr(module, attribute)
        if inspect.isfunction(found):
            found()


def _set_logging_up(level: str) -> None:
    """Log on stderr, unless the application has set logging up itself."""
    if not logging.getLogger().handlers:
        logging.basicConfig(format=_FORMAT, datefmt="%H:%M:%S")
        logging.getLogger("uwsgi_tasks").setLevel(level)


def _check_home(expected: str) -> None:
    found = engine.current().settings.home
    if not found or os.path.realpath(found) != expected:
        raise SystemExit(
            f"The application sets the home {found}, the worker was started with {expected}:"
            f" start it with that one"
        )


def _load_or_end() -> None:
    """End the whole worker where loading fails: uWSGI would go on without the tasks."""
    loaded = False
    try:
        load(json.loads(engine.current().server.option(PLACEHOLDER) or "{}"))
        loaded = True
    finally:
        if not loaded:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)


if engine.current().server.inside:
    _load_or_end()
