"""Kinds of inputs that are neither token nor state: roles come first, and names that mean two things are asked about."""

import numpy as np
import pytest

from decoding import ModelError, OptionError, decode, load
from decoding.model.roles.auxiliary_inputs import find_kinds, make_auxiliary_inputs, with_time
from decoding.model.roles.infer import find_roles
from tests.helpers.exports import CONTEXTS
from tests.helpers.text import graph, proto

TABLE = "float[9,4] table = {" + ", ".join(["0"] * 36) + "}"


def kinds(port, given=None, token="int64[batch,time] token", looked_up=True):
    name = port.split()[-1]
    body = f"e = Gather(table, {name})" if looked_up else f"e = Cast<to = 1>({name})"
    found = graph(f"({token}, {port}) => (float[2] out) <{TABLE}> {{ {body}\n out = Identity(token) }}")
    return find_kinds(found, given or {}, found.inputs[1:], "token", {}, [], {})[0][name]


@pytest.mark.parametrize("port", ["float[batch,time,3] mel", "int64[batch,time] tags", "float[batch,time] loudness"])
def test_the_tokens_own_time_makes_a_step_context(port):
    assert kinds(port) == "step_context"


@pytest.mark.parametrize("port", ["float[batch,source,3] mel", "float[batch,3] mel"])
def test_another_time_makes_a_context(port):
    assert kinds(port, looked_up=False) == "context"


@pytest.mark.parametrize("name", ["pos", "pos_ids", "POS"])
def test_pos_that_looks_up_a_table_is_asked_about(name):
    with pytest.raises(ModelError, match=rf"{name} int64\[batch, time\] could be the token's position, or a value that the caller gives"):  # fmt: skip
        kinds(f"int64[batch,time] {name}")


@pytest.mark.parametrize("role", ["position", "step_context", "context"])
@pytest.mark.parametrize("name", ["pos", "offset", "step_index", "mask", "lengths"])
def test_roles_win_over_names(role, name):
    assert kinds(f"int64[batch,time] {name}", {role: [name]}) == role


def test_positions_by_their_own_name():
    assert kinds("int64[batch,time] position_ids") == "position"
    assert kinds("int64[1] pos") == "position"  # one number that all rows share is no part of speech
    assert kinds("int64[batch,time] pos", looked_up=False) == "position"


def test_an_offset_is_a_position_by_roles_alone():
    path = CONTEXTS / "legacy_offset.onnx"
    with pytest.raises(ModelError, match=r"nobody feeds the input offset int64\[batch\].*roles=\{'position': 'offset'\}"):  # fmt: skip
        load(path)
    with pytest.raises(OptionError, match=r"the input 'offset' has the roles context and position; give it one"):
        load(path, roles={"position": "offset", "context": ["offset"]})
    assert "offset is filled with the token's position: given by roles" in load(path, roles={"position": "offset"}).describe()  # fmt: skip


def test_a_step_context_of_one_step_has_a_time_axis():
    """A file made for single steps declares the time of token and frame as 1."""
    found = graph("(int64[batch,1] token, float[batch,1,3] mel, float[batch,3] frame) => (float[2] out) { out = Identity(token) }")  # fmt: skip
    made = make_auxiliary_inputs(found.inputs, {"mel": "step_context", "frame": "step_context"}, {}, {})
    mel, frame = (with_time(aux, port.shape, ("batch", 1)) for aux, port in zip(made, found.inputs[1:], strict=True))
    assert (mel.timed, mel.step_sizes, frame.timed, frame.step_sizes) == (True, (3,), False, (3,))


RATES, EMBEDDED = np.array([0.2, 1, 0.4, 2, 0.9]), np.random.default_rng(3).normal(0, 1, (5, 5)).round(3)


def with_counter(port, dtype="float"):
    """A step whose scores depend on the number of the token, that its last input has."""
    values = ", ".join(map(str, EMBEDDED.ravel()))
    return f"""(int64[batch] token, float[batch,5] h, {port} k) => (float[batch,5] y, float[batch,5] h_out, {port} k_out)
    <{dtype} one = {{1}}, float[5] rate = {{{", ".join(map(str, RATES))}}}, float[5,5] E = {{{values}}}> {{
      e = Gather(E, token)
      count = Cast<to = 1>(k)
      angle = Mul(count, rate)
      wave = Sin(angle)
      moved = Add(e, h)
      h_out = Tanh(moved)
      y = Add(h_out, wave)
      k_out = Add(k, one)
    }}"""


@pytest.mark.parametrize("dtype", ["int64", "float"])
@pytest.mark.parametrize("shape", ["", "[1]"])
def test_a_counter_that_all_rows_share_is_a_position(shape, dtype):
    """A loop feeds one number for all rows; here each row is at its own, as the prompts have different lengths."""
    model = load(proto(with_counter(f"{dtype}{shape}", dtype)))
    assert "k is filled with the token's position: its output k_out is one more" in model.describe()
    prompts = [[2], [4, 0, 3], [1, 1]]
    for prompt, found in zip(prompts, decode(model, prompts, max_new_tokens=6), strict=True):
        h, ids = np.zeros(5), list(prompt)
        for t in range(len(prompt) + 5):
            h = np.tanh(EMBEDDED[ids[t]] + h)
            if t + 1 >= len(prompt):
                ids.append(int((h + np.sin(t * RATES)).argmax()))
        assert list(found.tokens) == ids[len(prompt) :]


@pytest.mark.parametrize("role", ["context", "position"])
def test_roles_win_over_what_a_counter_does(role):
    assert find_roles(graph(with_counter("float[1]")), {role: ["k"]}).auxiliary_inputs == {"k": role}
    assert find_roles(graph(with_counter("float[batch,1]")), {role: ["k"]}).auxiliary_inputs == {"k": role}
