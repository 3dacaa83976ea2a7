"""The tables of the reference name what is there, and the pages link to what is there."""

from __future__ import annotations

import ast
import inspect
import re

import pytest

import uwsgi_tasks
from uwsgi_tasks import config, errors, options

from .pages import PAGES, ROOT, name_of

SETTINGS = (ROOT / "docs/reference/settings.md").read_text()
OPTIONS = (ROOT / "docs/reference/options.md").read_text()
ERRORS = (ROOT / "docs/reference/errors.md").read_text()
API = (ROOT / "docs/reference/api.md").read_text()
README = (ROOT / "README.md").read_text()
UPGRADING = (ROOT / "UPGRADING.md").read_text()
_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)")


def first_column(page: str) -> list[str]:
    """Return the code words in the first column of a page's tables."""
    rows = re.findall(r"^\|([^|]*)\|", page, re.M)
    return [word for row in rows for word in re.findall(r"`(\w+)`", row)]


def test_given_the_settings_when_read_then_each_has_a_row_with_its_three_names():
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `([\w-]+)=` \|", SETTINGS, re.M)
    wanted = [
        (name, config.ENV_PREFIX + name.upper(), "tasks-" + name.replace("_", "-"))
        for name in config.Settings._fields
    ]
    assert rows == wanted


@pytest.mark.parametrize("name", config.Settings._fields)
def test_given_a_setting_when_looked_for_then_it_is_explained_below_the_table(name):
    assert re.search(rf"^`{name}`\n: ", SETTINGS, re.M)


@pytest.mark.parametrize("name", options.Options._fields)
def test_given_an_option_when_looked_for_then_the_reference_explains_it(name):
    assert re.search(rf"^(`\w+`, )*`{name}`(, `\w+`)*\n: ", OPTIONS, re.M)


def test_given_the_options_when_read_then_the_readme_has_exactly_them():
    table = README.split("### Options")[1].split("### Retries")[0]
    assert sorted(first_column(table)) == sorted(options.Options._fields)


@pytest.mark.parametrize("name", sorted(options.NOT_PER_CALL))
def test_given_an_option_of_the_decorator_alone_when_looked_for_then_the_reference_says_so(name):
    text = re.search(rf"^(?:`\w+`, )*`{name}`(?:, `\w+`)*\n: (.*?)\n\n", OPTIONS, re.M | re.S)
    assert text
    assert "Only in the decorator" in " ".join(text[1].split())


def test_given_the_errors_when_read_then_the_table_has_exactly_them():
    roots = {"UwsgiTasksError", "RetryTaskException"}
    wanted = {name for name in errors.__all__ if name not in roots}
    assert {word for word in first_column(ERRORS) if word[0].isupper()} == wanted


def test_given_an_error_when_its_row_is_read_then_it_is_of_the_kind_that_the_row_tells():
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", ERRORS, re.M)
    kinds = {name: [kind.__name__ for kind in getattr(errors, name).__mro__] for name, _ in rows}
    assert [row for row in rows if row[1] not in kinds[row[0]]] == []


def test_given_the_public_functions_when_looked_for_then_the_reference_has_them():
    public = [n for n in uwsgi_tasks.__all__ if inspect.isfunction(getattr(uwsgi_tasks, n))]
    aliases = {"pause", "resume"}  # of uwsgi_tasks.control
    assert [name for name in public if name not in API and name not in aliases] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_given_a_page_when_its_links_are_followed_then_files_and_headings_are_there(page):
    broken = []
    for target, anchor in _LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.S)):
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(f"{target}#{anchor}")
    assert broken == []


def anchors(text: str) -> set[str]:
    """Return the anchors of a page, as the usual renderers make them from headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_given_a_page_when_its_images_are_looked_for_then_they_are_there(page):
    images = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text())
    assert [image for image in images if not (page.parent / image).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_given_a_page_when_its_tables_are_read_then_each_row_has_the_columns_of_its_head(page):
    wrong, columns = [], 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        cells = line.count("|") - line.count("\\|")
        columns = (columns or cells) if line.startswith("|") else 0
        if columns and cells != columns:
            wrong.append(number)
    assert wrong == []


def texts_of_the_library() -> str:
    """Return every text in the library's source, placeholders as in the pages: …"""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(getattr(part, "value", "…") or "…" for part in _parts(node)))
    return re.sub(r"%[.\d]*[sdrgf]", "…", "\n".join(found)).replace("`", "")


def _parts(node: ast.JoinedStr) -> list[ast.Constant]:
    return [p if isinstance(p, ast.Constant) else ast.Constant("…") for p in node.values]


TROUBLES = (ROOT / "docs/troubleshooting.md").read_text()
MESSAGES = re.findall(r"^`(.*)`\n: ", TROUBLES, re.M)


@pytest.mark.parametrize("message", MESSAGES)
def test_given_a_message_of_the_troubleshooting_when_looked_for_then_the_library_says_it(message):
    texts = texts_of_the_library()
    spoken = re.sub(r"^\w+: ", "", message)  # without the name of the error
    fragments = re.split(r"[ ,']*\(?…[^\w]*(?:but )?", spoken)
    assert [part for part in fragments if len(part) > 7 and part not in texts] == []


LETTERS = (ROOT / "docs/how-to/dead-letters.md").read_text()
REASONS = re.findall(
    r"`([^`]*)`", "".join(re.findall(r"^\| (`.*?) \|.*\| (?:yes|no) \|$", LETTERS, re.M))
)


@pytest.mark.parametrize("reason", REASONS)
def test_given_a_reason_of_a_dead_letter_when_looked_for_then_the_library_gives_it(reason):
    texts = texts_of_the_library()
    assert [part for part in reason.split("…") if part.strip() and part not in texts] == []
