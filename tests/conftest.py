"""What the test files share: things that take seconds to make, made once a session and only read."""

import pytest


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
