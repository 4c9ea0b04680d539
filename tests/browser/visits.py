"""A real browser for these tests, and what a page asked for: nothing may leave this machine."""

import importlib.util
from pathlib import Path
from urllib.parse import urlsplit

HOW = "this test needs the extras book and browser, and Chromium: apt install chromium, then make test-extras"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

ROOT = Path(__file__).resolve().parent.parent.parent
spec = importlib.util.spec_from_file_location("book_tool", ROOT / "tools" / "book.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


class Visit:
    """A page in the browser, and what went wrong in it: requests to elsewhere, missing files, errors in the console."""

    def __init__(self, browser, width=1200, height=900):
        self.faults = []
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.context.route("**/*", self.answer)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("response", lambda r: r.status >= 400 and self.faults.append(f"{r.status} for {r.url}"))
        self.page.on("websocket", lambda socket: is_here(socket.url) or self.faults.append(f"left for {socket.url}"))

    def answer(self, route):
        if is_here(route.request.url):
            route.continue_()
        else:
            self.faults.append(f"left for {route.request.url}")
            route.abort()


def is_here(url):
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "about") or parts.hostname == "127.0.0.1"
