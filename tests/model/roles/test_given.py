"""Roles and metadata are checked where they are first read, before anything merges them (issue 13)."""

import json
import re

import numpy as np
import pytest
from onnx import helper

from decoding import ModelError, OptionError, load
from decoding.model.graph.graph import Graph
from decoding.model.roles.given import ROLE_KEYS, caller_roles, file_roles, given_roles, json_metadata
from tests.helpers import build


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def with_metadata(text, key="roles"):
    proto = build.recurrent("GRU", exposed=True)
    helper.set_model_props(proto, {f"decoding.{key}": text})
    return proto


# Values of wrong kinds, and the role that each is wrong for. CPython 3.13 prints lists nested 5,000 deep, and writes them as JSON.
WRONG = [
    *((key, value) for key in ROLE_KEYS if key not in ("constant", "window") for value in (3, True, 2.5)),
    *((key, nested(100_000)) for key in ROLE_KEYS if key not in ("constant",)),
    ("token", ["tokens"]), ("logits", {}), ("attention", b"logits"), ("output", "odds"), ("output", None), ("output", ["logits"]),
    ("state", ["h0"]), ("state", {"h0": 1}), ("state", {"h0": None}), ("state", None), ("state", {1: "h0_out"}),
    ("batch_axis", {"h0": -1}), ("batch_axis", {"h0": True}), ("batch_axis", {"h0": 1.0}), ("batch_axis", {"h0": 2**63}), ("batch_axis", {"h0": [1]}),
    ("constant", ["h0"]), ("constant", {2: 1}), ("context", ["h0", 3]), ("context", {"h0": 1}),
    ("window", 0), ("window", 10**9), ("window", 2.0), ("window", "6"), ("pad", "middle"), ("pad", None),
    ("encoder", "h0"), ("encoder", {"a": 3}), ("encoder", [3]), ("encoder", {"a": [1]}),
    ("latent", "h0"), ("latent", {"h0": 3}), ("latent", {"h0": {"every": ["step"]}}), ("source_mask", {"h0": 3}), ("source_length", [None]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{k}-{type(v).__name__}{i}" for i, (k, v) in enumerate(WRONG)])
def test_roles_of_wrong_kinds(key, value):
    with pytest.raises(OptionError, match=rf"^roles\['{key}'\]=.*: expected ") as caught:
        caller_roles({key: value})
    assert len(str(caught.value)) < 400


def same_in_json(value):
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, RecursionError):
        return False


IN_FILES = [(key, value) for key, value in WRONG if same_in_json(value)]


@pytest.mark.parametrize(("key", "value"), IN_FILES, ids=[f"{key}{i}" for i, (key, _) in enumerate(IN_FILES)])
def test_metadata_of_wrong_kinds(key, value):
    proto = with_metadata(json.dumps({key: value}))
    with pytest.raises(ModelError, match=rf"^the ModelProto: metadata 'decoding.roles'\['{key}'\]=.*: expected "):
        file_roles(Graph.load(proto))


@pytest.mark.parametrize("key", ["token", "window", "pad", "output", "state"])
@pytest.mark.parametrize("value", [np.zeros(0), np.array([1, 2]), np.array(["a", "b"]), np.zeros(2, [("a", "i4")])])
def test_arrays_are_no_roles(key, value):
    with pytest.raises(OptionError, match=rf"roles\['{key}'\]="):
        load(build.recurrent("GRU"), roles={key: value})


@pytest.mark.parametrize("roles", [np.zeros(3), np.zeros(0), 3, [], ["token"], "token", False, object()])
def test_roles_are_a_dict(roles):
    with pytest.raises(OptionError, match=r"^roles: .*: expected a dict with some of token, logits"):
        load(build.recurrent("GRU"), roles=roles)


@pytest.mark.parametrize("key", [None, 1, ("token",), b"token", ""])
def test_unknown_keys(key):
    with pytest.raises(OptionError, match=r"unknown key .*; expected some of token, logits"):
        load(build.recurrent("GRU"), roles={key: "tokens", "logits": "logits"})


@pytest.mark.parametrize("text", ["[1]", "3", "null", '"token"'])
def test_roles_in_metadata_are_a_dict(text):
    with pytest.raises(ModelError, match=r"metadata 'decoding.roles': .*: expected a dict"):
        load(with_metadata(text))


@pytest.mark.parametrize("key", ["roles", "initial", "vocab", "eos", "bos", "pad", "max_new_tokens"])
@pytest.mark.parametrize("depth", [41, 5000, 200_000])
@pytest.mark.parametrize("brackets", ["[]", ['{"a":', "}"]], ids=["lists", "dicts"])
def test_metadata_that_nest_too_deep(key, depth, brackets):
    proto = with_metadata(brackets[0] * depth + "1" + brackets[1] * depth, key)
    with pytest.raises(ModelError, match=f"metadata 'decoding.{key}' nests deeper than 40"):
        json_metadata(Graph.load(proto), f"decoding.{key}", None)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"token": "tokens", "context": ["tokens"]}, r"the input 'tokens' has the roles token and context; give it one"),
        ({"state": {"h0": "h0_out"}, "constant": {"h0": 0}}, r"the input 'h0' has the roles state and constant"),
        ({"batch_axis": {"h0": 3}}, r"roles\['batch_axis'\]\['h0'\]=3: .* has the input h0 float32\[1, batch, 8\]; expected one of its axes"),
        ({"constant": {"tokens": 10**400}}, r"roles\['constant'\]\['tokens'\]: .* does not fit the input tokens"),
        ({"constant": {"h0": nested(100_000)}}, r"roles\['constant'\]\['h0'\]: .* does not fit the input h0"),
        ({"constant": {"h0": "x"}}, r"roles\['constant'\]\['h0'\]: 'x' does not fit the input h0"),
    ],
)  # fmt: skip
def test_roles_that_do_not_fit_the_graph(roles, message):
    with pytest.raises(OptionError, match=message):
        load(build.recurrent("GRU", exposed=True), roles=roles)


