"""The book's pages are made from the lessons: map, plans, glossary, what can be downloaded, what is folded."""

import ast
import base64
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

import nextbert_lite
from nextbert_lite import Encoder, EncoderConfig, MaskedLanguageModel
from nextbert_lite.course import cli
from nextbert_lite.course import workspace as lessons
from tools import plan as plan_page

ROOT = Path(__file__).resolve().parent.parent


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


book = load("book_tool", "tools/book.py")
conf = load("book_conf", "book/conf.py")
FOUND = book.read_lessons()
FILES = {lesson.number: lesson.path.name for lesson in FOUND}
EACH = pytest.mark.parametrize("lesson", [pytest.param(lesson, id=lesson.path.stem) for lesson in FOUND])


def rows(table):
    """Return a Markdown table's rows below its head, each a list of texts."""
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """All that Sphinx would read, without what npm brings."""
    into = tmp_path_factory.mktemp("book")
    patch = pytest.MonkeyPatch()
    patch.setattr(book, "unpack", lambda package, into: None)
    book.lay_out(into)
    patch.undo()
    return into


# --- from the lessons' headers ----------------------------------------------------------------------------------------


def test_every_lesson_is_read_with_its_part_its_exercises_and_what_it_needs():
    assert [lesson.path.name for lesson in FOUND] == [path.name for path in lessons.find_lessons()]
    for lesson in FOUND:
        tagged = [name for cell in lessons.read_notebook(lesson.path)["cells"] if (name := book.exercise_of(cell))]
        assert sorted(exercise.id for exercise in lesson.exercises) == sorted(tagged)
        assert all(1 <= exercise.level <= 3 and exercise.minutes > 0 for exercise in lesson.exercises)
        assert sum(exercise.minutes for exercise in lesson.exercises) < lesson.minutes
        assert lesson.uses or lesson is FOUND[0]
        assert set(lesson.uses) <= set(FILES)


def test_the_lessons_of_a_part_stand_together():
    parts = [lesson.part for lesson in FOUND]
    assert len({*parts}) > 1 and sorted(parts, key=parts.index) == parts


@pytest.mark.parametrize("missing", ["part", "title", "question", "minutes", "row 'You need'"])
def test_a_lesson_that_does_not_say_what_the_book_needs_is_named(missing, tmp_path):
    notebook = lessons.read_notebook(FOUND[2].path)
    if missing.startswith("row"):
        notebook["cells"] = notebook["cells"][2:]
    else:
        del notebook["metadata"]["lesson"][missing]
    path = tmp_path / "77_odd.ipynb"
    path.write_text(lessons.write_notebook(notebook), encoding="utf-8")
    with pytest.raises(book.Trouble, match=rf"77_odd\.ipynb has no {missing}: .*make notebooks ONLY=77"):
        book.read_lesson(path, {})


# --- the map and the tables -------------------------------------------------------------------------------------------


def test_the_map_has_every_lesson_and_an_arc_for_each_that_it_uses():
    svg = ElementTree.fromstring(book.course_map(FOUND))
    name = "{http://www.w3.org/2000/svg}"
    links = svg.findall(f"{name}a")
    assert [a.get("href") for a in links] == [f"lessons/{lesson.path.stem}.html" for lesson in FOUND]
    assert [a.find(f"{name}text").text for a in links] == [f"{lesson.number} {lesson.title}" for lesson in FOUND]
    arcs = {path.get("class") for path in svg.find(f"{name}g").findall(f"{name}path")}
    assert arcs == {f"from{used} to{lesson.number}" for lesson in FOUND for used in lesson.uses}
    described = {svg.get("aria-labelledby"), svg.get("aria-describedby")}
    assert described == {svg.find(f"{name}title").get("id"), svg.find(f"{name}desc").get("id")}
    for lesson in FOUND[1:]:
        assert f"lesson {lesson.number} uses {lesson.uses[0]}" in svg.find(f"{name}desc").text


def test_a_title_with_markup_in_it_is_text_on_the_map():
    odd = replace(FOUND[0], title="<script> & more", part="a < b")
    svg = ElementTree.fromstring(book.course_map([odd]))
    assert "00 <script> & more" in "".join(svg.itertext()) and "a < b" in "".join(svg.itertext())


ODD = "<script>alert(1)</script> [a](b) | *c* `d` $e$ \\ &amp; _f_ https://example.org {{g}}\n# h"


@pytest.mark.parametrize("make", [book.course_table, book.needs_table, book.effort_table])
def test_a_title_a_question_and_a_part_are_text_in_the_tables(make):
    from markdown_it import MarkdownIt

    given = make([replace(FOUND[0], title=ODD, question=ODD, part=ODD, exercises=())])
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(given)
    shown = " ".join(ODD.split())
    cells = ElementTree.fromstring(f"<page>{page}</page>").find("table/tbody/tr").findall("td")
    assert len(cells) == len(given.splitlines()[1].strip("|").split("|"))
    texts = ["".join(cell.itertext()) for cell in cells]
    wanted = {book.course_table: 2, book.needs_table: 3, book.effort_table: 1}[make]
    assert sum(shown in text for text in texts) == wanted and f"00 {shown}" in texts
    inside = {node.tag for cell in cells[:3] for node in cell.iter()}
    assert inside <= {"td", "a"}


