"""The web application of the demo: plain WSGI.

`GET /` is the page, with its script and style; `GET /state` tells it as JSON what was called and
what ran; `POST /stories/NAME` plays a story, and other posts are the page's other buttons.
"""

from __future__ import annotations

import email
import email.policy
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import ledger
import tasks
import timers
import uwsgi
from ledger import STATE, call

from uwsgi_tasks import control, dead, set_uwsgi_callbacks

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(name)s: %(message)s")
set_uwsgi_callbacks()

HERE = Path(__file__).parent
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
ROWS_SHOWN = 200
CRON_RUNNING = STATE / "cron-running"

Answer = tuple[str, str, bytes]
Form = dict[str, str]


# --- stories -----------------------------------------------------------------------------------


def welcome(form: Form) -> Any:
    """Call a task that sends an e-mail."""
    name = " ".join(form.get("name", "").split())[:60] or "Ada Lovelace"
    mailbox = re.sub(r"[^a-z0-9]+", ".", name.lower()).strip(".") or "customer"
    return call("welcome", tasks.send_welcome_email, name, f"{mailbox}@example.com")


def purchase(form: Form) -> Any:
    """Call a task that fails twice."""
    return call("purchase", tasks.process_purchase, new_number("A"))


def cleanup(form: Form) -> Any:
    """Make a folder of files, and call a task that removes them one by one."""
    folder = STATE / "uploads" / new_number("batch-")
    folder.mkdir(parents=True)
    for name in ("a-receipt.txt", "b-photo.jpg", "d-notes.txt"):
        (folder / name).write_text(f"{name}\n")
    (folder / "c-folder").mkdir()  # `os.remove` refuses it: what the task does with errors
    due = time.time() + tasks.NEXT_FILE.total_seconds()
    return call("cleanup", tasks.remove_files_sequentially, str(folder), due=due)


def later(form: Form) -> Any:
    """Call a task that waits for three seconds."""
    due = time.time() + tasks.BELL_DELAY.total_seconds()
    return call("later", tasks.ring_the_bell, due=due)


def broken(form: Form) -> Any:
    """Call a task that fails until its service is repaired."""
    return call("broken", tasks.report_sale, new_number("S"))


def timer(form: Form) -> Any:
    """Start a timer, or start it anew."""
    timers.check_stock()


def cron(form: Form) -> Any:
    """Start a cron."""
    timers.close_the_minute()
    CRON_RUNNING.touch()


def mule(form: Form) -> Any:
    """Call a task that a mule runs."""
    return call("mule", tasks.fingerprint_catalogue)


def burst(form: Form) -> None:
    """Call ten tasks, the most urgent last."""
    for number in range(10, 0, -1):
        call("burst", tasks.pack_parcel.options(priority=number), number)


def export(form: Form) -> Any:
    """Call a task that takes a while."""
    try:
        seconds = min(max(float(form.get("seconds", "8")), 0.1), 60.0)
    except ValueError:
        seconds = 8.0
    return call("export", tasks.export_orders, f"{new_number('orders-')}.txt", seconds)


STORIES: dict[str, Callable[[Form], Any]] = {
    story.__name__: story
    for story in (welcome, purchase, cleanup, later, broken, timer, cron, mule, burst, export)
}


def new_number(prefix: str) -> str:
    """Return a short number that is new."""
    return f"{prefix}{time.time_ns() // 1_000_000 % 10_000_000:07d}"


# --- the other buttons -------------------------------------------------------------------------


def repair() -> None:
    """Repair the service that one of the stories needs."""
    tasks.REPAIRED.touch()


def break_again() -> None:
    """Break it again."""
    tasks.REPAIRED.unlink(missing_ok=True)


def stop_cron() -> None:
    """Stop the cron."""
    timers.close_the_minute.stop()
    CRON_RUNNING.unlink(missing_ok=True)


BUTTONS: dict[str, Callable[[], None]] = {
    "/service/repair": repair,
    "/service/break": break_again,
    "/cron/stop": stop_cron,
}


