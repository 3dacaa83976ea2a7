"""The application; importing the package has named the settings."""

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