@pytest.mark.parametrize(
    "name", ['02_a"><script>.ipynb', "02_a b.ipynb", "02_a\nb.ipynb", "02_a](b).ipynb", "02_.ipynb"]
)
def test_a_file_whose_name_could_not_stand_in_a_page_is_refused(name, tmp_path):
    with pytest.raises(book.Trouble, match=r"is no lesson's name: call it like 02_attention\.ipynb"):
        book.read_lesson(tmp_path / name, {})


def test_the_name_of_a_part_stays_a_caption():
    contents = book.toctrees([replace(FOUND[0], part='A "part"\n:glob:\n```')])
    assert ':caption: "A \\"part\\"\\n:glob:\\n```"\n' in contents and "\n:glob:" not in contents


def test_a_stored_picture_ends_no_attribute():
    data = {book.VIEW: {}, "image/png": 'iVBOR"><script>alert(1)</script>'}
    output = {"data": data, "metadata": {"image/png": {"alt": '"><b>'}}, "output_type": "display_data"}
    picture = book.with_figure(output)[1]["data"]["text/html"]
    assert "<script" not in picture and "<b>" not in picture and picture.count('"') == 4


@pytest.mark.parametrize("hostile", ["</script>", "</SCRIPT >", "</script\n>", "<!--<script>", "<ScRiPt>", "a < b"])
def test_a_stored_output_never_ends_the_script_that_holds_it(hostile):
    class Reader(HTMLParser):
        found = ""

        def handle_data(self, data):
            self.found += data

    held = conf.within_script(json.dumps({"title": f"{hostile}<img src=x>"}))
    reader = Reader()
    reader.feed(f'<script type="application/json">{held}</script>')
    reader.close()
    assert json.loads(reader.found) == {"title": f"{hostile}<img src=x>"}
    assert not re.search("</?script|<!--", held, re.IGNORECASE)


def test_sphinx_writes_stored_outputs_so(monkeypatch):
    render = pytest.importorskip("myst_nb.core.render")
    monkeypatch.setattr(render, "sanitize_script_content", render.sanitize_script_content)
    conf.setup(SimpleNamespace(connect=lambda *arguments: None))
    assert render.sanitize_script_content('"</SCRIPT >"') == '"\\u003c/SCRIPT >"'


@pytest.mark.parametrize("make", [book.course_table, book.needs_table, book.effort_table])
def test_the_tables_have_every_lesson_with_its_minutes(make):
    found = [row for row in rows(make(FOUND)) if row[0] != "all"]
    assert len(found) == len(FOUND)
    for row, lesson in zip(found, FOUND, strict=True):
        assert book.link(lesson) in row and f"{lesson.minutes} min" in row


def test_the_efforts_add_up():
    total = rows(book.effort_table(FOUND))[-1]
    assert total[1] == f"{sum(lesson.minutes for lesson in FOUND)} min"
    assert total[2] == f"{sum(exercise.minutes for lesson in FOUND for exercise in lesson.exercises)} min"


@pytest.mark.parametrize(
    ("minutes", "weeks", "wanted"),
    [
        ([10, 10, 10], 3, [1, 1, 1]),
        ([10, 10], 5, [1, 1]),  # fewer lessons than weeks
        ([10, 10, 50], 2, [2, 1]),
        ([50, 10, 10, 30], 3, [1, 2, 1]),
        ([5] * 6, 2, [3, 3]),
    ],
)
def test_lessons_are_spread_evenly_over_the_weeks_in_their_order(minutes, weeks, wanted):
    assert book.spread(minutes, weeks) == wanted


PLANS = book.settings()["plans"]
EACH_PLAN = pytest.mark.parametrize("plan", [pytest.param(plan, id=plan["name"]) for plan in PLANS])


def with_later(minutes):
    """Return the lessons with further ones, numbered from 30, of these minutes."""
    names = enumerate(minutes, 30)
    return [*FOUND, *(replace(FOUND[-1], number=str(n), title=f"later {n}", minutes=m) for n, m in names)]


