"""What the test files share: things that take seconds to make, made once a session and only read."""

import re

import pytest

FAULTS = "faults: "


@pytest.hookimpl(optionalhook=True)  # unknown under `-p no:xdist`
def pytest_xdist_make_scheduler(config, log):
    """Keep a file's tests on one worker, as loadfile does; those of the checks by lesson, for they take the longest."""
    from xdist.scheduler import LoadFileScheduling

    class ByLesson(LoadFileScheduling):
        def _split_scope(self, nodeid):
            lesson = re.search(r"test_checks\.py::.*\[(lesson\d\d)", nodeid)
            return lesson[1] if lesson else super()._split_scope(nodeid)

    return ByLesson(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items):
    """Let a file's tests of one exercise follow one another: what its build has computed then serves all of them."""
    first = {}

    def place(numbered):
        number, item = numbered
        exercise = exercise_of(item)
        return number if exercise is None else first.setdefault((item.path, id(exercise)), number)

    items[:] = [item for _, item in sorted(enumerate(items), key=place)]


def exercise_of(item):
    """Return the exercise that a test is given, if it is given one."""
    return getattr(getattr(item, "callspec", None), "params", {}).get("exercise")


@pytest.fixture(scope="session")
def docs():
    """The documentation corpus of this machine."""
    from nextbert_lite.corpora.python_docs import load_docs

    return load_docs()


@pytest.fixture(scope="session")
def world():
    """The toy world with the shipped grammar."""
    from nextbert_lite.corpora.toy_world import ToyWorld

    return ToyWorld()


@pytest.fixture(autouse=True)
def computed(request):
    """Keep what a build has computed only while its tests follow one another: that of all lessons takes gigabytes."""
    exercise = exercise_of(request.node)
    if exercise is not None and exercise is not request.session.__dict__.setdefault("exercise", exercise):
        from nextbert_lite.checks import core

        request.session.exercise = exercise
        core._known.clear()


@pytest.fixture
def tally(record_property):
    """Count the faults of a family that were tried and survived: one that was not fails the test."""

    def count(family, tried, survived):
        record_property(FAULTS + family, (tried, survived))
        assert tried and survived == tried, f"{family}: {tried - survived} of {tried} ended in a loss or in silence"

    return count


def pytest_terminal_summary(terminalreporter):
    """Print for each family of faults how many were tried and survived."""
    found = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        for name, counts in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
            if name.startswith(FAULTS):
                tried, survived = found.get(name, (0, 0))
                found[name] = tried + counts[0], survived + counts[1]
    for name, (tried, survived) in sorted(found.items()):
        terminalreporter.write_line(f"{name}: {tried} tried, {survived} survived")
