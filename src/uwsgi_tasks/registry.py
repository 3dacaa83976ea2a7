"""The registered tasks by name. Only what stands here runs."""

from __future__ import annotations

from . import paths
from .errors import UnknownTask
from .model import TaskSpec


class Registry:
    """Tasks by name; decorators add to it, the runner asks it."""

    def __init__(self) -> None:
        self.specs: dict[str, TaskSpec] = {}

    def add(self, spec: TaskSpec) -> None:
        """Register a task, or replace the one of that name."""
        self.specs[spec.name] = spec

    def resolve(self, name: str) -> TaskSpec:
        """Return the task of a name; its module is imported if it wasn't.

        Raises:
            UnknownTask: It isn't registered, and no module of that name can be found.
            Exception: Whatever importing its module raised.
        """
        spec = self.specs.get(name)
        if spec is not None:
            return spec
        try:
            paths.import_module_of(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
        spec = self.specs.get(name)
        if spec is None:
            raise UnknownTask(f"There is no task {name!r}: is its module gone, or not on the path?")
        return spec
