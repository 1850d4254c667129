"""Tests that need a GPU: marked `cuda`, and skipped with the reason why there is none."""

import pytest

from decoding import ModelError
from decoding.model.graph.graph import Graph
from decoding.model.runtime.session import Session
from tests.helpers import build


def why_not():
    """Why no session starts on a GPU here; empty where one does."""
    try:
        Session(Graph.load(build.recurrent()), providers="cuda")
    except ModelError as error:
        return str(error)
    return ""


REASON = why_not()


def needs_cuda(test):
    """Mark a test, or all of a class."""
    return pytest.mark.cuda(pytest.mark.skipif(bool(REASON), reason=REASON)(test))
