"""Every page of the book in a real browser: nothing comes from elsewhere, nothing is missing, everybody can read it."""

import json
import re
from urllib.parse import urljoin

import pytest
from visits import ROOT, tool

from nextbert_lite.course import workspace as lessons

LESSONS = {f"lessons/{path.stem}": path for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
REFERENCE = [f"reference/{name}" for names in tool.modules().values() for name in names]
OWN = ["genindex", "search"]
PAGES = [*sorted(path.stem for path in tool.BOOK.glob("*.md")), *LESSONS, "reference/index", *REFERENCE, *OWN]
STILL = "*, *::before, *::after { transition: none !important; animation: none !important }"
NARROW = 360  # pixels, a small phone

# What a page shows once all its own scripts have run. Folded parts are opened, so that they are looked at too.
READY = """async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    for (const part of document.querySelectorAll("details")) part.open = true;
}"""
DRAWN = """async () => {
    const scripts = [...document.querySelectorAll("script[type='application/vnd.jupyter.widget-view+json']")];
    const drawn = (script) => script.previousElementSibling?.querySelector(".nbx, .jupyter-widgets");
    for (let i = 0; i < 200 && !scripts.every(drawn); i++) await new Promise((then) => setTimeout(then, 100));
    return scripts.map((script) => Boolean(drawn(script)));
}"""
SHOWN = """() => ({
    formulas: document.querySelectorAll(".math").length,
    drawn: document.querySelectorAll(".math mjx-container").length,
    wrong: [...document.querySelectorAll("mjx-merror, .math[data-mjx-error]")].map((e) => e.textContent),
    figures: [...document.querySelectorAll("main img")].map((i) => [i.alt, i.complete && i.naturalWidth > 0]),
    language: document.documentElement.lang,
    headings: [...document.querySelectorAll("main :is(h1, h2, h3, h4)")]
        .filter((h) => h.offsetParent).map((h) => +h.tagName[1]),
})"""
STICKS_OUT = """() => {
    const wide = document.documentElement.clientWidth;
    const scrolls = (e) => e && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
    if (document.documentElement.scrollWidth <= wide) return [];
    return [...document.querySelectorAll("body *")]
        .filter((e) => e.getBoundingClientRect().right > wide + 1 && !scrolls(e.parentElement))
        .slice(0, 5).map((e) => e.outerHTML.slice(0, 120));
}"""


def test_the_book_has_these_pages_and_no_other(book):
    found = {path.relative_to(book).with_suffix("").as_posix() for path in book.rglob("*.html")}
    assert {name for name in found if not name.startswith("_static/")} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_asks_for_nothing_elsewhere_and_can_be_read_by_everybody(name, visit, site, axe_or_none):
    opened = visit(f"{site}/{name}.html")
    page = opened.page
    page.evaluate(READY)
    page.add_style_tag(content=STILL)  # a colour half-way to dark, or half faded in, is no finding
    views = page.evaluate(DRAWN)
    faults = [*missing(name, page.evaluate(SHOWN) | {"views": views})]
    if axe_or_none is not None:
        faults += [*inaccessible(page, axe_or_none, "light"), *inaccessible(page, axe_or_none, "dark")]
    page.set_viewport_size({"width": NARROW, "height": 740})
    faults += [f"sticks out of a phone: {html}" for html in page.evaluate(STICKS_OUT)] + opened.faults
    assert not faults, "\n".join(faults)


def missing(name, shown):
    """Yield what a page lacks: formulas, figures with their alternative text, views, headings one level at a time."""
    yield from (f"a wrong formula: {text}" for text in shown["wrong"])
    if shown["drawn"] != shown["formulas"]:
        yield f"{shown['drawn']} of {shown['formulas']} formulas are drawn"
    for alt, loaded in shown["figures"]:
        if not loaded or len(alt.split()) < 6:
            yield f"a figure {'without a sentence' if loaded else 'that is not there'}: {alt!r}"
    levels = shown["headings"]
    if levels[:1] != [1] or levels.count(1) != 1 or any(b > a + 1 for a, b in zip(levels, levels[1:], strict=False)):
        yield f"headings of the levels {levels}"
    if shown["language"] != "en":
        yield f"the language is {shown['language']!r}"
    if name in LESSONS:
        notebook = lessons.read_notebook(LESSONS[name])
        data = [o["data"] for cell in notebook["cells"] for o in cell.get("outputs", []) if "data" in o]
        views = sum(tool.VIEW in one for one in data)
        figures = sum("image/png" in one and tool.VIEW not in one for one in data)
        if (len(shown["figures"]), shown["views"]) != (figures, [True] * views):
            yield f"{len(shown['figures'])} figures of {figures}, {sum(shown['views'])} views drawn of {views}"
        if "$" in tool.prose(notebook) and not shown["formulas"]:
            yield "no formula"


def inaccessible(page, axe, theme):
    """Yield what axe-core finds serious or critical in a theme: its name, how often, and the first place."""
    page.emulate_media(color_scheme=theme)
    page.wait_for_function("(theme) => document.documentElement.dataset.theme === theme", arg=theme)
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    options = {"resultTypes": ["violations"]} | ({} if theme == "light" else {"runOnly": ["color-contrast"]})
    for fault in page.evaluate("(options) => axe.run(document, options)", options)["violations"]:
        if fault["impact"] in ("serious", "critical"):
            first = fault["nodes"][0]
            what = f"{fault['id']} ({theme}), {len(fault['nodes'])} times, first {first['html'][:200]}"
            yield f"{what}: {first['failureSummary'][:300]}"


def test_axe_core_is_here_so_that_each_page_was_checked_for_accessibility(axe):
    assert "axe" in axe


@pytest.mark.parametrize("name", ["lessons/" + next(iter(LESSONS.values())).stem, "glossary", "teachers"])
def test_what_is_wider_than_a_phone_scrolls_inside_itself_by_keyboard_too(name, visit, site):
    page = visit(f"{site}/{name}.html", width=NARROW, height=740).page
    page.evaluate(READY)
    page.set_viewport_size({"width": NARROW - 1, "height": 740})  # measured again
    page.wait_for_function(
        """() => [...document.querySelectorAll("main :is(pre, table, div, mjx-container)")].filter((e) =>
            ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1
            && e.getClientRects().length)
            .every((e) => e.tabIndex === 0 || e.querySelector("a, button, [tabindex='0']"))"""
    )


def test_the_search_finds_a_word_of_a_lesson_and_a_chinese_term(visit, site):
    for words, title in (("attractor", "02 · Attention"), ("注意力机制", "Glossary")):
        page = visit(f"{site}/search.html?q={words}").page
        page.locator("#search-results li a", has_text=title).first.wait_for()


def test_a_solution_is_folded_until_it_is_asked_for(visit, site):
    name = next(name for name in LESSONS if name.endswith("attention"))
    page = visit(f"{site}/{name}.html").page
    blank = page.get_by_text("your code here").first
    blank.wait_for()
    folded = page.locator("details", has_text="Show the solution").first
    code = folded.locator("pre").first
    assert not code.is_visible()
    folded.locator("summary").focus()
    page.keyboard.press("Enter")
    code.wait_for(state="visible")
    solution = lessons.solution(f"{name[8:10]}.1").splitlines()[-1].strip()
    assert solution in code.inner_text()


def test_previous_and_next_lead_through_all_pages_of_the_course(visit, site):
    page = visit(f"{site}/index.html").page
    seen, address = [], page.url
    while forward := re.search(r'<a class="right-next"\s+href="([^"]+)"', page.request.get(address).text()):
        address = urljoin(address, forward[1])
        seen.append(address.removeprefix(f"{site}/").removesuffix(".html"))
    assert [name for name in seen if name in LESSONS] == list(LESSONS)
    assert set(seen) == set(PAGES) - {"index", *OWN}


def test_the_map_answers_to_the_keyboard(visit, site):
    page = visit(f"{site}/map.html").page
    number = [path.stem for path in LESSONS.values()][2][:2]
    page.locator(f".map a.n{number}").focus()
    page.wait_for_function(f"getComputedStyle(document.querySelector('.map .to{number}')).opacity === '1'")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/lessons/{number}_*.html")


def test_the_downloads_are_notebooks(visit, site):
    page = visit(f"{site}/{list(LESSONS)[1]}.html").page
    for link in page.locator(".downloads a").all():
        with page.expect_download() as download:
            link.click()
        assert json.loads(download.value.path().read_text(encoding="utf-8"))["nbformat"] == 4


def test_a_view_in_a_lesson_draws_without_a_kernel_and_answers_to_the_pointer(visit, site):
    name = next((n for n, path in LESSONS.items() if "AttentionExplorer(" in path.read_text(encoding="utf-8")), None)
    if name is None:
        pytest.skip("no lesson shows attention in a view")
    page = visit(f"{site}/{name}.html").page
    view = page.locator(".nbx", has=page.locator(".nbx-tokens")).first
    chips = view.locator(".nbx-tokens button")
    status = view.locator(".nbx-status")
    for i in (2, 1):
        chips.nth(i).hover()
        token = chips.nth(i).evaluate("(chip) => chip.firstChild.textContent")
        status.get_by_text(f"“{token}” looks at").first.wait_for()
