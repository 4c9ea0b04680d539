"""What the browser tests share: Chromium through Playwright, visits to pages, the book, axe-core."""

import shutil
import threading
from pathlib import Path

import pytest
from visits import FLAGS, HOW, Visit, tool


@pytest.fixture(scope="module")
def browser():
    """Chromium: Debian's, another one on the path, or Playwright's own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason=HOW)
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip(HOW)
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Return a function that opens a page and returns it as a `Visit`; all are closed at the test's end."""
    opened = []

    def open_page(url, **options):
        opened.append(Visit(browser, **options))
        opened[-1].page.goto(url)
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


@pytest.fixture(scope="module")
def axe_or_none(browser):
    """axe-core's text, from the cache of `make book` or fetched by npm; None where neither is to be had."""
    try:
        with tool.tarfile.open(tool.npm_package("axe-core")) as archive:
            return archive.extractfile("package/axe.min.js").read().decode("utf-8")
    except tool.Trouble:
        return None


@pytest.fixture
def axe(axe_or_none):
    """axe-core's text, to be evaluated in a page."""
    if axe_or_none is None:
        pytest.skip(
            "no page was checked for accessibility: npm fetches axe-core, once (Debian, Ubuntu: apt install npm)"
        )
    return axe_or_none


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the book's pages: that of `make book` if nothing has changed since, else built for this session."""
    made = tool.BOOK / "_build"
    if tool.is_fresh(made):
        return made / "html"
    for module in ("sphinx", "myst_nb", "sphinx_book_theme"):
        pytest.importorskip(module, reason=HOW)
    try:
        for package in tool.settings()["npm"]:
            tool.npm_package(package["name"])
    except tool.Trouble as trouble:
        pytest.skip(str(trouble))
    return tool.build(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="session")
def site(book):
    """The address at which the book is served, to this machine only."""
    server = tool.server(book, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