def retry(ident: str) -> None:
    """Run a dead task again."""
    name, moment = dead.show(ident).task.rpartition(".")[2], time.time()
    story = next((run["story"] for run in ledger.runs() if run["id"] == ident), "")
    dead.retry(ident)
    ledger.write(
        "called", called=moment, story=story, task=name, id=ident, executor="spooler", due=None
    )


# --- what the page shows -----------------------------------------------------------------------


def state() -> dict[str, Any]:
    """Return all that the page shows."""
    return {
        "now": time.time(),
        "runs": ledger.runs()[-ROWS_SHOWN:],
        "dead": [letter_as_json(letter) for letter in dead.list()],
        "mail": mail(),
        "repaired": tasks.REPAIRED.exists(),
        "cron": CRON_RUNNING.exists(),
        "server": {
            "master": uwsgi.masterpid(),
            "spoolers": [pid for pid in uwsgi.spooler_pids() if pid],
            "workers": [worker["pid"] for worker in uwsgi.workers() or ()],
            "busy": control.busy(),
            "paused": control.paused(),
            "files": sum(
                name.startswith("uwsgi_spoolfile_on_") for name in os.listdir(STATE / "spool")
            ),
            "folder": str(STATE),
        },
    }


def letter_as_json(letter: Any) -> dict[str, Any]:
    """Return what the page shows of a dead task."""
    return {
        "id": letter.id,
        "task": letter.task.rpartition(".")[2],
        "reason": letter.reason,
        "error": letter.error,
        "traceback": letter.traceback,
        "attempts": len(letter.attempts),
        "dead_at": letter.dead_at,
    }


def mail() -> list[dict[str, str]]:
    """Return the e-mails that came in, the newest first."""
    found = []
    for path in sorted((STATE / "mailbox").glob("[0-9]*.eml"), reverse=True)[:50]:
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        found.append(
            {
                "file": path.name,
                "from": str(message["From"]),
                "to": str(message["To"]),
                "subject": str(message["Subject"]),
                "text": message.get_content(),
            }
        )
    return found


# --- WSGI --------------------------------------------------------------------------------------


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request."""
    body = environ["wsgi.input"].read(min(int(environ.get("CONTENT_LENGTH") or 0), 10_000))
    status, kind, content = answer(environ, body.decode("utf-8", "replace"))
    length = [("Content-Type", kind), ("Content-Length", str(len(content)))]
    start_response(status, [*length, *HEADERS])
    return [content]


def answer(environ: dict[str, Any], body: str) -> Answer:
    """Choose what to answer with."""
    method, path = environ["REQUEST_METHOD"], unquote(environ.get("PATH_INFO", "/"))
    if not is_from_this_machine(environ):
        return as_json("403 Forbidden", {"error": "only the demo's own page may ask this"})
    if method == "GET" and path in FILES:
        name, kind = FILES[path]
        return "200 OK", kind, (HERE / name).read_bytes()
    if method == "GET" and path == "/state":
        return as_json("200 OK", state())
    if method == "POST":
        return press(path, {key: values[0] for key, values in parse_qs(body).items()})
    return as_json("404 Not Found", {"error": f"there is no {path}"})


def press(path: str, form: Form) -> Answer:
    """Do what a button asks for."""
    name = path.removeprefix("/stories/")
    ident = path.removeprefix("/dead/").removesuffix("/retry")
    if name in STORIES:
        STORIES[name](form)
    elif path in BUTTONS:
        BUTTONS[path]()
    elif ident in {letter.id for letter in dead.list()}:
        retry(ident)
    else:
        return as_json("404 Not Found", {"error": f"there is no {path}"})
    return as_json("202 Accepted", {})


def is_from_this_machine(environ: dict[str, Any]) -> bool:
    """Refuse other web sites: their names for us, and what they make a browser send."""
    host = environ.get("HTTP_HOST", "").rpartition(":")[0]
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    return host in ("127.0.0.1", "localhost") and site in ("same-origin", "none")


def as_json(status: str, value: Any) -> Answer:
    """Return an answer in JSON."""
    return status, "application/json", json.dumps(value).encode()
