"""The shop's tasks: the stories of the README, on real input.

Each is an ordinary function with `@task` above it. `@recorded` is the demo's own: it writes each
run into the diary that the page shows. `@wraps`, inside it, is what lets the spooler find the
function by its name.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import smtplib
import time
from email.message import EmailMessage
from pathlib import Path

from ledger import STATE, call, recorded

from uwsgi_tasks import RetryTaskException, TaskExecutor, get_current_task, task

BELL_DELAY = datetime.timedelta(seconds=3)
NEXT_FILE = datetime.timedelta(seconds=0.3)
SECOND_TRY = datetime.timedelta(seconds=1)

REPAIRED = STATE / "service-repaired"
PAYMENTS = STATE / "payments"
EXPORTS = STATE / "exports"


@task(executor=TaskExecutor.SPOOLER)
@recorded("welcome")
def send_welcome_email(name: str, address: str) -> str:
    """Send an e-mail over SMTP."""
    mail = EmailMessage()
    mail["From"] = "shop@example.com"
    mail["To"] = address
    mail["Subject"] = f"Welcome, {name}!"
    mail.set_content(f"Dear {name},\n\nthank you for joining us.\n\nThe shop")
    host, _, port = os.environ["DEMO_SMTP"].rpartition(":")
    with smtplib.SMTP(host, int(port), timeout=10) as server:
        server.send_message(mail)
    return f"sent to {address}"


@task(executor=TaskExecutor.SPOOLER, retry_count=3, retry_timeout=1)
@recorded("purchase")
def process_purchase(order_id: str) -> str:
    """Charge an order; the payment service answers at the third attempt only."""
    try:
        return charge(order_id)
    except ConnectionError as error:
        raise RetryTaskException from error


def charge(order_id: str) -> str:
    """Stand in for a payment service that is down for two calls per order."""
    attempt = get_current_task().attempt
    if attempt < 3:
        raise ConnectionError(f"no answer from the payment service (attempt {attempt})")
    PAYMENTS.mkdir(exist_ok=True)
    (PAYMENTS / order_id).write_text("paid\n")
    return f"order {order_id} is paid"


@task(executor=TaskExecutor.SPOOLER, at=NEXT_FILE)
@recorded("cleanup")
def remove_files_sequentially(folder: str, previous: str = "") -> str:
    """Remove the files of a folder, one per run, and carry the results along in `buffer`."""
    current_task = get_current_task()
    results = current_task.buffer.setdefault("results", {})
    errors = current_task.buffer.setdefault("errors", {})

    selected = next((name for name in sorted(os.listdir(folder)) if name > previous), None)
    if selected is None:
        return f"done: {len(results)} removed, {len(errors)} kept ({', '.join(errors)})"
    try:
        os.remove(os.path.join(folder, selected))
    except OSError as error:
        if selected not in errors:  # one more try, a little later
            errors[selected] = str(error)
            current_task.at = SECOND_TRY
            call("cleanup", current_task, folder, previous)
            return f"{selected} can't be removed, once more in a second"
    else:
        errors.pop(selected, None)
        results[selected] = datetime.datetime.now()
    call("cleanup", current_task, folder, selected)
    return f"kept {selected}" if selected in errors else f"removed {selected}"


@task(executor=TaskExecutor.SPOOLER, at=BELL_DELAY)
@recorded("later")
def ring_the_bell() -> str:
    """Run three seconds after the call."""
    return "ding"


@task(executor=TaskExecutor.SPOOLER, retry_count=2, retry_timeout=0.5)
@recorded("broken")
def report_sale(order_id: str) -> str:
    """Report a sale to a service that is out of order until somebody repairs it."""
    if not REPAIRED.exists():
        raise ConnectionRefusedError("the accounting service is out of order")
    return f"reported sale {order_id}"


@task(executor=TaskExecutor.MULE)
@recorded("mule")
def fingerprint_catalogue() -> str:
    """Hash the shop's files in a mule: quick, and nothing is written to disk for it."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return f"sha256 {digest.hexdigest()[:12]}"


@task(executor=TaskExecutor.SPOOLER)
@recorded("burst")
def pack_parcel(number: int) -> str:
    """Pack a parcel; the most urgent ones come first."""
    time.sleep(0.1)
    return f"parcel of priority {number}"


@task(executor=TaskExecutor.SPOOLER)
@recorded("export")
def export_orders(name: str, seconds: float) -> str:
    """Write a file line by line: long enough to press Ctrl-C and see that it is not cut off."""
    EXPORTS.mkdir(exist_ok=True)
    lines = 20
    with open(EXPORTS / name, "w", encoding="utf-8") as file:
        for number in range(1, lines + 1):
            time.sleep(seconds / lines)
            file.write(f"order {number}\n")
            file.flush()
    return f"all {lines} lines written to exports/{name}"
