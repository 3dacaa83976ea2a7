"""Names of functions: how a task is named, and how its module is found again."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


def name_of(function: Callable[..., Any]) -> str:
    """Return the dotted name under which a function can be found again.

    Example:
        >>> from os.path import join
        >>> name_of(join).endswith("path.join")
        True
    """
    module = function.__module__
    if module == "__main__":
        module = _name_of_main() or module
    return f"{module}.{function.__qualname__}"


def _name_of_main() -> str | None:
    """Return the name under which another process imports the module that was run."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    stem, ending = os.path.splitext(os.path.basename(getattr(main, "__file__", None) or ""))
    return stem if ending == ".py" and stem.isidentifier() else None


def module_of(name: str) -> str:
    """Return the module's part of a task's name: all but the last word."""
    return name.rpartition(".")[0]


def package_of(name: str) -> str:
    """Return the first word of a task's name."""
    return name.partition(".")[0]


def is_application_package(package: str) -> bool:
    """Tell whether a package was imported here that doesn't belong to Python itself."""
    return package in sys.modules and package not in sys.stdlib_module_names


def why_unreachable(function: Callable[..., Any]) -> str | None:
    """Return why another process couldn't find the function by its name, or ``None``."""
    qualname = getattr(function, "__qualname__", None)
    if qualname is None or getattr(function, "__module__", None) is None:
        return "it has no name of its own"
    if "<lambda>" in qualname:
        return "it is a lambda"
    if "<locals>" in qualname:
        return "it is defined inside another function"
    return None


def import_module_of(name: str) -> None:
    """Import the module that a task's name points into, walking up over class names.

    Raises:
        ImportError: No part of the name is a module, or importing it failed.
    """
    path = module_of(name)
    while path:
        if path in sys.modules:
            return
        try:
            importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name is None or not _is_parent(error.name, path):
                raise
        else:
            return
        path = module_of(path)
    raise ModuleNotFoundError(f"No module for the task {name!r}", name=module_of(name))


def is_findable(module: str) -> bool:
    """Tell whether a module could be imported; nothing is imported for that.

    A module that has no name that others know (``wsgi-file``, ``__main__``) counts as findable.
    """
    if module.startswith(("uwsgi_file_", "__main__")) or module in sys.modules:
        return True
    path: Any = None
    name = ""
    for word in module.split("."):
        name = f"{name}.{word}" if name else word
        spec = _spec_of(name, path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return True


def _spec_of(name: str, path: Any) -> Any:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, path)
        if spec is not None:
            return spec
    return None


def _is_parent(missing: str, path: str) -> bool:
    """Tell whether the missing module is the one asked for, not one that it imports."""
    return path == missing or path.startswith(missing + ".")