def test_what_is_allowed_stays_allowed():
    graph = Graph.load(build.recurrent("GRU", exposed=True))
    given = {"token": None, "logits": None, "attention": None, "window": None, "encoder": None, "context": None}
    assert given_roles(graph, given) == {**given, "context": []}
    assert given_roles(graph, {"context": "h0"}) == {"context": ["h0"]}
    assert given_roles(graph, {"context": ("h0",)}) == {"context": ["h0"]}
    assert given_roles(graph, {"batch_axis": {"h0": np.int64(1)}}) == {"batch_axis": {"h0": 1}}
    assert given_roles(graph, None) == {}


def test_a_token_of_three_dimensions():
    proto = build.recurrent("GRU")
    proto.graph.input[0].type.tensor_type.shape.dim.add(dim_param="more")
    with pytest.raises(ModelError, match=r"the token tokens int64\[batch, time, more\] has 3 dimensions; expected ids"):
        load(proto, roles={"token": "tokens"})


@pytest.mark.parametrize(
    "text",
    ["[1]", "null", "3", '{"h0": ["x"]}', '{"h0": [1, 2, 3]}', '{"h0": [[1], [1, 2]]}', '{"h0": {"a": 1}}', '{"h0": [NaN, 0, 0, 0, 0, 0, 0, 0]}',
     '{"h0": [null, 0, 0, 0, 0, 0, 0, 0]}', '{"h0": []}'],
)  # fmt: skip
def test_initial_states_of_wrong_kinds(text):
    with pytest.raises(ModelError, match=re.escape("metadata 'decoding.initial' ") + r".*; expected "):
        load(with_metadata(text, "initial"))


def test_initial_states_are_read():
    model = load(with_metadata('{"h0": [0, 1, 2, 3, 4, 5, 6, 7], "other": "x"}', "initial"))
    np.testing.assert_array_equal(
        model._network.contract.states[0].initial, np.arange(8, dtype=np.float32).reshape(1, 1, 8)
    )


@pytest.mark.parametrize("key", ["eos", "bos", "pad"])
@pytest.mark.parametrize("text", ['"a"', "-1", "true", "1.5", "99999999999999999999", '{"a": 1}', "[[1]]", "[null]"])
def test_special_ids_of_wrong_kinds(key, text):
    with pytest.raises(ModelError, match=rf"metadata 'decoding.{key}' is .*; expected a whole number"):
        load(with_metadata(text, key))


@pytest.mark.parametrize("text", ["3", "true", '"abc"', "2.5"])
def test_a_vocabulary_is_a_list_or_a_dict(text):
    with pytest.raises(ModelError, match=r"metadata 'decoding.vocab' is .*; expected a list of strings"):
        load(with_metadata(text, "vocab"))


def test_logits_that_do_not_depend_on_the_token():
    """Only their shape does: after the states were exposed, no node was left that reads the token."""
    proto = build.recurrent("GRU")
    layer = next(node for node in proto.graph.node if node.op_type == "GRU")
    start = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
    ]
    layer.input[0] = "zeros"
    place = list(proto.graph.node).index(layer)
    for node in reversed(start):
        proto.graph.node.insert(place, node)
    with pytest.raises(ModelError, match=r"neither the logits logits nor a state depend on the values of the token tokens"):  # fmt: skip
        load(proto)


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        ({"logits": "logits", "attention": "logits"}, "logits and attention"),
        ({"logits": "h0_out", "state": {"h0": "h0_out"}}, "logits and state"),
        ({"state": {"h0": "h0_out", "h1": "h0_out"}}, "state and state"),
    ],
)
def test_an_output_has_one_role(roles, found):
    with pytest.raises(OptionError, match=rf"the output '.*' has the roles {found}; give it one"):
        load(build.recurrent("GRU", layers=2, exposed=True), roles=roles)
