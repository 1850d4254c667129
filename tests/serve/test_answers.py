"""Texts that end before their stop sequences, however they come."""

from hypothesis import given
from hypothesis import strategies as st

from decoding.results import TokenEvent
from decoding.serve.answers import Output, top_texts


class Vocabulary:
    """What answers ask a model for."""

    def text_of(self, token):
        return {0: "a", 1: "b", 2: "", 3: "\ufffd", 4: "a"}[token]


def events(texts, reason):
    last = len(texts) - 1
    return [
        TokenEvent(0, 0, ord(t[0]) if t else 0, t, -0.5, reason if i == last else None) for i, t in enumerate(texts)
    ]


def answer(texts, stops, reason, cuts):
    """Return text, tokens, token ids and finish reason of an output that is asked for its choice after the events in `cuts`."""
    output = Output(Vocabulary(), 0, stops, True, 0)
    found = []
    for at, event in enumerate(events(texts, reason)):
        output.add(event)
        if at in cuts or at == len(texts) - 1:
            found.append(output.choice())
    choices = [choice for choice in found if choice is not None]
    joined = [piece for choice in choices for piece in choice["logprobs"]["tokens"]]
    ids = [token for choice in choices for token in choice["token_ids"]]
    return "".join(choice["text"] for choice in choices), joined, ids, choices[-1]["finish_reason"]


TEXTS = st.lists(st.text("ab", max_size=3), min_size=1, max_size=12)


@given(TEXTS, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.sets(st.integers(0, 11)))
def test_a_text_ends_before_the_first_stop_that_is_whole(texts, stops, cuts):
    # As decoding does: the first token after which a stop is whole ends the output.
    ends = [n for n in range(1, len(texts) + 1) if any(stop in "".join(texts[:n]) for stop in stops)]
    texts, reason = (texts[: ends[0]], "stop") if ends else (texts, "length")
    whole = "".join(texts)
    expected = whole[: min((whole.find(stop) for stop in stops if stop in whole), default=None)]
    text, tokens, ids, found = answer(texts, stops, reason, cuts)
    assert (text, found) == (expected, reason)
    assert "".join(tokens)[: len(text)] == text
    assert len("".join(tokens[:-1])) <= len(text)
    assert ids == [event.token for event in events(texts, reason)]


@given(TEXTS, st.sets(st.integers(0, 11)))
def test_tokens_without_stops_are_all_there(texts, cuts):
    assert answer(texts, (), "length", cuts)[:2] == ("".join(texts), texts)


@given(st.lists(st.integers(97, 99), min_size=1, max_size=12), st.lists(st.integers(97, 99), min_size=1, max_size=3), st.sets(st.integers(0, 11)))  # fmt: skip
def test_a_stop_of_ids_is_left_out_of_the_text(tokens, stop, cuts):
    ends = [n for n in range(1, len(tokens) + 1) if tokens[:n][-len(stop) :] == stop]
    kept, reason = (tokens[: ends[0]], "stop") if ends else (tokens, "length")
    text, _, ids, found = answer([chr(t) for t in kept], (tuple(stop),), reason, cuts)
    assert text == "".join(map(chr, kept[: -len(stop)] if ends else kept))
    assert (ids, found) == (kept, reason)


def test_alternatives_without_a_text_of_their_own_are_called_by_their_ids():
    found = top_texts(Vocabulary(), 1, "b", -2.0, ((0, -0.5), (4, -1.0), (2, -1.1), (3, float("-inf"))))
    assert found == {"a": -0.5, "token_id:4": -1.0, "token_id:2": -1.1, "token_id:3": -9999.0, "b": -2.0}
