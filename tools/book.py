"""Make the book: the whole course as a static site that needs no network, from the executed notebooks.

    python tools/book.py build [--out book/_build]    lay the pages out and run Sphinx; nothing to do, nothing done
    python tools/book.py serve [--port 8800]          show it, to this machine only
    python tools/book.py examination                  write the examination with its answers, for teachers

The first build fetches a few npm packages (book/book.toml names version and hash) into .cache/book and keeps them.
"""

import argparse
import ast
import base64
import copy
import fnmatch
import functools
import hashlib
import html
import http.server
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CACHE = ROOT / ".cache" / "book"
TIMES = ROOT / "notebooks" / "times.json"
sys.path.insert(0, str(ROOT))  # this clone's package, whichever is installed

import nextbert_lite  # noqa: E402
from nextbert_lite.course import workspace as lessons  # noqa: E402
from tools.plan import inserts as of_plan  # noqa: E402

PORT = 8800
VIEW = "application/vnd.jupyter.widget-view+json"
EXERCISE = re.compile(r"^### Exercise (\d\d\.\d+) · (.+?) (●+)○* · (\d+) minutes", re.MULTILINE)
VERSIONS = {
    "learner": "for learners, without solutions",
    "instructor": "with solutions, as shown here",
    "nbgrader": "for nbgrader",
}


class Trouble(Exception):
    """What keeps the book from being built; its text is one sentence that says what to do."""


# --- what the lessons say of themselves -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Exercise:
    """An exercise's heading: its id, name, difficulty (1 to 3) and minutes."""

    id: str
    name: str
    level: int
    minutes: int


@dataclass(frozen=True)
class Lesson:
    """A lesson's header, the first table of its text, its exercises, and the seconds that it was measured to take."""

    path: Path
    number: str
    part: str
    title: str
    question: str
    minutes: int
    seconds: int | None
    needs: str
    uses: tuple[str, ...]  # the numbers of the lessons it names there
    exercises: tuple[Exercise, ...]


def settings() -> dict:
    return tomllib.loads((BOOK / "book.toml").read_text(encoding="utf-8"))


def text_of(cell: dict) -> str:
    return "\n".join(lessons.lines_of(cell))


