"""State inputs are paired with the outputs that have their next values, by each kind of evidence."""

import pytest

from decoding import ModelError
from decoding.model.roles.infer import find_roles
from decoding.model.roles.state_pairs import pair_states, shows_state
from tests.helpers.text import graph


def paired(text, *, token="token"):
    """The pairs that are found in a graph, and the evidence of each."""
    found, notes = graph(text), []
    pairs = pair_states(found, [p for p in found.inputs if p.name != token], found.outputs, notes)
    return pairs, notes


LSTM = """(float[time,batch,4] x, float[1,8,4] W, float[1,8,2] R, float[1,batch,2] {h}, float[1,batch,2] {c}) => (float[1,batch,2] {hn}, float[1,batch,2] {cn}) {{
  y, {cn}_inner, cell = LSTM<hidden_size=2>(x, W, R, , , {h}, {c})
  {hn} = Identity({cn}_inner)
  {cn} = Identity(cell)
}}"""


def test_the_states_of_one_layer_whatever_their_names_and_order():
    pairs, notes = paired(LSTM.format(h="c", c="h", hn="one", cn="two"), token="x")
    assert pairs == {"c": "one", "h": "two"}
    assert notes[0] == "state c -> one: they enter and leave the same recurrent layer"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("h_in", "h_out"),
        ("h", "new_h"),
        ("h0", "hn"),
        ("h0", "h1"),
        ("prev.h", "next.h"),
        ("past.hidden", "present.hidden"),
        ("past_key_values.0.key", "present.0.key"),
        ("prev", "prev_out"),
        ("last", "new_last"),
    ],
)
def test_names_that_differ_in_the_side_of_the_step(before, after):
    text = f"""(int64[batch] token, float[batch,4] "{before}", float[batch,4] other) => (float[batch,4] "{after}", float[batch,4] unlike) {{
      moved = Tanh("{before}")
      "{after}" = Tanh(moved)
      unlike = Tanh(other)
    }}"""
    pairs, notes = paired(text)
    assert pairs[before] == after
    assert notes[0].endswith("their names")


def test_a_state_that_is_the_last_token_alone():
    """The input of a QRNN's step before this one: no output depends on it as a state's next value does."""
    pairs, notes = (
        paired("""(int64[batch] token, float[batch,4] prev, float[batch,4] c) => (float[batch,4] y, float[batch,4] c_out, float[batch,4] prev_out) {
      prev_out = Cast<to=1>(token)
      seen = Add(prev, prev_out)
      c_out = Mul(c, seen)
      y = Tanh(c_out)
    }""")
    )
    assert pairs == {"c": "c_out", "prev": "prev_out"}
    assert notes == ["state prev -> prev_out: their names", "state c -> c_out: their names"]


def test_a_number_in_a_name_tells_layers_apart():
    inputs = ", ".join(f'float[batch,4] "past_key_values.{k}.{part}"' for k in (0, 1) for part in ("key", "value"))
    outputs = ", ".join(f'float[batch,4] "present.{k}.{part}"' for k in (0, 1) for part in ("value", "key"))
    nodes = "\n".join(f'"present.{k}.{part}" = Tanh("past_key_values.{k}.{part}")' for k in (0, 1) for part in ("key", "value"))  # fmt: skip
    pairs, _ = paired(f"(int64[batch] token, {inputs}) => ({outputs}) {{ {nodes} }}")
    assert pairs == {f"past_key_values.{k}.{p}": f"present.{k}.{p}" for k in (0, 1) for p in ("key", "value")}


def test_sums_and_products_carry_a_state_over():
    pairs, notes = (
        paired("""(int64[batch] token, float[batch,4] a, float[batch,4] b) => (float[batch,4] r, float[batch,4] s) {
      mixed = Tanh(a)
      r = Mul(b, mixed)
      other = Sigmoid(b)
      s = Add(a, other)
    }""")
    )
    # r is a product of b and of a through tanh; s is a sum of a and of b through sigmoid.
    assert pairs == {"a": "s", "b": "r"}
    assert notes[0].endswith("it is carried over by sums and products")


def test_the_last_layer_of_a_stack_reaches_only_its_own_output():
    pairs, notes = (
        paired("""(int64[batch] token, float[batch,4] a, float[batch,4] b) => (float[batch,4] r, float[batch,4] s) {
      r = Tanh(a)
      both = MatMul(r, b)
      s = Tanh(both)
    }""")
    )
    assert pairs == {"a": "r", "b": "s"}
    assert notes[0].endswith("the only way to give each state an output that depends on it")


def test_states_that_nothing_tells_apart_are_refused():
    with pytest.raises(ModelError, match=r"ambiguous: the next value of the input a float32\[batch, 4\] could be any of r .*; s .*pass roles=\{'state'"):  # fmt: skip
        paired("""(int64[batch] token, float[batch,4] a, float[batch,4] b) => (float[batch,4] r, float[batch,4] s) {
          both = MatMul(a, b)
          r = Tanh(both)
          s = Sigmoid(both)
        }""")


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ("float[batch,5] context", "of another size than any output"),
        ("float16[batch,4] context", "of another dtype"),
        ("float[batch,source] context", "as long as a source"),
    ],
)
def test_inputs_that_cannot_be_states_are_left_out(declared, why):
    pairs, _ = paired(
        f"(int64[batch] token, {declared}) => (float[batch,4] r) {{ c = Cast<to=1>(context) r = Tanh(c) }}"
    )
    assert pairs == {}, why


def test_outputs_that_show_a_layers_last_state():
    found = graph("""(float[time,batch,4] x, float[1,6,4] W, float[1,6,2] R) => (float[batch,2] last, float[time,1,batch,2] y) {
      y, h = GRU<hidden_size=2>(x, W, R)
      first = Constant<value_int=0>()
      last = Gather(h, first)
    }""")
    assert shows_state(found, "last")
    assert not shows_state(found, "y")


def test_a_state_that_no_step_changes_is_refused():
    """The legacy exporter of torch loses writes into a part of a tensor: the state would stay zero for ever."""
    text = """(int64[batch] token, float[batch,4] h, float[batch,4] s) => (float[batch,4] new_h, float[batch,4] new_s) {
      new_h = Tanh(h)
      same = Identity(s)
      new_s = Identity(same)
    }"""
    with pytest.raises(ModelError, match=r"the state s .* leaves as it came, as new_s.*roles=\{'context': \['s'\]\}"):
        paired(text)


def test_an_input_that_roles_call_a_context_is_no_state():
    text = """(int64[batch] token, float[9,4] table, float[batch,4] h, float[batch,4] s) => (float[batch,4] logits, float[batch,4] new_h, float[batch,4] new_s) {
      x = Gather(table, token)
      sum = Add(x, s)
      new_h = Add(sum, h)
      logits = Tanh(new_h)
      new_s = Identity(s)
    }"""
    roles = find_roles(graph(text), {"token": "token", "context": ["s"], "constant": {"table": 0}, "logits": "logits"})
    assert roles.states == {"h": "new_h"}
