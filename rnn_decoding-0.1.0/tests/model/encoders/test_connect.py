"""Encoders connected to a decoder: by roles, by names, by shapes, or not at all."""

import numpy as np
import pytest

from decoding import ModelError, OptionError
from decoding.model.contract.contract import Contract
from decoding.model.contract.io import AuxiliaryInput, Logits, State, Token
from decoding.model.encoders.connect import connect
from decoding.model.encoders.encoder import load_encoder
from decoding.model.runtime.session import Session
from tests.helpers.text import graph

FLOAT = np.dtype(np.float32)


def encoder(text):
    return load_encoder(graph(text), {}, lambda prepared: Session(prepared, threads=1))


def source(**outputs):
    """An encoder of a source [batch, n, 4]; of each output the number of its dimensions: 3 follows the source, 2 is its sum."""
    declared = ", ".join(f"float[batch,{'n,4' if rank == 3 else '4'}] {name}" for name, rank in outputs.items())
    nodes = "\n".join(f"{name} = Tanh({'x' if rank == 3 else 'total'})" for name, rank in outputs.items())
    return encoder(f"""(float[batch,n,4] x) => ({declared}) {{
      axis = Constant<value_ints = [1]>()
      total = ReduceSum<keepdims = 0>(x, axis)
      {nodes}
    }}""")


def decoder(*, contexts=(), states=()):
    inputs = tuple(AuxiliaryInput(name, "context", FLOAT, 3, (None, 4), source_axis=0) for name in contexts)
    held = tuple(State(name, f"{name}_out", 0, np.zeros((1, 4), FLOAT), "in the file", exposed=True) for name in states)
    return Contract(Token("token", "B"), Logits("logits", "BV", 5), held, inputs, sequence=False)


def links(stages, contract, **given):
    chain, fed = connect(stages, contract, given, "the decoder")
    assert chain.fed == set(fed.givers)
    return {link.output.name: (link.target.name, link.evidence, link.fold) for link in chain.links}


def test_equal_names():
    assert links([source(memory=3, h=2)], decoder(contexts=["memory"], states=["h"])) == {
        "memory": ("memory", "its name", False),
        "h": ("h", "its name", False),
    }


@pytest.mark.parametrize("name", ["h_n", "encoder_h", "h_final", "last_h"])
def test_names_that_differ_in_the_side_of_the_model(name):
    found = links([source(**{name: 2, "spare_n": 2})], decoder(states=["h0", "spare0"]))
    assert found[name] == ("h0", "their names", False)


def test_the_only_way_that_shapes_allow():
    found = links([source(first=2, second=3)], decoder(contexts=["memory"], states=["h"]))
    assert found == {
        "first": ("h", "the only way that their shapes allow", False),
        "second": ("memory", "the only way that their shapes allow", False),
    }


def test_roles_count_before_names_and_may_feed_two_inputs():
    found = connect([source(h=2)], decoder(states=["h", "c"]), {"encoder": {"h": ["c", "h"]}}, "the decoder")[0]
    assert {(link.target.name, link.evidence) for link in found.links} == {("h", "given by roles"), ("c", "given by roles")}  # fmt: skip


def test_a_context_takes_the_outputs_of_all_turns():
    assert links([source(turns=2)], decoder(contexts=["memory"])) == {
        "turns": ("memory", "the only way that their shapes allow", True)
    }


def test_a_chain_of_two_encoders():
    stages = [source(utterance=2), encoder("(float[batch,n,4] utterance) => (float[batch,n,4] memory) { memory = Tanh(utterance) }")]  # fmt: skip
    chain, _ = connect(stages, decoder(contexts=["memory"]), {}, "the decoder")
    assert [(link.stage, link.output.name, link.target.stage, link.fold) for link in chain.links] == [
        (0, "utterance", 1, True),
        (1, "memory", 2, False),
    ]
    assert chain.levels == (1, 0)
    assert list(chain.sources) == ["x"]


def test_a_latent_that_an_encoder_feeds_becomes_a_context():
    contract = Contract(Token("token", "B"), Logits("logits", "BV", 5), (), (AuxiliaryInput("z", "latent", FLOAT, 2, (4,)),), sequence=False)  # fmt: skip
    fed = connect([source(z=2)], contract, {}, "the decoder")[1]
    assert [aux.kind for aux in fed.auxiliary_inputs] == ["context"]


@pytest.mark.parametrize(
    ("outputs", "contract", "given", "error", "message"),
    [
        ({"a": 2, "b": 2}, decoder(states=["h", "c"]), {}, ModelError, "it is not clear which of the decoder's inputs the encoder's outputs feed"),
        ({"a": 2}, decoder(), {}, ModelError, r"no input of the decoder wants an encoder's output. Outputs that feed nothing: a float32\[batch, 4\]"),
        ({"a": 2}, decoder(contexts=["m"], states=["a"]), {}, ModelError, r"nobody feeds an input of the decoder.*pass roles=\{'context': \['m'\]\}"),
        ({"h": 3}, decoder(states=["h"]), {}, ModelError, r"its output h float32\[batch, \?, 4\] does not fit the state h, float32 of sizes \[4\] after the batch"),
        ({"h": 2}, decoder(states=["h"]), {"encoder": {"x": "h"}}, OptionError, "has no output 'x'; it has h"),
        ({"h": 2}, decoder(states=["h"]), {"encoder": {"h": "c"}}, OptionError, "the decoder has no context or state 'c' to feed; there are h"),
        ({"h": 2}, decoder(states=["h"]), {"encoder": 3}, OptionError, r"roles\['encoder'\]=3: expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_connected_is_refused(outputs, contract, given, error, message):
    with pytest.raises(error, match=message):
        connect([source(**outputs)], contract, given, "the decoder")


def test_an_output_is_left_out_and_a_context_is_left_to_the_caller():
    assert links([source(a=2)], decoder(contexts=["m"]), encoder={"a": None}, context=["m"]) == {}
