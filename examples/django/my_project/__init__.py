"""The project: uWSGI's callbacks, and Django made ready wherever this package is imported."""

import os

from uwsgi_tasks import django_setup, set_uwsgi_callbacks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "my_project.settings")
set_uwsgi_callbacks()
django_setup()