def prose(notebook: dict) -> str:
    return "\n\n".join(text_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def plain(text: str) -> str:
    """Return a text of a lesson's header as Markdown that shows it character by character."""
    return re.sub(r"[\\`*_{}\[\]<>()#|$&~!^@:]", r"\\\g<0>", " ".join(str(text).split()))


def numbers_in(text: str) -> list[str]:
    """Return the two-digit numbers of a text, each once, in their order; "03 to 05" is three."""
    pairs = re.findall(r"\b(\d\d)\b(?: to (\d\d)\b)?", text)
    found = [f"{number:02}" for first, last in pairs for number in range(int(first), int(last or first) + 1)]
    return list(dict.fromkeys(found))


def lessons_named(text: str) -> list[str]:
    """Return the numbers that `lesson 04` and `lessons 02, 03 and 05 to 07` name, each once, in their order."""
    return numbers_in(" ".join(re.findall(r"\b[Ll]essons? (\d\d(?:(?:, | and | to )\d\d)*)", text)))


def read_lesson(path: Path, seconds: dict[str, int]) -> Lesson:
    """Return what a built lesson says of itself; Trouble, which names it and what is missing, when something is."""
    if not re.fullmatch(r"\d\d_[A-Za-z0-9_-]+\.ipynb", path.name):  # it stands in links, and in lists of Sphinx
        raise Trouble(
            f"{path.name!r} is no lesson's name: call it like 02_attention.ipynb, in a to z, 0 to 9, - and _."
        )
    notebook = lessons.read_notebook(path)
    header, text = notebook["metadata"].get("lesson", {}), prose(notebook)
    needs = re.search(r"^\| You need \| (.+?) \|$", text, re.MULTILINE)
    missing = [name for name in ("part", "title", "question", "minutes") if name not in header]
    if missing or not needs:
        what = ", ".join([*missing, *(() if needs else ("row 'You need'",))])
        raise Trouble(
            f"{path.name} has no {what}: write it as the source of lesson 02 does, and build the lesson again "
            f"(make notebooks ONLY={path.name[:2]})."
        )
    number = lessons.lesson_number(path)
    exercises = (Exercise(i, name, len(dots), int(m)) for i, name, dots, m in EXERCISE.findall(text))
    return Lesson(
        path,
        number,
        header["part"],
        header["title"],
        header["question"],
        int(header["minutes"]),
        seconds.get(path.stem),
        needs[1],
        tuple(n for n in numbers_in(needs[1]) if n < number),
        tuple(exercises),
    )


def read_lessons() -> list[Lesson]:
    seconds = json.loads(TIMES.read_text(encoding="utf-8"))
    found = [read_lesson(path, seconds) for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]
    if not found:
        raise Trouble("the folder notebooks/ holds no lessons: build them with `make notebooks`.")
    return found


# --- a lesson's page and its downloads --------------------------------------------------------------------------------


def learner_copy(notebook: dict) -> dict:
    """Return the learner's version as `nextbert-lite start` writes it, with the hash that it knows it by."""
    learner = lessons.learner_version(notebook)
    learner["metadata"]["nextbert_lite"] = {"made_from": lessons.fingerprint(learner)}
    return learner


def nbgrader_copy(notebook: dict, lesson: Lesson) -> dict:
    """Return the instructor's version without outputs, its exercises and checks marked for nbgrader.

    The exercise is a solution cell; the check, the code cell behind it, a locked test cell with a point for each dot.
    """
    graded = copy.deepcopy(notebook)
    graded["metadata"].pop("widgets", None)
    code = [cell for cell in graded["cells"] if cell["cell_type"] == "code"]
    points = {exercise.id: exercise.level for exercise in lesson.exercises}
    for cell in code:
        cell["outputs"], cell["execution_count"] = [], None
    for cell, check in zip(code, code[1:], strict=False):
        if name := exercise_of(cell):
            common = {"schema_version": 3, "task": False}
            place = name.replace(".", "-")
            solution = {"grade_id": f"exercise-{place}", "solution": True, "grade": False, "locked": False}
            test = {"grade_id": f"check-{place}", "solution": False, "grade": True, "locked": True}
            cell["metadata"]["nbgrader"] = common | solution
            check["metadata"]["nbgrader"] = common | test | {"points": points[name]}
    return graded


def exercise_of(cell: dict) -> str | None:
    """Return "02.1" for a cell tagged exercise-02.1."""
    tags = cell.get("metadata", {}).get("tags", [])
    return next((tag.removeprefix("exercise-") for tag in tags if tag.startswith("exercise-")), None)


def page_of(notebook: dict, lesson: Lesson, files: dict[str, str]) -> dict:
    """Return the notebook as the book shows it. files: lesson number -> file name.

    Each exercise with its blank, the solution and what the check says folded below it; links to the lessons that the
    text names; the downloads under the title; beside each view the static figure, for a browser that runs no scripts.
    """
    cells, check_follows = [], False
    for cell in copy.deepcopy(notebook["cells"]):
        metadata = cell.setdefault("metadata", {})
        if cell["cell_type"] == "markdown":
            cell["source"] = linked(text_of(cell), lesson.number, files)
        elif exercise_of(cell):
            blank = lessons.learner_version({"cells": [cell]})["cells"][0]
            cells.append(blank | {"id": f"{cell['id']}-blank", "metadata": {}})
            metadata["tags"] = ["hide-input"]
            metadata["mystnb"] = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
            check_follows = True
        elif check_follows:
            says = "what the check says to the solution"
            metadata["tags"] = ["hide-output"]
            metadata["mystnb"] = {"code_prompt_show": f"Show {says}", "code_prompt_hide": f"Hide {says}"}
            check_follows = False
        elif "hide-input" in metadata.get("tags", []):
            metadata["mystnb"] = {
                "code_prompt_show": "Show the drawing code",
                "code_prompt_hide": "Hide the drawing code",
            }
        cell["outputs"] = [more for output in cell.get("outputs", []) for more in with_figure(output)]
        if cell["cell_type"] == "markdown":
            del cell["outputs"]
        cells.append(cell)
    title, _, rest = cells[0]["source"].partition("\n")
    cells[0]["source"] = f"{title}\n\n{downloads(lesson)}\n\n{rest}"
    return notebook | {"cells": cells}


def linked(text: str, own: str, files: dict[str, str]) -> str:
    """Return a text in which `lesson 04` leads to that lesson's page, except in headings, code and links."""

    def one(match: re.Match) -> str:
        return f"[{match[0]}]({files[match[1]]})" if match[1] in files and match[1] != own else match[0]

    def several(match: re.Match) -> str:
        return re.sub(r"(\d\d)", one, match[0])

    lines, fenced = [], False
    for line in text.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        if not fenced and not line.startswith("#"):
            pieces = re.split(r"(`[^`]*`|\[[^]]*\]\([^)]*\)|\$[^$]*\$)", line)
            for i in range(0, len(pieces), 2):
                pieces[i] = re.sub(r"\b[Ll]essons \d\d(?:(?:, | and | to )\d\d)+", several, pieces[i])
                pieces[i] = re.sub(r"\b[Ll]esson (\d\d)\b", one, pieces[i])
            line = "".join(pieces)
        lines.append(line)
    return "\n".join(lines)


def with_figure(output: dict) -> list[dict]:
    """Return the output; if it is a view, with its static figure for a browser that runs no scripts."""
    data = output.get("data", {})
    if VIEW not in data or "image/png" not in data:
        return [output]
    alt = html.escape(output["metadata"]["image/png"]["alt"])
    picture = (
        f'<noscript><img alt="{alt}" src="data:image/png;base64,{html.escape(png_of(output).strip())}"></noscript>'
    )
    view = output | {"data": {VIEW: data[VIEW]}}
    return [view, {"output_type": "display_data", "metadata": {}, "data": {"text/html": picture}}]


def png_of(output: dict) -> str:
    """Return an output's picture in base64; a notebook file holds it as one string or as a list of lines."""
    picture = output["data"]["image/png"]
    return picture if isinstance(picture, str) else "".join(picture)


def downloads(lesson: Lesson) -> str:
    """Return the line with the notebook to download, in its three versions."""
    links = (
        f'<a download href="../downloads/{version}/{lesson.path.name}">{says}</a>' for version, says in VERSIONS.items()
    )
    return f'<p class="downloads">The notebook to download: {", ".join(links)}.</p>'


def figures_of(notebook: dict) -> dict[str, str]:
    """Return the SHA-256 of each figure's file, by which Sphinx names it -> its alternative text."""
    found = {}
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            found[hashlib.sha256(base64.b64decode(png_of(output))).hexdigest()] = output["metadata"]["image/png"]["alt"]
    return found


# --- tables, map, plans -----------------------------------------------------------------------------------------------


def table(*rows: tuple) -> str:
    """Return rows of texts, the first the head, as a Markdown table."""
    lines = ["| " + " | ".join(str(part) for part in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def link(lesson: Lesson) -> str:
    return f"[{lesson.number} {plain(lesson.title)}](lessons/{lesson.path.name})"


def seconds_of(lesson: Lesson) -> str:
    return "not measured" if lesson.seconds is None else f"{lesson.seconds} s"


def sizes(found: list[Lesson]) -> str:
    hours = sum(lesson.minutes for lesson in found) / 60
    exercises = sum(len(lesson.exercises) for lesson in found)
    return f"There are {len(found)} lessons with {exercises} exercises, about {hours:.0f} hours of work in all."


def course_table(found: list[Lesson]) -> str:
    rows = [(link(lesson), plain(lesson.question), f"{lesson.minutes} min") for lesson in found]
    return table(("lesson", "the question it answers", "your time"), *rows)


def needs_table(found: list[Lesson]) -> str:
    rows = [
        (
            plain(lesson.part),
            link(lesson),
            plain(lesson.question),
            f"{lesson.minutes} min",
            linked_here(lesson.needs, found),
        )
        for lesson in found
    ]
    return table(("part", "lesson", "the question it answers", "your time", "what you need for it"), *rows)


def linked_here(text: str, found: list[Lesson]) -> str:
    return linked(text, "", {lesson.number: f"lessons/{lesson.path.name}" for lesson in found})


COLOURS = ("#666666", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito's, as in the figures


def course_map(found: list[Lesson]) -> str:
    """Return the map as SVG, narrow enough for a phone: lessons in a column, arcs from each to those that use it."""
    step, head, left, width = 34, 40, 128, 350
    y, place, rows, part = 0, {}, [], None
    parts = list(dict.fromkeys(lesson.part for lesson in found))
    for lesson in found:
        if lesson.part != part:
            part = lesson.part
            y += head
            rows.append(f'<text class="part" x="{left - 6}" y="{y - 8}">{html.escape(part)}</text>')
        y += step
        place[lesson.number] = y - step / 2
        colour = COLOURS[parts.index(part) % len(COLOURS)]
        label = html.escape(f"{lesson.number} {lesson.title}")
        rows.append(
            f'<a href="lessons/{lesson.path.stem}.html" class="n{lesson.number}">'
            f'<circle cx="{left}" cy="{y - step / 2}" r="6" fill="{colour}"/>'
            f'<text x="{left + 14}" y="{y - step / 2 + 5}">{label}</text></a>'
        )
    arcs, rules = [], []
    for lesson in found:
        rules.append(
            f".map:has(a.n{lesson.number}:is(:hover, :focus)) :is(.from{lesson.number}, .to{lesson.number}) "
            "{ opacity: 1; stroke-width: 2.5; }"
        )
        for used in lesson.uses:
            if used in place:
                a, b = place[used], place[lesson.number]
                x = left - min(118, 22 + 0.42 * (b - a)) * 4 / 3
                curve = f"M{left - 8} {a}C{x:.0f} {a} {x:.0f} {b} {left - 8} {b}"
                arcs.append(f'<path class="from{used} to{lesson.number}" d="{curve}" marker-end="url(#tip)"/>')
    says = "; ".join(
        f"lesson {lesson.number} uses {' and '.join(lesson.uses)}" for lesson in found if set(lesson.uses) & set(place)
    )
    return (
        f'<svg class="map" viewBox="0 0 {width} {y + 12}" role="group" aria-labelledby="map-title" '
        f'aria-describedby="map-says" xmlns="http://www.w3.org/2000/svg">\n'
        f'<title id="map-title">Map of the course: {len(found)} lessons and what builds on what</title>\n'
        f'<desc id="map-says">{html.escape(says)}.</desc>\n<style>{" ".join(rules)}</style>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>\n'
        f'<g class="arcs" aria-hidden="true">{"".join(arcs)}</g>\n' + "\n".join(rows) + "\n</svg>"
    )


def effort_table(found: list[Lesson]) -> str:
    rows = []
    for lesson in found:
        levels = [exercise.level for exercise in lesson.exercises]
        dots = ", ".join(f"{levels.count(n)} {'●' * n}" for n in (1, 2, 3) if n in levels)
        minutes = sum(exercise.minutes for exercise in lesson.exercises)
        needs = linked_here(lesson.needs, found)
        rows.append((link(lesson), f"{lesson.minutes} min", f"{minutes} min: {dots}", seconds_of(lesson), needs))
    total, work = sum(lesson.minutes for lesson in found), sum(e.minutes for lesson in found for e in lesson.exercises)
    rows.append(("all", f"{total} min", f"{work} min", "", ""))
    return table(("lesson", "time", "exercises", "machine", "needs"), *rows)


def spread(minutes: list[int], weeks: int) -> list[int]:
    """Return how many lessons each week takes, in order, so that the weeks' minutes are as even as can be.

    The sum of the squared minutes is smallest; with fewer lessons than weeks, a week for each.
    """
    weeks = min(weeks, len(minutes))
    best = {(0, 0): (0.0, [])}
    for week in range(1, weeks + 1):
        for end in range(week, len(minutes) + 1):
            best[week, end] = min(
                (best[week - 1, begin][0] + sum(minutes[begin:end]) ** 2, [*best[week - 1, begin][1], end - begin])
                for begin in range(week - 1, end)
                if (week - 1, begin) in best
            )
    return best[weeks, len(minutes)][1]


def listed(names: list[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if names[1:] else names[0]


def hours(minutes: int) -> str:
    return f"{minutes // 60} h {minutes % 60:02} min"


def chosen(found: list[Lesson], choice: dict) -> list[Lesson]:
    """Return the lessons of a plan or a route, in order: those in `lessons`, and those between `from` and `to`."""
    named, first, last = choice.get("lessons", []), choice.get("from", "99"), choice.get("to", "99")
    unknown = sorted({*named} - {lesson.number for lesson in found})
    if unknown:
        raise Trouble(
            f"book/book.toml names lesson {unknown[0]} in '{choice['name']}', and there is none: take it out."
        )
    return [lesson for lesson in found if lesson.number in named or first <= lesson.number <= last]


def sources_of(lesson: Lesson) -> str:
    """Return the text below a lesson's `Where this comes from`."""
    return prose(lessons.read_notebook(lesson.path)).partition("**Where this comes from**")[2]


def reading(lesson: Lesson, known: dict) -> list[str]:
    """Return what to read with a lesson: what book.toml says, else the first source that the lesson links to.

    known: lesson number -> labels such as "Liu et al. 2019, arXiv:1907.11692", whose last words stand in the sources,
    with a link or without. Trouble for one that is not cited.
    """
    sources = " ".join(sources_of(lesson).split())
    if lesson.number not in known:
        first = re.search(r"\[[^]]+\]\(https?://[^)]+\)", sources)
        return [first[0]] if first else []
    entries = []
    for label in known[lesson.number]:
        text, _, place = label.rpartition(", ")
        link = re.search(rf"\[{re.escape(place)}\]\(https?://[^)]+\)", sources)
        if not link and place not in sources:
            raise Trouble(f"book/book.toml has '{place}' to read with lesson {lesson.number}, which does not cite it.")
        entries.append(f"{text}, {link[0] if link else place}")
    return entries


def weeks_of(found: list[Lesson], plan: dict) -> list[list[Lesson]]:
    """Return the lessons of each week of a plan, the weeks of projects left out."""
    rest, weeks = chosen(found, plan), []
    for count in spread([lesson.minutes for lesson in rest], plan["weeks"] - plan["project_weeks"]):
        weeks.append(rest[:count])
        rest = rest[count:]
    return weeks


def plan_table(found: list[Lesson], plan: dict, known: dict) -> str:
    """Return a plan. What a meeting has no time for, and at least the hard exercises, is done at home.

    known: what to read with the lessons. A paper stands in the first week that has a lesson that it belongs to.
    """
    rows, placed = [], {}
    for week, taken in enumerate(weeks_of(found, plan), 1):
        hard = [exercise for lesson in taken for exercise in lesson.exercises if exercise.level == 3]
        minutes = sum(lesson.minutes for lesson in taken)
        home = max(minutes - plan["class_minutes"], sum(exercise.minutes for exercise in hard))
        which = f", with {listed([exercise.id for exercise in hard])}" if hard else ""
        names = "; ".join(link(lesson) for lesson in taken)
        papers = {paper.rpartition(", ")[2]: paper for lesson in taken for paper in reading(lesson, known)}
        read = [paper for place, paper in papers.items() if place not in placed]
        placed |= papers
        rows.append((week, names, f"{minutes - home} min", f"{home} min{which}", "; ".join(read)))
    weeks = " to ".join(str(week) for week in dict.fromkeys((len(rows) + 1, plan["weeks"])))
    rows.append((weeks, "Projects", "ten minutes each", "the project", ""))
    return table(("week", "lessons", "in class", "at home", "to read"), *rows)


def load_of(found: list[Lesson], plan: dict) -> str:
    """Return a sentence on a plan's hours: in all, a week, and of the machine."""
    loads = [sum(lesson.minutes for lesson in week) for week in weeks_of(found, plan)]
    machine = sum(lesson.seconds or 0 for lesson in chosen(found, plan)) / 60
    return (
        f"{len(chosen(found, plan))} lessons, {hours(sum(loads))} of work and {machine:.0f} minutes of computing; "
        f"the lightest week has {hours(min(loads))}, the heaviest {hours(max(loads))}."
    )


# --- routes -----------------------------------------------------------------------------------------------------------


def left_out(route: list[Lesson]) -> dict[str, list[str]]:
    """Return each earlier lesson that the route's lessons name and that is not on it -> the lessons that name it."""
    names = {}
    for lesson in route:
        for number in dict.fromkeys([*lesson.uses, *lessons_named(told(lessons.read_notebook(lesson.path)))]):
            if number < lesson.number and number not in [other.number for other in route]:
                names.setdefault(number, []).append(lesson.number)
    return dict(sorted(names.items()))


def route_tables(found: list[Lesson], route: dict) -> str:
    """Return a route's lessons with their summed times, and what its lessons need from those that it leaves out."""
    taken, now, rows = chosen(found, route), 0, []
    for lesson in taken:
        now += lesson.minutes
        rows.append((link(lesson), f"{lesson.minutes} min", hours(now), seconds_of(lesson)))
    tables = [table(("lesson", "time", "together", "machine"), *rows)]
    by_number = {lesson.number: lesson for lesson in found}
    missing = [
        (
            link(by_number[number]),
            ", ".join(users),
            route.get("assumed", {}).get(number, f"what {listed(users)} says where it names it"),
        )
        for number, users in left_out(taken).items()
        if number in by_number
    ]
    if missing:
        tables.append(table(("left out", "named by", "what is needed from it"), *missing))
    return "\n\n".join(tables)


def workshop_table(found: list[Lesson], workshop: dict) -> str:
    by_number = {lesson.number: lesson for lesson in found}
    hours, minutes = map(int, workshop["start"].split(":"))
    now, rows = 60 * hours + minutes, []
    for block in workshop["blocks"]:
        name = link(by_number[block["lesson"]]) if "lesson" in block else ""
        rows.append((f"{now // 60:02}:{now % 60:02}", f"{block['minutes']} min", name, block["what"]))
        now += block["minutes"]
    rows.append((f"{now // 60:02}:{now % 60:02}", "", "", "End."))
    return table(("from", "for", "lesson", "what"), *rows)


def glossary_terms() -> list[dict]:
    return tomllib.loads((BOOK / "glossary.toml").read_text(encoding="utf-8"))["terms"]


def told(notebook: dict) -> str:
    """Return what a lesson tells: its text without the titles of its sources, and the words of its asserts."""
    text = prose(notebook).split("**Where this comes from**")[0]
    asserts = any("assert " in text_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return text + ("\n\nassert" if asserts else "")


def first_use(term: dict, texts: dict[str, str]) -> str | None:
    """Return the number of the first lesson that uses the term as a whole word. texts: number -> text."""
    wanted = re.compile(rf"(?<![\w\[])(?:{term.get('find') or re.escape(term['en'])})(?!\w)", re.IGNORECASE)
    later = (number for number in texts if number >= term.get("from", ""))
    return next((number for number in later if wanted.search(texts[number])), None)


def glossary_table(found: list[Lesson]) -> str:
    texts = {lesson.number: told(lessons.read_notebook(lesson.path)) for lesson in found}
    by_number = {lesson.number: lesson for lesson in found}
    rows = []
    for term in sorted(glossary_terms(), key=lambda term: term["en"].lower()):
        number = first_use(term, texts)
        if number is None:
            raise Trouble(f"no lesson uses the glossary's term '{term['en']}': take it out, or put its `find` right.")
        where = f"[{number}](lessons/{by_number[number].path.name})"
        rows.append((f"**{term['en']}**", f"[{term['zh']}]{{.language-zh-Hans}}", term["says"], where))
    return table(("term", "in Chinese", "what it is", "lesson"), *rows)


# --- the examination --------------------------------------------------------------------------------------------------

ANSWER = re.compile(r"<!-- answer -->\n(.*?)<!-- /answer -->\n", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """A question of the examination: its number, title, lesson and points, what is asked, and the teacher's part."""

    number: int
    title: str
    lesson: str
    points: int
    text: str
    answer: str


def questions() -> list[Question]:
    """Return the questions of book/examination.md; Trouble, which names it, for one without an answer."""
    found = []
    for part in re.split(r"^## ", (BOOK / "examination.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head = re.match(r"(\d+)\. (.+)\n\n\*Lesson (\d\d) · (\d+) points\*\n", part)
        answers = ANSWER.findall(part)
        if not head or len(answers) != 1:
            raise Trouble(f"book/examination.md: '{part.splitlines()[0]}' needs its lesson, its points and one answer.")
        text = ANSWER.sub("", part[head.end() :]).strip()
        found.append(Question(int(head[1]), head[2], head[3], int(head[4]), text, answers[0].strip()))
    return found


def exam_table(found: list[Lesson], plans: list[dict]) -> str:
    """Return the points of each part, and for each plan that leaves lessons out the questions that fit it."""
    asked, parts, rows = questions(), {lesson.number: lesson.part for lesson in found}, []
    for part in dict.fromkeys(parts.values()):
        here = [question for question in asked if parts.get(question.lesson) == part]
        if here:
            numbers = " to ".join(str(n) for n in dict.fromkeys((here[0].number, here[-1].number)))
            rows.append((plain(part), numbers, sum(question.points for question in here)))
    sentences = []
    for plan in plans:
        taken = {lesson.number for lesson in chosen(found, plan)}
        here = [question for question in asked if question.lesson in taken]
        if len(here) < len(asked):
            names = listed([str(question.number) for question in here])
            points = sum(question.points for question in here)
            sentences.append(f"After the {plan['weeks']} weeks' plan ask {names}: {points} points.")
    return "\n\n".join([table(("part", "questions", "points"), *rows), *sentences])


def with_answers(found: list[Lesson], plans: list[dict]) -> str:
    """Return the examination as teachers get it. The book's page has it without what stands between the marks."""
    text = (BOOK / "examination.md").read_text(encoding="utf-8")
    text = text.replace("<!-- insert: exam -->", exam_table(found, plans))
    return re.sub(r"<!-- /?answer -->\n", "", text)


# --- the reference ----------------------------------------------------------------------------------------------------


def modules() -> dict[str, list[str]]:
    """Return the package's rooms, its folders -> their modules, such as "core.attention"; "" is what all rooms use.

    Single lessons' checks are left out.
    """
    package, found = ROOT / "nextbert_lite", {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if "_share" not in parts and not path.stem.startswith(("__", "lesson_")):
            found.setdefault(parts[0] if parts[1:] else "", []).append(".".join(parts))
    first = [room.partition(":")[0] for room in nextbert_lite.ROOMS]
    return {room: found[room] for room in dict.fromkeys([*first, *sorted(found, reverse=True)])}


def summary(path: Path) -> str:
    """Return the first paragraph of a module's docstring, for a table."""
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(told.split("\n\n")[0].split()).replace("|", "\\|")


def reference_pages() -> dict[str, str]:
    """Return file name -> text: a page for each module, from its docstrings, and the list of all, by room."""
    pages, rooms = {}, []
    for room, names in modules().items():
        rows = []
        for name in names:
            pages[f"{name}.rst"] = f"{name}\n{'=' * len(name)}\n\n.. automodule:: nextbert_lite.{name}\n"
            rows.append((f"[{name}]({name}.rst)", summary(ROOT / "nextbert_lite" / f"{name.replace('.', '/')}.py")))
        about = summary(ROOT / "nextbert_lite" / room / "__init__.py") if room else "What every room may import."
        rooms.append(f"## {room or 'beside the rooms'}\n\n{about}\n\n{table(('module', 'what it holds'), *rows)}")
    toctree = "```{toctree}\n:hidden:\n" + "".join(f"{page}\n" for page in pages) + "```"
    letters = (
        "What the lessons build and what they use, from the code's own docstrings; the package's folders say what a "
        "module is for. The common names can be imported from `nextbert_lite` itself: `from nextbert_lite import "
        "Encoder, fit, load`. Shapes are spelled with the same letters everywhere: `B` batch, `T` tokens, `C` width, "
        "`H` heads, `D` width of a head, `V` vocabulary."
    )
    pages["index.md"] = "\n\n".join(["# The package", letters, *rooms, toctree]) + "\n"
    return pages


# --- npm --------------------------------------------------------------------------------------------------------------


def npm_package(name: str) -> Path:
    """Return the file of a package that book.toml names, from the cache, or fetched by npm and checked."""
    (package,) = (one for one in settings()["npm"] if one["name"] == name)
    target = CACHE / f"{name.replace('@', '').replace('/', '-')}-{package['version']}.tgz"
    if target.exists() and integrity(target) == package["integrity"]:
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise Trouble(
            f"the book carries {name} {package['version']}, which npm fetches once: install Node.js with npm (Debian, "
            "Ubuntu: apt install npm) and repeat the command; later builds need neither npm nor the network."
        )
    print(f"Fetching {name} {package['version']}.", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", f"{name}@{package['version']}", "--silent", "--pack-destination", str(CACHE)]
    done = subprocess.run(command, cwd=CACHE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode or not target.exists():
        lines = done.stdout.decode(errors="replace").strip().splitlines() or ["no message"]
        raise Trouble(f"npm could not fetch {name} ({lines[-1]}): check the network and repeat the command.")
    if integrity(target) != package["integrity"]:
        target.unlink()
        raise Trouble(
            f"what npm fetched as {name} {package['version']} is not the file that book/book.toml names: its hash "
            "differs. It was thrown away; look at npm's registry setting (npm config get registry)."
        )
    return target


def integrity(path: Path) -> str:
    """Return a file's hash as npm writes it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def unpack(package: dict, into: Path) -> None:
    """Copy the files of an npm package that the book needs."""
    with tarfile.open(npm_package(package["name"])) as archive:
        for member in archive.getmembers():
            name = member.name.partition("/")[2]  # below the package's own folder
            if member.isfile() and any(fnmatch.fnmatch(name, glob) for glob in package["files"]):
                target = into / (package["to"] + name.removeprefix(package["strip"]))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.extractfile(member).read())


def anywidget_script() -> Path:
    """Return anywidget's script for static pages, from its Python package."""
    files = importlib.metadata.files("anywidget") or []
    found = [file.locate() for file in files if file.as_posix().endswith("nbextensions/anywidget/index.js")]
    if not found:
        raise Trouble("anywidget has no script for static pages here: pip install --force-reinstall anywidget")
    return Path(found[0])


# --- the build --------------------------------------------------------------------------------------------------------


def toctrees(found: list[Lesson]) -> str:
    """Return the book's contents, hidden in the page: the side bar and previous/next follow them."""
    blocks = [("The course", ["map"])]
    for part in dict.fromkeys(lesson.part for lesson in found):
        blocks.append((part, [f"lessons/{lesson.path.stem}" for lesson in found if lesson.part == part]))
    blocks.append(
        ("To look up", ["use", "devices", "plan", "glossary", "reference/index", "teachers", "examination", "licence"])
    )
    return "\n\n".join(
        f"```{{toctree}}\n:hidden:\n:caption: {json.dumps(caption)}\n\n" + "\n".join(pages) + "\n```"
        for caption, pages in blocks
    )


def inserts(found: list[Lesson]) -> dict[str, str]:
    """Return what stands in place of each `<!-- insert: name -->` of the pages."""
    given = settings()
    plans = {f"plan_{plan['name']}": plan_table(found, plan, given["reading"]) for plan in given["plans"]}
    loads = {f"load_{plan['name']}": load_of(found, plan) for plan in given["plans"]}
    routes = {f"route_{route['name']}": route_tables(found, route) for route in given["routes"]}
    return {
        **plans,
        **loads,
        **routes,
        "sizes": sizes(found),
        "table": course_table(found),
        "toctrees": toctrees(found),
        "map": "```{raw} html\n" + course_map(found) + "\n```",
        "needs": needs_table(found),
        "effort": effort_table(found),
        "before": next(link(lesson) for lesson in found if lesson.number == given["workshop"]["before"]),
        "workshop": workshop_table(found, given["workshop"]),
        "exam": exam_table(found, given["plans"]),
        "glossary": glossary_table(found),
        **of_plan(table),
        "licence": "```text\n" + (ROOT / "LICENSE").read_text(encoding="utf-8").strip() + "\n```",
    }


def lay_out(into: Path) -> None:
    """Write all that Sphinx reads: settings, pages, lessons, reference, downloads, assets."""
    found = read_lessons()
    files = {lesson.number: lesson.path.name for lesson in found}
    for folder in ("lessons", "reference", "static", *(f"extra/downloads/{version}" for version in VERSIONS)):
        (into / folder).mkdir(parents=True)
    shutil.copy(BOOK / "conf.py", into)
    values = inserts(found)
    for page in BOOK.glob("*.md"):
        text = ANSWER.sub("", page.read_text(encoding="utf-8"))
        text = re.sub(r"<!-- insert: (\w+) -->", lambda m: values[m[1]], text)
        (into / page.name).write_text(text.replace("](../docs/", "](docs/"), encoding="utf-8")
    shutil.copytree(ROOT / "docs", into / "docs")
    for name, text in reference_pages().items():
        (into / "reference" / name).write_text(text, encoding="utf-8")
    figures = {}
    for lesson in found:
        notebook = lessons.read_notebook(lesson.path)
        figures |= figures_of(notebook)
        page = lessons.write_notebook(page_of(notebook, lesson, files))
        (into / "lessons" / lesson.path.name).write_text(page, encoding="utf-8")
        given = {"learner": learner_copy(notebook), "nbgrader": nbgrader_copy(notebook, lesson), "instructor": notebook}
        for version, content in given.items():
            target = into / "extra" / "downloads" / version / lesson.path.name
            target.write_text(lessons.write_notebook(content), encoding="utf-8", newline="\n")
    (into / "figures.json").write_text(json.dumps(figures), encoding="utf-8")
    shutil.copytree(BOOK / "static", into / "static", dirs_exist_ok=True)
    for package in settings()["npm"]:
        if package["files"]:
            unpack(package, into / "static")
    shutil.copy(anywidget_script(), into / "static" / "anywidget.js")


def fingerprint() -> str:
    """Return a hash of all that the book is made from."""
    paths = [Path(__file__), ROOT / "LICENSE", TIMES, *sorted(BOOK.glob("*.*")), *sorted((BOOK / "static").iterdir())]
    paths += sorted((ROOT / "docs").iterdir())
    paths += [*sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted((ROOT / "nextbert_lite").rglob("*.py"))]
    digest = hashlib.sha256(sys.version.encode())
    for path in paths:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def is_fresh(out: Path) -> bool:
    stamp = out / "made-from.txt"
    return stamp.exists() and stamp.read_text() == fingerprint()


def build(out: Path) -> Path:
    """Make the book in out/html, unless it is there and nothing has changed; return that folder."""
    pages, stamp = out / "html", out / "made-from.txt"
    if is_fresh(out):
        return pages
    if importlib.util.find_spec("sphinx") is None:
        raise Trouble(
            "Sphinx is not installed: `make book` installs it, or pip install -c constraints.txt -e '.[book]'"
        )
    begun, made_from = time.perf_counter(), fingerprint()
    stamp.unlink(missing_ok=True)
    for folder in ("source", "html", "doctrees"):
        shutil.rmtree(out / folder, ignore_errors=True)
    lay_out(out / "source")
    print("Building the book: about half a minute.", flush=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(out / "doctrees")]
    if subprocess.run([*command, str(out / "source"), str(pages)], cwd=ROOT).returncode:
        raise Trouble("Sphinx found the faults above; put them right and repeat the command.")
    for path in pages.rglob("*.html"):
        path.write_text(mended(path.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    faults = remote_assets(pages)
    if faults:
        raise Trouble("the book must need no network, but these would be fetched from it: " + "; ".join(faults[:5]))
    stamp.write_text(made_from)
    megabytes = sum(path.stat().st_size for path in pages.rglob("*") if path.is_file()) / 1e6
    count = sum(1 for _ in pages.rglob("*.html"))
    print(f"{pages}: {count} pages, {megabytes:.0f} MB, in {time.perf_counter() - begun:.0f} s.")
    return pages


def mended(page: str) -> str:
    """Return a page with what the theme's HTML leaves wrong for a screen reader put right.

    A button's name is what it shows; what folds a part of the side bar has a name; a signature is no list of terms.
    """
    page = re.sub(r'(<button class="[^"]*search-button-field[^>]*?) aria-label="[^"]*"', r"\1", page)
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    page = page.replace("<summary><span", '<summary aria-label="The pages below"><span')
    return re.sub(
        r'<dl>\n(<dd><em class="sig-param".*?)</dl>',
        lambda m: f'<div class="sig-lines">{m[1].replace("<dd>", "<div>").replace("</dd>", "</div>")}</div>',
        page,
        flags=re.DOTALL,
    )


def remote_assets(folder: Path) -> list[str]:
    """Return the scripts, styles, fonts and pictures that the pages and styles would fetch from the network."""
    in_page = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=[\"']((?:https?:)?//[^\"']+)", re.I)
    in_style = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", re.I)
    found = []
    for path in sorted(folder.rglob("*.html")) + sorted(folder.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(folder)}: {url}" for url in in_style.findall(text)]
        if path.suffix == ".html":
            found += [f"{path.relative_to(folder)}: {url}" for url in in_page.findall(text)]
    return found


# --- show it ----------------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_) -> None:
        pass


def server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Return a server of the folder's files that only this machine can reach."""
    handler = functools.partial(Quiet, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise Trouble(f"port {port} cannot be used ({error.strerror}): name another, --port {port + 1}") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["build", "serve", "examination"])
    parser.add_argument("--out", type=Path, default=BOOK / "_build", help="where it is built (default: book/_build)")
    parser.add_argument("--port", type=int, default=PORT, help=f"where `serve` shows it (default: {PORT})")
    options = parser.parse_args(arguments)
    try:
        if options.command == "examination":
            options.out.mkdir(parents=True, exist_ok=True)
            target = options.out / "examination-with-answers.md"
            target.write_text(with_answers(read_lessons(), settings()["plans"]), encoding="utf-8", newline="\n")
            print(f"{target}: for teachers; the book's page has the questions alone.")
            return 0
        pages = build(options.out.resolve())
        if options.command == "build":
            print(f"The book is {pages / 'index.html'}; `make book-serve` shows it.")
            return 0
        with server(pages, options.port) as serving:
            print(f"The book is at http://127.0.0.1:{options.port}/ until you press Ctrl-C.", flush=True)
            serving.serve_forever()
    except Trouble as trouble:
        print(f"book: {trouble}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