@EACH_PLAN
@pytest.mark.parametrize("later", [(), (150, 150, 150), (180, 120, 200), (130,) * 6])
def test_a_plan_holds_each_of_its_lessons_once_after_those_that_it_needs_with_even_weeks(plan, later):
    found = with_later(later)
    wanted = plan.get("lessons") or [lesson.number for lesson in found]
    table = rows(book.plan_table(found, plan, book.settings()["reading"]))
    assert [name for row in table for name in re.findall(r"\[(\d\d) ", row[1])] == wanted == sorted(wanted)
    for lesson in book.chosen(found, plan):
        assert set(lesson.uses) <= set(wanted)  # and those are earlier, for they have a lower number
    assert table[-1][0].endswith(str(plan["weeks"])) and table[-1][1] == "Projects"
    weeks = book.weeks_of(found, plan)
    loads = [sum(lesson.minutes for lesson in week) for week in weeks]
    assert len(weeks) == plan["weeks"] - plan["project_weeks"]
    assert all(abs(load - sum(loads) / len(loads)) <= sum(loads) / len(loads) / 3 for load in loads)
    for a, b, week, after in zip(
        loads, loads[1:], weeks, weeks[1:], strict=False
    ):  # no lesson would move for the better
        assert len(week) == 1 or a - b <= week[-1].minutes
        assert len(after) == 1 or b - a <= after[0].minutes
    for row, load in zip(table, loads, strict=False):
        in_class, at_home = (int(row[i].split()[0]) for i in (2, 3))
        assert in_class + at_home == load and in_class <= plan["class_minutes"]


def test_the_six_weeks_are_the_search_engine_and_all_that_it_needs():
    uses = {lesson.number: lesson.uses for lesson in FOUND}
    needed = {"12"}
    while more := {n for number in needed for n in uses[number]} - needed:
        needed |= more
    (six,) = (plan for plan in PLANS if plan["name"] == "six")
    assert six["lessons"] == sorted(needed)


@EACH_PLAN
def test_the_hours_of_a_plan_are_the_sum_of_its_lessons_and_its_weeks(plan):
    taken = book.chosen(FOUND, plan)
    total = sum(lesson.minutes for lesson in taken)
    said = book.load_of(FOUND, plan)
    assert said.startswith(f"{len(taken)} lessons, {total // 60} h {total % 60:02} min of work")
    assert f"{sum(lesson.seconds for lesson in taken) / 60:.0f} minutes of computing" in said


def test_what_is_read_in_a_week_is_cited_by_its_lessons_once_in_the_term():
    known = book.settings()["reading"]
    for plan in PLANS:
        papers = [paper for row in rows(book.plan_table(FOUND, plan, known)) for paper in row[4:] if paper.strip("| ")]
        each = [paper.rpartition(", ")[2] for week in papers for paper in week.rstrip(" |").split("; ")]
        assert len(each) == len(set(each))
        for lesson in book.chosen(FOUND, plan):
            places = {entry.rpartition(", ")[2] for entry in book.reading(lesson, known)}
            sources = " ".join(book.sources_of(lesson).split())
            assert places and places <= set(each) and all(place in sources for place in places)


def test_a_lesson_without_an_entry_has_its_first_linked_source_and_a_paper_that_is_not_cited_is_refused():
    (attention,) = (lesson for lesson in FOUND if lesson.number == "02")
    assert book.reading(attention, {}) == ["[arXiv:1706.03762](https://arxiv.org/abs/1706.03762)"]
    with pytest.raises(book.Trouble, match=r"'arXiv:0000\.00000' to read with lesson 02, which does not cite it"):
        book.reading(attention, {"02": ["Nobody, arXiv:0000.00000"]})


def test_a_plan_that_names_a_lesson_that_is_not_there_is_refused():
    with pytest.raises(book.Trouble, match="names lesson 98 in 'odd', and there is none"):
        book.chosen(FOUND, {"name": "odd", "lessons": ["02", "98"]})


ROUTES = book.settings()["routes"]


@pytest.mark.parametrize("route", [pytest.param(route, id=route["name"]) for route in ROUTES])
def test_a_route_has_what_each_of_its_lessons_names_or_says_what_is_needed_from_it(route):
    taken = book.chosen(FOUND, route)
    numbers = [lesson.number for lesson in taken]
    lessons_of, *missing = book.route_tables(FOUND, route).split("\n\n")
    table = rows(lessons_of)
    assert [row[0][1:3] for row in table] == numbers == sorted(numbers)
    total = sum(lesson.minutes for lesson in taken)
    assert table[-1][2] == f"{total // 60} h {total % 60:02} min"
    told = {row[0][1:3]: row[2] for part in missing for row in rows(part)}
    for lesson in taken:
        text = book.told(lessons.read_notebook(lesson.path))
        earlier = {number for number in book.lessons_named(text) if number < lesson.number}
        assert {n for n in {*earlier, *lesson.uses} if n in FILES} <= {*numbers, *told}
    assert set(route.get("assumed", {})) <= set(told)  # nothing is asked for that nobody names
    assert all(told[n].rstrip(" |") == sentence for n, sentence in route.get("assumed", {}).items())


