"""Which input takes the tokens: evidence, and what is asked rather than guessed."""

import pytest

from decoding import ModelError
from decoding.model.roles.token import find_token
from tests.helpers.text import graph

EMBED = "float[9,4] table = {" + ", ".join(["0"] * 36) + "}"
RIVALS = f"""(int64[batch,time] tags, int64[batch,time] tokens) => (float[batch,time,9] logits)
<{EMBED}> {{ e = Gather(table, tags)
    t = Cast<to = 1>(tokens)
    logits = Concat<axis = -1>(e, t) }}"""


def test_an_embedding_of_tags_is_not_taken_for_the_tokens():
    found = graph(RIVALS)
    with pytest.raises(ModelError, match=r"ambiguous: tags int64\[batch, time\]; tokens int64\[batch, time\] could each be the token"):  # fmt: skip
        find_token(found, {}, [])
    assert find_token(found, {"token": "tokens"}, []) == ("tokens", None)
    assert find_token(found, {"step_context": ["tags"]}, []) == ("tokens", None)


def test_one_hot_vectors_beside_an_embedding_of_a_speaker():
    found = graph(
        f"""(int64[batch] speaker, float[batch,time,7] x) => (float[batch,time,7] logits)
        <{EMBED}> {{ e = Gather(table, speaker)
            logits = Add(x, e) }}"""
    )
    with pytest.raises(ModelError, match=r"ambiguous: speaker int64\[batch\]; x float32\[batch, time, 7\] could each"):
        find_token(found, {}, [])
    assert find_token(found, {"context": ["speaker"]}, []) == ("x", 7)


def test_an_embedding_by_the_name_of_tokens_is_believed():
    found = graph(RIVALS.replace("tags", "word_ids"))
    assert find_token(found, {}, []) == ("word_ids", None)


def test_a_state_of_a_convolution_is_no_rival_of_ids_by_any_name():
    """Mamba's step: the state is three numbers wide, as its own next value is."""
    found = graph(
        f"""(int64[batch] x, float[batch,4,3] conv) => (float[batch,4] logits, float[batch,4,3] conv_out)
        <{EMBED}, int64[3] starts = {{0, 0, 1}}, int64[3] ends = {{99, 99, 99}}, int64[1] last = {{2}}> {{
            e = Gather(table, x)
            wide = Unsqueeze(e, last)
            all = Concat<axis = 2>(conv, wide)
            conv_out = Slice(all, starts, ends)
            logits = ReduceSum<keepdims = 0>(all, last) }}"""
    )
    assert find_token(found, {}, []) == ("x", None)


@pytest.mark.parametrize(("h", "h_out"), [("h", "h_new"), ("h0", "hn")])
def test_one_hot_vectors_of_a_cell_of_plain_operators(h, h_out):
    """The state is as wide as its next value, which is no output of scores."""
    found = graph(
        f"""(float[batch,7] x, float[batch,4] {h}) => (float[batch,7] y, float[batch,4] {h_out})
        <float[7,4] W = {{{", ".join(["0.5"] * 28)}}}> {{
            e = MatMul(x, W)
            sum = Add(e, {h})
            {h_out} = Tanh(sum)
            V = Transpose(W)
            y = MatMul({h_out}, V) }}"""
    )
    assert find_token(found, {}, notes := []) == ("x", 7)
    assert notes == ["token is x: one-hot vectors, as wide as the output (7)"]


def test_vectors_whose_name_pairs_with_that_of_the_scores():
    """An export of exactly one row and ten steps, as of a Keras model that is called on fixed shapes."""
    text = "(float[1,10,7] input_1) => (float[1,10,7] output_1) { output_1 = Softmax(input_1) }"
    assert find_token(graph(text), {}, []) == ("input_1", 7)
