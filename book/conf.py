"""Sphinx's settings for the book. tools/book.py lays this file, the pages and the assets together and runs Sphinx."""

import json
import re
from pathlib import Path

from nextbert_lite import __version__

HERE = Path(__file__).parent
FIGURES = HERE / "figures.json"  # written by tools/book.py: the SHA-256 of each figure's file -> its alternative text

project = "nextbert_lite"
author = "the nextbert_lite contributors"
copyright = f"2026 {author}"
version = release = __version__
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc"]

# Pages: the notebooks as they were executed
nb_execution_mode = "off"
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline"]
myst_dmath_double_inline = True
myst_heading_anchors = 3

# Assets: all beside the pages
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}
nb_ipywidgets_js = {
    "require.js": {},
    "widgets.js": {},
    "html-manager/embed-amd.js": {"data-jupyter-widgets-cdn": "_static/"},  # never asked: widgets.js names what is here
}

# The reference
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 90

# The look
html_theme = "sphinx_book_theme"
html_title = "nextbert_lite"
html_static_path = ["static"]
html_extra_path = ["extra"]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_copy_source = False
html_domain_indices = False
html_context = {"default_mode": "auto"}  # light or dark as the reader's system is
html_show_sphinx = False
html_theme_options = {
    "use_download_button": False,  # the pages offer the learner's and the instructor's copy themselves
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search stands in the side bar already
}


def rst(lines: list[str]) -> list[str]:
    """Return a docstring of this package as reStructuredText.

    `code` becomes ``code``; a line that starts with a name and a colon an item of a list; an indented block, code.
    """
    out: list[str] = []
    item = code = False
    for line in lines:
        start = re.match(r"((?:[a-z_]\w*|[A-Z])(?:, (?:[a-z_]\w*|[A-Z]))*): (?=\S)", line)
        if not line.strip():
            item = False
            out.append("")
        elif line.startswith("    ") and not item:
            if not code:
                out += ["::", ""]
            code = True
            out.append(line)
            continue
        elif start and out:  # the first line is the summary
            out += ["", f"* ``{start[1]}``: {inline(line[start.end() :])}"]
            item = True
        else:
            if code and out[-1]:
                out.append("")
            out.append(("  " if item else "") + inline(line.strip() if item else line))
        code = code and not line.strip()
    return out


def inline(text: str) -> str:
    """Return a line with its code in double backquotes, and with what reStructuredText would read as markup escaped."""
    parts = re.split(r"(`+[^`]+`+|(?<![\w*])\*\w[^*]*\w\*(?![\w*]))", text)  # code and *stress*, between plain text
    for i, part in enumerate(parts):
        if i % 2 == 0:
            escaped = re.sub(r"([*|\\]|_(?!\w))", r"\\\1", part)
            parts[i] = re.sub(r"^(?=\w)", r"\\ ", escaped) if i else escaped  # `x`s: markup ends at no letter
        elif part.startswith("`"):
            parts[i] = f"``{part.strip('`')}``"
    return "".join(parts)


def on_skip(app, what, name, obj, skip, options) -> bool | None:
    """Leave out what a module imports from elsewhere before Sphinx stumbles over its signature (scipy's bootstrap)."""
    elsewhere = not (getattr(obj, "__module__", None) or project).startswith(project)
    return True if what == "module" and elsewhere else None


def on_docstring(app, what, name, obj, options, lines) -> None:
    lines[:] = rst(lines)


def on_signature(app, what, name, obj, options, signature, returns) -> tuple:
    """Shorten types that Sphinx does not, where a default cannot be read back: a function's is shown as `...`."""
    short = [part and re.sub(r"~(\w+\.)*", "", re.sub(r"<.*?>+", "...", part)) for part in (signature, returns)]
    return tuple(short)


def within_script(content: str) -> str:
    """Return JSON or JavaScript in which no text ends the script element that it stands in: there < is \\u003c.

    In place of myst-nb's own, which sees only </script> in just these letters.
    """
    return re.sub(r"<(?=/?script|!--)", r"\\u003c", content, flags=re.IGNORECASE)


def on_doctree(app, doctree) -> None:
    """Give each figure its sentence: it stands in the notebook's output, where myst-nb does not look."""
    from docutils import nodes  # here: the tests of what stands above need no Sphinx

    sentences = json.loads(FIGURES.read_text(encoding="utf-8"))
    for image in doctree.findall(nodes.image):
        image["alt"] = sentences.get(Path(image["uri"]).stem, image.get("alt", ""))


def setup(app) -> None:
    from myst_nb.core import render

    render.sanitize_script_content = within_script
    app.connect("autodoc-skip-member", on_skip)
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("doctree-read", on_doctree)