def test_the_routes_are_eight_lessons_all_of_the_first_four_parts_and_the_fifth_for_those_who_know_bert():
    search, parts, later = (book.chosen(FOUND, route) for route in ROUTES)
    assert len(search) == 8 and (search[0].number, search[-1].number) == ("02", "12")
    four = re.compile(r"Part (I|II|III|IV):")
    assert parts == [lesson for lesson in FOUND if four.match(lesson.part)] and not book.left_out(parts)
    assert later[1:] == [lesson for lesson in FOUND if not four.match(lesson.part)]


def test_a_left_out_lesson_that_book_toml_says_nothing_about_leads_to_the_lessons_that_name_it():
    tables = book.route_tables(FOUND, {"name": "odd", "lessons": ["03"]})
    assert "| 03 | what 03 says where it names it |" in tables


def test_what_a_lesson_needs_is_every_number_of_its_row_and_a_range_is_all_of_it():
    assert book.numbers_in("lessons 02 to 04 for the parts, 09 and 12 for search; a lesson of 2019") == [
        "02", "03", "04", "09", "12",
    ]  # fmt: skip
    assert next(lesson for lesson in FOUND if lesson.number == "23").uses == ("02", "03", "04", "05", "09")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("lesson 06, the toy world; Lesson 04", ["06", "04"]),
        ("lessons 02 and 03; lesson 01 for the embeddings", ["02", "03", "01"]),
        ("lessons 03 to 05, 09 and 12", ["03", "04", "05", "09", "12"]),
        ("exercise 02.1, 15 % and lesson 06's model", ["06"]),
    ],
)
def test_the_lessons_that_a_text_names_are_read_off_it(text, wanted):
    assert book.lessons_named(text) == wanted


def test_the_workshop_runs_through_without_gaps_and_names_only_what_is_there():
    workshop = book.settings()["workshop"]
    plan = rows(book.workshop_table(FOUND, workshop))
    clock = [60 * int(row[0][:2]) + int(row[0][3:]) for row in plan]
    assert plan[0][0] == workshop["start"] and clock[-1] <= 18 * 60
    assert [b - a for a, b in zip(clock, clock[1:], strict=False)] == [b["minutes"] for b in workshop["blocks"]]
    known = {exercise.id: lesson.number for lesson in FOUND for exercise in lesson.exercises}
    for block in workshop["blocks"]:
        for name in re.findall(r"\d\d\.\d", block["what"]):
            assert known[name] == block["lesson"]


# --- the glossary -----------------------------------------------------------------------------------------------------


TOLD = {lesson.number: book.told(lessons.read_notebook(lesson.path)) for lesson in FOUND}


@pytest.mark.parametrize("term", [pytest.param(term, id=term["en"]) for term in book.glossary_terms()])
def test_each_term_of_the_glossary_is_used_by_a_lesson_and_has_its_chinese_word_and_a_sentence(term):
    assert book.first_use(term, TOLD) is not None
    assert re.search(r"[\u4e00-\u9fff]", term["zh"])
    assert term["says"].endswith((".", "?")) and 4 <= len(term["says"].split()) <= 25
    assert "|" not in term["en"] + term["zh"] + term["says"]  # it would end the table's cell


def test_no_term_stands_twice_and_each_leads_to_its_first_lesson():
    names = [term["en"].lower() for term in book.glossary_terms()]
    assert len(set(names)) == len(names) >= 80
    table = rows(book.glossary_table(FOUND))
    assert [row[0].strip("*").lower() for row in table] == sorted(names)
    by_name = {row[0]: row for row in table}
    assert by_name["**BM25**"][3] == f"[10](lessons/{FILES['10']})"
    assert "{.language-zh-Hans}" in by_name["**BM25**"][1]  # a screen reader then reads it as Chinese


@pytest.mark.parametrize(
    ("name", "lesson"),
    [("attention head", "03"), ("negative", "09"), ("positive", "09"), ("bidirectional context", "05"), ("mask", "01"),
     ("uniformity", "10"), ("sentence embedding", "10"), ("assert", "00"), ("collapse", "09")],
)  # fmt: skip
def test_a_term_leads_to_the_lesson_that_means_it_and_not_to_a_word_that_looks_like_it(name, lesson):
    (term,) = [term for term in book.glossary_terms() if term["en"] == name]
    assert book.first_use(term, TOLD) == lesson


def test_a_term_is_looked_for_as_a_whole_word_and_not_among_the_titles_of_sources():
    texts = {"00": "the heading of [MASK]", "01": "masks and heads"}
    assert book.first_use({"en": "head", "find": "heads?"}, texts) == "01"
    assert book.first_use({"en": "mask", "find": "masks?"}, texts) == "01"
    assert book.first_use({"en": "heading", "from": "01"}, texts) is None
    cells = [("markdown", "Text.\n\n**Where this comes from**\n\n* Uniformity."), ("code", "assert x")]
    told = book.told({"cells": [{"cell_type": kind, "source": text} for kind, text in cells]})
    assert "Uniformity" not in told and told.endswith("assert")


