"""``python -m uwsgi_tasks``: the command line."""

import sys

from .cli import main

sys.exit(main())
