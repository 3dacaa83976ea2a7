"""What a page takes for granted: the project around its files."""

from __future__ import annotations

DJANGO = {
    "mysite/settings.py": """
import os
BASE = os.path.dirname(os.path.abspath(__file__))
SECRET_KEY = "only for this test"
ROOT_URLCONF = "mysite.urls"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["shop.apps.ShopConfig", "django.contrib.contenttypes", "django.contrib.sessions"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE + "/db.sqlite3"}}
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
""",
    "mysite/urls.py": """
from django.urls import path
from shop import views
urlpatterns = [path("", views.register)]
""",
    "mysite/wsgi.py": """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
""",
    "shop/__init__.py": "",
}
FRAMES = {"docs/how-to/django.md": DJANGO}