def test_a_term_that_no_lesson_uses_is_refused(monkeypatch):
    monkeypatch.setattr(book, "glossary_terms", lambda: [{"en": "flux capacitor", "zh": "通量", "says": "None."}])
    with pytest.raises(book.Trouble, match="no lesson uses the glossary's term 'flux capacitor'"):
        book.glossary_table(FOUND)


# --- a lesson's page --------------------------------------------------------------------------------------------------


@EACH
def test_the_page_shows_each_exercise_blank_and_folds_its_solution_and_what_the_check_says(lesson):
    notebook = lessons.read_notebook(lesson.path)
    page = book.page_of(notebook, lesson, FILES)
    code = [cell for cell in page["cells"] if cell["cell_type"] == "code"]
    folded = [i for i, cell in enumerate(code) if "hide-input" in cell["metadata"].get("tags", [])]
    solutions = [i for i in folded if "### BEGIN SOLUTION" in book.text_of(code[i])]
    for i in (i for i in folded if i not in solutions):
        assert code[i]["metadata"]["mystnb"]["code_prompt_show"] == "Show the drawing code"
    assert len(solutions) == len(lesson.exercises)
    for i in solutions:
        blank, solution, check = code[i - 1 : i + 2]
        assert lessons.BLANK in book.text_of(blank) and "SOLUTION" not in book.text_of(blank)
        assert "### BEGIN SOLUTION" in book.text_of(solution) and solution["metadata"]["tags"] == ["hide-input"]
        assert "check." in book.text_of(check) and check["metadata"]["tags"] == ["hide-output"]
    hidden = [i for i, cell in enumerate(code) if {"hide-input", "hide-output"} & {*cell["metadata"].get("tags", [])}]
    assert hidden == sorted([*folded, *(i + 1 for i in solutions)])
    assert len({cell["id"] for cell in page["cells"]}) == len(page["cells"])


@EACH
def test_the_page_keeps_every_output_and_offers_the_downloads_below_the_title(lesson):
    notebook = lessons.read_notebook(lesson.path)
    before = json.dumps(notebook)
    page = book.page_of(notebook, lesson, FILES)
    assert json.dumps(notebook) == before
    kept = [output for cell in page["cells"] for output in cell.get("outputs", [])]
    wanted = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert [o for o in kept if "<noscript>" not in str(o)] == [
        o if book.VIEW not in o.get("data", {}) else o | {"data": {book.VIEW: o["data"][book.VIEW]}} for o in wanted
    ]
    title, empty, line = book.text_of(page["cells"][0]).split("\n")[:3]
    assert title == f"# {lesson.number} · {lesson.title}" and not empty
    assert re.findall(r'href="\.\./downloads/(\w+)/([\w.]+)"', line) == [
        (version, lesson.path.name) for version in book.VERSIONS
    ]


def test_a_view_keeps_its_figure_for_a_browser_that_runs_no_scripts():
    image = base64.b64encode(b"figure").decode()
    output = {
        "output_type": "display_data",
        "data": {book.VIEW: {"model_id": "1"}, "image/png": image, "text/plain": "a"},
        "metadata": {"image/png": {"alt": 'Two "heads" < four'}},
    }
    view, figure = book.with_figure(output)
    assert view["data"] == {book.VIEW: {"model_id": "1"}}
    (shown,) = figure["data"].values()
    assert image in shown and 'alt="Two &quot;heads&quot; &lt; four"' in shown and shown.startswith("<noscript>")
    assert book.with_figure({"output_type": "stream", "text": "x"}) == [{"output_type": "stream", "text": "x"}]


@EACH
def test_every_figure_is_known_by_the_name_that_sphinx_gives_its_file(lesson, laid_out):
    notebook = lessons.read_notebook(lesson.path)
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    figures = book.figures_of(notebook)
    assert sorted(figures.values()) == sorted(o["metadata"]["image/png"]["alt"] for o in outputs)
    assert all(re.fullmatch(r"[0-9a-f]{64}", name) for name in figures)
    assert figures.items() <= json.loads((laid_out / "figures.json").read_text(encoding="utf-8")).items()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("see lesson 02.", "see [lesson 02](two)."),
        ("Lesson 02 and lesson 03", "[Lesson 02](two) and [lesson 03](three)"),
        ("lessons 02 and 03; lesson 02", "lessons [02](two) and [03](three); [lesson 02](two)"),
        ("lesson 01 is this one, lesson 99 is none", "lesson 01 is this one, lesson 99 is none"),
        ("`lesson 02` and [lesson 02](else) and $lesson 02$", "`lesson 02` and [lesson 02](else) and $lesson 02$"),
        ("## lesson 02", "## lesson 02"),
        ("```\nlesson 02\n```\nlesson 02", "```\nlesson 02\n```\n[lesson 02](two)"),
        ("exercise 02.1 and figure 02", "exercise 02.1 and figure 02"),
    ],
)
def test_a_lesson_that_the_text_names_becomes_a_link(text, wanted):
    assert book.linked(text, "01", {"01": "one", "02": "two", "03": "three"}) == wanted


