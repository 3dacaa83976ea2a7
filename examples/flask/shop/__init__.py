"""A Flask application made by a factory, with its tasks in a module of their own."""

from __future__ import annotations

import os

from flask import Flask


def create_app() -> Flask:
    """Make the application; tasks make one of their own, see ``tasks.py``."""
    app = Flask(__name__)
    app.config["OUTBOX"] = os.environ.get("SHOP_OUTBOX", os.path.join(app.root_path, "outbox.txt"))

    from . import views

    app.register_blueprint(views.blueprint)
    return app
