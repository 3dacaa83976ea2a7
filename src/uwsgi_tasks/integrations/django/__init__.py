"""Django: ready in spoolers and mules."""

from __future__ import annotations

import os


def django_setup(settings_module: str | None = None) -> None:
    """Leave Django's applications ready, whatever was touched before.

    Args:
        settings_module: Dotted path of the settings; default: ``DJANGO_SETTINGS_MODULE``.

    Raises:
        ImportError: Django isn't installed, or the settings can't be imported.
    """
    if settings_module is not None:
        os.environ["DJANGO_SETTINGS_MODULE"] = settings_module
    import django
    from django.apps import apps

    populating = getattr(apps, "loading", False)  # an app that is being loaded calls us
    if not apps.ready and not populating:
        django.setup()


def is_configured() -> bool:
    """Tell whether the environment names a Django project."""
    return bool(os.environ.get("DJANGO_SETTINGS_MODULE"))


def import_tasks() -> None:
    """Import the module ``tasks`` of each application that has one, for its tasks and schedules.

    Raises:
        Exception: Whatever importing one of them raises.
    """
    from django.utils.module_loading import autodiscover_modules

    autodiscover_modules("tasks")