# --- the downloads ----------------------------------------------------------------------------------------------------


@EACH
def test_the_learners_download_is_what_start_writes_without_a_solution(lesson, laid_out, tmp_path):
    lessons.prepare(tmp_path)
    path = laid_out / "extra" / "downloads" / "learner" / lesson.path.name
    assert path.read_bytes() == (tmp_path / lesson.path.name).read_bytes()
    text = path.read_text(encoding="utf-8")
    assert "BEGIN SOLUTION" not in text and '"outputs": []' in text
    code = [book.text_of(cell) for cell in lessons.read_notebook(path)["cells"] if cell["cell_type"] == "code"]
    assert sum(lessons.BLANK in cell for cell in code) == len(lesson.exercises)


@EACH
def test_the_instructors_download_is_the_lesson_itself(lesson, laid_out):
    path = laid_out / "extra" / "downloads" / "instructor" / lesson.path.name
    assert lessons.read_notebook(path) == lessons.read_notebook(lesson.path)


@EACH
def test_the_copy_for_nbgrader_marks_each_exercise_and_its_check_with_a_point_for_each_dot(lesson, laid_out):
    notebook = lessons.read_notebook(laid_out / "extra" / "downloads" / "nbgrader" / lesson.path.name)
    marked = [(cell, cell["metadata"]["nbgrader"]) for cell in notebook["cells"] if "nbgrader" in cell["metadata"]]
    points = {exercise.id.replace(".", "-"): exercise.level for exercise in lesson.exercises}
    assert len(marked) == 2 * len(points)
    for (answer, a), (check, c) in zip(marked[::2], marked[1::2], strict=True):
        name = a["grade_id"].removeprefix("exercise-")
        assert (a["solution"], a["grade"], a["locked"]) == (True, False, False) and "points" not in a
        assert (c["solution"], c["grade"], c["locked"]) == (False, True, True)
        assert c["grade_id"] == f"check-{name}" and c["points"] == points.pop(name)
        assert "BEGIN SOLUTION" in book.text_of(answer) and "check." in book.text_of(check)
    assert not points
    assert not any(cell.get("outputs") for cell in notebook["cells"])


# --- pages, reference, settings ---------------------------------------------------------------------------------------


def test_nothing_is_left_to_insert_and_every_page_is_in_the_contents(laid_out):
    for page in laid_out.glob("*.md"):
        assert "<!-- insert" not in page.read_text(encoding="utf-8"), page.name
    contents = (laid_out / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:lessons/|reference/)?[\w-]+$", contents, re.MULTILINE)
    pages = {path.stem for path in laid_out.glob("*.md")} - {"index"}
    assert {*pages, "reference/index", *(f"lessons/{lesson.path.stem}" for lesson in FOUND)} <= set(listed)


def test_the_page_of_the_examination_has_the_questions_and_no_answer(laid_out):
    page = (laid_out / "examination.md").read_text(encoding="utf-8")
    for question in book.questions():
        assert question.text in page and question.answer not in page
    assert "answer -->" not in page and "Model answer" not in page
    assert not [path for path in (laid_out / "extra").rglob("*") if "examination" in path.name]


def test_the_front_page_counts_what_is_there(laid_out):
    text = (laid_out / "index.md").read_text(encoding="utf-8")
    exercises = sum(len(lesson.exercises) for lesson in FOUND)
    assert f"There are {len(FOUND)} lessons with {exercises} exercises" in text


