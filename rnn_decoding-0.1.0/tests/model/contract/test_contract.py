"""decoding/model/contract/: what a contract feeds, what it says of itself, and the program around it."""

import numpy as np
import pytest

from decoding import ModelError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput, Draw, Logits, State, Token, Window
from decoding.model.contract.program import FoldedStep, StepProgram
from decoding.model.graph.graph import Graph
from decoding.model.runtime.session import Session
from tests.helpers import build

FLOAT, INT = np.dtype(np.float32), np.dtype(np.int64)
STATE = State("h", "h_out", 1, np.array([[[1, 2]]], np.float32), "hidden in GRU g")
MASK = AuxiliaryInput("mask", "source_mask", FLOAT, 2, (None,), source="memory", inverted=True)
INPUTS = (
    AuxiliaryInput("position", "position", INT, 2),
    AuxiliaryInput("memory", "context", FLOAT, 3, (None, 3), source_axis=0),
    MASK,
    AuxiliaryInput("z", "latent", FLOAT, 2, (4,), draw=Draw(every="step")),
)
CONTRACT = Contract(Token("ids", "TB"), Logits("scores", "BTV", 7), (STATE,), INPUTS, True, attention="weights")


def test_an_initial_state_is_repeated_for_each_row():
    rows = STATE.initial_rows(3)
    assert rows.shape == STATE.shape(3) == (1, 3, 2)
    assert (rows == [1, 2]).all()
    rows[0, 0] = 5  # a copy: the other rows and the contract stay
    assert STATE.initial.tolist() == [[[1, 2]]]


def test_feeds_hold_every_input_but_the_states():
    memory = np.ones((2, 5, 3), np.float32)
    feeds = CONTRACT.feeds(np.array([[1, 2, 3], [4, 5, 6]]), np.array([0, 7]), {"memory": memory})
    assert set(feeds) == {"ids", "position", "memory", "mask", "z"}
    assert feeds["ids"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert feeds["position"].tolist() == [[0, 7], [1, 8], [2, 9]]
    assert feeds["memory"] is memory


def test_inputs_by_what_they_are():
    assert [aux.name for aux in CONTRACT.contexts] == ["memory"]
    assert [aux.name for aux in CONTRACT.latents] == ["z"]
    assert [aux.name for aux in CONTRACT.row_inputs] == ["memory", "mask", "z"]
    assert CONTRACT.one_token_a_run  # one value a run, another at every step


def test_a_description_tells_every_role():
    lines = CONTRACT.with_notes("first", "second").describe().splitlines()
    assert [line.split()[0] for line in lines] == [
        "token", "logits", "state", "position", "context", "source", "latent", "attention", "note:", "note:",
    ]  # fmt: skip
    assert "int64 [time, batch]" in lines[0]
    assert "float32 [1, batch, 2] " in lines[2]
    assert lines[2].endswith("hidden in GRU g; starts from values in the file")
    assert "of memory: 0 where there is no padding" in lines[5]
    assert lines[-2:] == ["note: first", "note: second"]


def test_windows_are_padded_on_their_side():
    assert Window(4, "left", 9).cut([1, 2], 4) == [9, 9, 1, 2]
    assert Window(4, "right", 9).cut([1, 2, 3, 4, 5], 4) == [2, 3, 4, 5]
    assert Window(4, "right", 9).end(2, 4) == 1
    assert Window().shown(6) == 6


def test_a_program_over_other_sessions_keeps_its_graphs_and_contract():
    graph = Graph.load(build.recurrent())
    session = Session(graph, threads=2)
    program = StepProgram(graph, session, CONTRACT, FoldedStep(graph.copy(), session))
    again = program.reopened(lambda graph: Session(graph, threads=1))
    assert (again.session.threads, again.step_session.threads) == (1, 1)
    assert again.step_session is not again.session
    assert (again.graph, again.step_graph, again.contract) == (program.graph, program.step_graph, CONTRACT)
    assert program.session_over(graph).threads == 2
    assert program.with_note("more").contract.notes == ("more",)


def test_logits_of_another_rank():
    """A graph that squeezes its batch of one returned them: NumPy's own error came out (issue 13)."""
    with pytest.raises(ModelError, match=r"the logits scores come out with the shape \[3, 7\], and for other sizes as B, T, V"):  # fmt: skip
        CONTRACT.logits.arrange(np.zeros((3, 7), np.float32))


def test_batch_and_time_of_any_rank():
    token = Token("ids", "TB")
    assert token.batch_and_time((3, 4)) == token.batch_and_time((3, 4, 5)) == (4, 3)
    assert token.batch_and_time((3,)) == (None, 3)
    assert token.batch_and_time(None) == token.batch_and_time(()) == (None, None)
