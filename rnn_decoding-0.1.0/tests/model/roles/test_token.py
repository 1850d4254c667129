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
