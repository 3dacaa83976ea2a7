"""The import path that release 0.7.3 had for ``django_setup``."""

from .integrations.django import django_setup

__all__ = ["django_setup"]
