"""What the test files share: things that take seconds to make, made once a session and only read."""

import re

import pytest

FAULTS = "faults: "


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the tests of a file on one worker, as cells of a notebook must be; those of the checks lesson by lesson."""
    for item in items:
        lesson = re.search(r"\[(lesson\d\d)", item.name) if item.path.name == "test_checks.py" else None
        item.add_marker(pytest.mark.xdist_group(lesson[1] if lesson else item.path.name))


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