def test_the_reference_has_each_room_with_a_page_for_each_module_and_its_summary(laid_out):
    rooms = book.modules()
    assert list(rooms)[:6] == [room.split(":")[0] for room in nextbert_lite.ROOMS]
    assert "core.attention" in rooms["core"] and "corpora.toy_world" in rooms["corpora"] and "files" in rooms[""]
    index = (laid_out / "reference" / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", index, re.MULTILINE) == [room or "beside the rooms" for room in rooms]
    for name in (name for names in rooms.values() for name in names):
        assert not re.search("lesson_|__", name)
        source = (ROOT / "nextbert_lite" / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        page = (laid_out / "reference" / f"{name}.rst").read_text(encoding="utf-8")
        assert f".. automodule:: nextbert_lite.{name}\n" in page
        summary = " ".join(ast.get_docstring(ast.parse(source)).split("\n\n")[0].split())
        assert f"[{name}]({name}.rst) | {summary} |" in index.replace("\\|", "|")


@pytest.mark.parametrize(
    ("docstring", "wanted"),
    [
        ("Use `pad(x)` and *args | None, not x_.", r"Use ``pad(x)`` and \*args \| None, not x\_."),
        ("True means *may be read*, 2 * 3.", r"True means *may be read*, 2 \* 3."),
        ("Do.\n\nC: width.", "Do.\n\n\n* ``C``: width."),
        ("`texts`s", r"``texts``\ s"),
        ("Do.\n\nx: (B, T),\nof tokens.\ny, z: two.", "Do.\n\n\n* ``x``: (B, T),\n  of tokens.\n\n* ``y, z``: two."),
        ("Do.\n\n    a = 1\n    b = `2`\n\nThen.", "Do.\n\n::\n\n    a = 1\n    b = `2`\n\nThen."),
        ("from: the summary is never an item", "from: the summary is never an item"),
    ],
)
def test_a_docstring_becomes_restructured_text(docstring, wanted):
    assert "\n".join(conf.rst(docstring.split("\n"))) == wanted


def test_the_packages_docstrings_lose_no_word_on_the_way():
    from nextbert_lite.core import attention, encoder

    for thing in (attention.scaled_dot_product_attention, encoder.EncoderConfig, encoder.Encoder):
        text = inspect.getdoc(thing)
        words = re.findall(r"\w+", "\n".join(conf.rst(text.split("\n"))))
        assert words == re.findall(r"\w+", text)


def test_a_signature_that_sphinx_cannot_read_back_is_shortened_here():
    long = (
        "(right: ~collections.abc.Callable[[~torch._C.Generator], tuple], reads: ~typing.Any = <function E.<lambda>>)"
    )
    short = "(right: Callable[[Generator], tuple], reads: Any = ...)"
    assert conf.on_signature(None, "class", "E", None, None, long, None) == (short, None)


def test_a_figure_of_the_page_gets_the_sentence_that_stands_in_the_notebook(monkeypatch, tmp_path):
    nodes = pytest.importorskip("docutils.nodes", reason="this test needs the extra book: make test-extras installs it")
    monkeypatch.setattr(conf, "FIGURES", tmp_path / "figures.json")
    conf.FIGURES.write_text(json.dumps({"abc": "The loss falls."}))
    known, other = (nodes.image(uri=f"_images/{name}.png", alt="a file") for name in ("abc", "def"))
    conf.on_doctree(None, nodes.section("", known, other))
    assert (known["alt"], other["alt"]) == ("The loss falls.", "a file")


# --- no network -------------------------------------------------------------------------------------------------------


REMOTE = {
    "a script": ("a.html", '<script async src="https://cdn.example/x.js"></script>'),
    "a style": ("a.html", "<link rel='stylesheet' href='//fonts.example/css'>"),
    "a picture": ("a.html", '<img alt="" src="http://example/x.png">'),
    "an import": ("a.html", "<style>@import 'https://example/x.css';</style>"),
    "a font": ("_static/a.css", 'src: url("https://example/font.woff2")'),
}


@pytest.mark.parametrize(("name", "text"), REMOTE.values(), ids=REMOTE)
def test_a_page_that_would_fetch_something_from_the_network_is_found(tmp_path, name, text):
    (tmp_path / "_static").mkdir()
    (tmp_path / name).write_text(text)
    (fault,) = book.remote_assets(tmp_path)
    assert fault.startswith(name) and "example" in fault


def test_links_to_read_and_local_files_are_no_fault(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="https://arxiv.org/abs/1">paper</a><script src="_static/x.js"></script><svg xmlns="http://www.w3.org"/>'
    )
    assert book.remote_assets(tmp_path) == []


def test_every_npm_package_is_named_with_its_exact_version_and_hash():
    text = (ROOT / "book" / "book.toml").read_text(encoding="utf-8")
    for package in tomllib.loads(text)["npm"]:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert re.fullmatch(r"sha512-[\w+/]{86}==", package["integrity"])
    assert "http" not in text  # the registry is npm's own setting


def test_without_npm_and_without_a_cache_the_book_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(book, "CACHE", tmp_path)
    monkeypatch.setattr(book.shutil, "which", lambda name: None)
    with pytest.raises(book.Trouble, match=r"apt install npm.*later builds need neither npm nor the network"):
        book.npm_package("requirejs")


@pytest.mark.parametrize("returncode", [0, 1])
def test_what_npm_did_not_fetch_or_another_file_of_that_name_is_refused(monkeypatch, tmp_path, returncode):
    class Done:
        stdout = b"npm error network\n"

    def run(command, **_):
        if returncode == 0:
            (tmp_path / "requirejs-2.3.8.tgz").write_bytes(b"something else")
        Done.returncode = returncode
        return Done

    monkeypatch.setattr(book, "CACHE", tmp_path)
    monkeypatch.setattr(book.shutil, "which", lambda name: name)
    monkeypatch.setattr(book.subprocess, "run", run)
    with pytest.raises(book.Trouble, match="its hash differs" if returncode == 0 else "npm error network"):
        book.npm_package("requirejs")
    assert not list(tmp_path.iterdir())


def test_the_views_script_comes_with_anywidget():
    assert "anywidget" in book.anywidget_script().read_text(encoding="utf-8")


# --- what is mended ---------------------------------------------------------------------------------------------------


def test_buttons_and_folds_have_the_names_that_they_show():
    button = (
        '<button class="btn search-button-field x" title="Search" aria-label="Search" data-x="1"><span>Search</span>'
    )
    assert book.mended(button) == button.replace(' aria-label="Search"', "")
    assert book.mended('<summary aria-label="Toggle hidden content">') == "<summary>"
    assert book.mended('<summary><span class="toctree-toggle">').startswith('<summary aria-label="The pages below">')


def test_a_long_signature_is_no_list_of_terms_and_a_real_one_stays():
    signature = '(<dl>\n<dd><em class="sig-param">a</em>,</dd>\n<dd><em class="sig-param">b</em>,</dd>\n</dl>)'
    lines = '<div><em class="sig-param">a</em>,</div>\n<div><em class="sig-param">b</em>,</div>\n'
    assert book.mended(signature) == f'(<div class="sig-lines">{lines}</div>)'
    terms = '<dl class="py function">\n<dt>a</dt>\n<dd><p>b</p></dd></dl>'
    assert book.mended(terms) == terms


# --- building and showing ---------------------------------------------------------------------------------------------


def test_a_book_from_which_nothing_has_changed_is_not_built_again(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(book, "lay_out", lambda into: pytest.fail("built again"))
    (tmp_path / "made-from.txt").write_text(book.fingerprint())
    assert book.main(["build", "--out", str(tmp_path)]) == 0
    assert "index.html" in capsys.readouterr().out


def test_a_changed_page_changes_the_books_fingerprint(monkeypatch, tmp_path):
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_build"))
    monkeypatch.setattr(book, "BOOK", tmp_path / "book")
    before = book.fingerprint()
    (tmp_path / "book" / "index.md").write_text("# Other")
    assert book.fingerprint() != before


def test_the_server_is_reached_from_this_machine_only_and_a_taken_port_is_told(tmp_path):
    with book.server(tmp_path, 0) as server:
        host, port = server.server_address
        assert host == "127.0.0.1"
        with pytest.raises(book.Trouble, match=f"port {port} cannot be used.*--port {port + 1}"):
            book.server(tmp_path, port)


# --- several machines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["devices.md", "plan.md", "use.md"])
def test_every_command_of_a_page_is_one_that_the_package_takes(page):
    text = (ROOT / "book" / page).read_text(encoding="utf-8").replace("\\\n", " ")
    command = r"^(?:(?:torchrun|srun) .*-m nextbert_lite|(?:\.venv/bin/)?nextbert-lite) (.+?)(?:\s#.*)?$"
    commands = [shlex.split(line) for line in re.findall(command, text, re.M)]
    for command in commands:
        cli.parser().parse_args(command)
    assert commands


def test_the_plans_figures_follow_from_the_model_its_batch_and_the_published_run():
    given, seconds = plan_page.lesson(), 86_400
    N = sum(p.numel() for p in MaskedLanguageModel(Encoder(EncoderConfig.preset("base", plan_page.VOCAB))).parameters())
    text = plan_page.amounts()
    assert text["parameters"] == f"{N / 1e6:.0f} million" and text["state"] == f"{(4 + 4 + 8) * N / 1e9:.1f} GB"
    used = (
        6 * 149e6 * 1.719e12 / (8 * 989.4e12 * 191.1 * 3600)
    )  # ModernBERT-base: parameters, tokens, GPUs, peak, hours
    assert given["utilization"]["ModernBERT-base, 2024"] == pytest.approx(used, rel=1e-3)
    times = rows(plan_page.time(book.table))
    for name, tokens, _, gpus, days, half, hours in times:
        tokens = plan_page.BUDGETS[name] or 20 * N
        expected = 6 * N * tokens / (int(gpus) * 989.4e12 * used) / seconds  # nothing is waited for at this size
        for told, factor in ((days, 1), (half, 2)):
            number, _, unit = told.partition(" ")
            in_days = float(number) / {"": 1, "h": 24, "min": 1440}[unit]
            assert in_days == pytest.approx(factor * expected, rel=0.05, abs=0.06 if not unit else 0.06 / 24)
        assert float(hours.replace(",", "")) == pytest.approx(24 * int(gpus) * expected, rel=0.05, abs=1)
    assert len(times) == len(plan_page.RANKS) * len(plan_page.BUDGETS)
    page = (ROOT / "book" / "plan.md").read_text(encoding="utf-8")
    assert all(f"--batch {plan_page.ROWS}" in line for line in page.splitlines() if "--preset base" in line)
    assert f"--accumulate {plan_page.ACCUMULATE[8]}" in page and f"--vocab {plan_page.VOCAB}" in page
