"""The command line: ``uwsgi-tasks``, also ``python -m uwsgi_tasks``.

The only package that imports click. Each module holds a group of commands; what they show comes
from ``observe``, what they do from the library's own functions.
"""

from __future__ import annotations

from .app import main

__all__ = ["main"]
