"""What happens in the background: plain functions with a decorator."""

from __future__ import annotations

from functools import cache

from flask import Flask, current_app, render_template_string

from uwsgi_tasks import RetryTaskException, TaskExecutor, get_current_task, task, timer_lazy


@cache
def background_app() -> Flask:
    """Make the application once in each process that runs tasks."""
    from . import create_app

    return create_app()


@task(executor=TaskExecutor.SPOOLER)
def send_email_async(subject: str, name: str, email_to: str) -> None:
    """Write a letter; the task needs an application context, as code outside a request does."""
    with background_app().app_context():
        body = render_template_string("Dear {{ name }}, thank you!", name=name)
        deliver(f"{email_to}: {subject}: {body}")


@task(executor=TaskExecutor.SPOOLER, retry_count=3)
def process_purchase(order_id: int) -> None:
    """Fail twice, as a payment service on a bad day does, and then succeed."""
    current = get_current_task()
    if current.attempt < 3:
        raise RetryTaskException(timeout=0.2)
    with background_app().app_context():
        deliver(f"order {order_id} done at attempt {current.attempt}")


@timer_lazy(seconds=0.5, iterations=2)
def remind() -> None:
    """Run twice after a request asked for it."""
    with background_app().app_context():
        deliver("reminder")


def deliver(line: str) -> None:
    """Append a line to the outbox, which stands for a mail server here."""
    with open(current_app.config["OUTBOX"], "a") as outbox:
        outbox.write(line + "\n")
