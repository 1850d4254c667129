"""Masks, lengths and positions of decoders and of encoders: what they are, and the context whose padding they tell."""

import pytest

from decoding import ModelError, OptionError
from decoding.model.roles.masks import find_kind, find_sources, named_kind
from tests.helpers.text import graph


def kind(port, *, given=None, body=""):
    found = graph(f"({port}, float[batch,4] data) => (float[batch,4] out) {{ {body} out = Identity(data) }}")
    return find_kind(found, found.inputs[0], given or {})


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ("bool[batch,time] attention_mask", "mask"),
        ("float[batch,time] mask", "mask"),
        ("int64[batch,time] position_ids", "position"),
        ("int64[batch] step", "position"),
        ("int64[batch] src_len", "length"),
        ("float[batch] len", None),
        ("int64[batch,2,3] lens", None),
        ("int64[batch,time] ids", None),
    ],
)
def test_names_and_dtypes(port, expected):
    assert kind(port) == expected


def test_a_layers_sequence_lengths_are_a_length_by_any_name():
    body = """whole = Cast<to=6>(n)
      y = GRU<hidden_size=2>(x, W, R, , whole)"""
    text = f"(int64[batch] n, float[time,batch,4] x, float[1,6,4] W, float[1,6,2] R) => (float[time,1,batch,2] y) {{ {body} }}"
    found = graph(text)
    assert find_kind(found, found.inputs[0], {}) == "length"
    assert find_kind(found, found.inputs[1], {}) is None


@pytest.mark.parametrize("given", ["valid", ["valid"], {"valid": "memory"}])
def test_roles_count_before_names(given):
    assert kind("int64[batch,time] valid", given={"source_mask": given}) == "source_mask"
    assert kind("int64[batch,time] valid", given={"source_length": given}) == "source_length"


def test_a_part_of_a_name_in_roles_names_nothing():
    assert kind("int64[batch,time] id", given={"source_mask": "valid"}) is None


DECODER = """(int64[batch,time] token, float[batch,source,4] memory, {more}) => (float[batch,source,4] out) {{ {body} out = Identity(memory) }}"""


def sources(more, body="", *, given=None, text=DECODER, token="token"):
    """The context of each mask and length, and their kinds."""
    found = graph(text.format(more=more, body=body))
    kinds = {p.name: find_kind(found, p, given or {}) or "context" for p in found.inputs if p.name != token}
    return find_sources(found, given or {}, token, kinds, notes := []), kinds, notes


@pytest.mark.parametrize(
    ("more", "body", "evidence"),
    [
        ("bool[batch,source] mask", "", "its dimension is the context's"),
        ("bool[batch,other] src_mask", "", "its name"),
        ("int64[batch] memory_len", "", "its name"),
        ("int64[batch] len", "s = Shape(memory) n = ReduceMax(s) ends = Less(len, n)", "it is compared with the context's size"),
    ],
)  # fmt: skip
def test_masks_and_lengths_of_a_decoders_context(more, body, evidence):
    found, kinds, notes = sources(more, body)
    name = more.split()[-1]
    assert found == {name: "memory"}
    assert kinds[name] == ("source_mask" if "mask" in name else "source_length")
    assert notes == [f"{name} tells where memory ends: {evidence}"]


@pytest.mark.parametrize("more", ["bool[batch,time] mask", "bool[batch,other] target_mask", "int64[batch] tgt_len"])
def test_masks_and_lengths_of_the_tokens(more):
    found, kinds, _ = sources(more)
    assert found == {}
    assert set(kinds.values()) <= {"context", "mask", "length"}


def test_a_mask_beside_a_token_of_one_step_is_the_contexts():
    text = DECODER.replace("int64[batch,time] token", "int64[batch] token")
    assert sources("bool[batch,other] mask", text=text)[0] == {"mask": "memory"}


def test_a_mask_that_could_be_about_both_is_refused():
    with pytest.raises(ModelError, match=r"ambiguous: mask bool\[batch, other\] could tell the padding of the tokens or of memory .*'source_mask': 'mask'"):  # fmt: skip
        sources("bool[batch,other] mask")


TWO = "float[batch,second,4] keys, int64[batch] src_len"


def test_a_length_of_either_of_two_contexts_is_refused_and_roles_settle_it():
    with pytest.raises(ModelError, match=r"ambiguous: src_len .* could tell the padding of memory .*; keys .*\{'src_len': context\}"):  # fmt: skip
        sources(TWO)
    assert sources(TWO, given={"source_length": {"src_len": "keys"}})[0] == {"src_len": "keys"}
    with pytest.raises(
        OptionError, match=r"roles\['source_length'\]: .* has no context 'token'; its contexts are memory"
    ):
        sources(TWO, given={"source_length": {"src_len": "token"}})


def test_contexts_that_share_a_named_dimension_have_one_length():
    assert sources("float[batch,source,4] keys, bool[batch,source] src_mask")[0] == {"src_mask": "memory"}


ENCODER = "({more}) => (float[batch,2] out) {{ {body} out = Identity(x) }}"


@pytest.mark.parametrize(
    ("more", "about"),
    [
        ("int64[batch,n] ids, float[batch,2] x, int64[batch] lens", "ids"),
        ("int64[batch,6] ids, float[batch,2] x, int64[batch] lens", "ids"),
        ("int64[batch,n] ids, int64[batch,m] words, float[batch,2] x, bool[batch,m] mask", "words"),
        ("float[batch,6] y, float[batch,2] x, bool[batch,6] mask", "y"),
    ],
)
def test_masks_and_lengths_of_an_encoder_are_always_about_a_source(more, about):
    found, _, _ = sources(more, text=ENCODER, token=None)
    assert list(found.values()) == [about]


def test_an_encoders_mask_without_a_source_is_refused():
    with pytest.raises(ModelError, match=r"mask bool\[batch, 6\] could tell where a source ends, but no other input"):
        sources("float[2] x, bool[batch,6] mask", text=ENCODER, token=None)


def test_roles_of_the_decoder_may_name_an_input_that_the_encoder_has_too():
    given = {"source_mask": {"mask": "memory"}}
    found, _, _ = sources(
        "int64[batch,n] ids, float[batch,2] x, bool[batch,n] mask", given=given, text=ENCODER, token=None
    )
    assert found == {"mask": "ids"}


def test_a_name_with_several_words_has_the_first_kind():
    assert named_kind("position_mask") == "mask"
