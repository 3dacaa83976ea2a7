"""Pages that start tasks and don't wait for them."""

from __future__ import annotations

from flask import Blueprint, request

from . import tasks

blueprint = Blueprint("shop", __name__)


@blueprint.post("/welcome")
def welcome() -> dict[str, str]:
    """Send a welcome letter in the background."""
    handle = tasks.send_email_async("Welcome", request.form["name"], request.form["email"])
    return {"id": handle.id, "executor": handle.executor.name}


@blueprint.post("/purchase/<int:order_id>")
def purchase(order_id: int) -> dict[str, str]:
    """Process a purchase in the background."""
    return {"id": tasks.process_purchase(order_id).id}


@blueprint.post("/remind")
def remind() -> dict[str, bool]:
    """Start the timer."""
    tasks.remind()
    return {"started": True}
