"""Ten thousand outputs of each kind of constraint, judged by re, json and jsonschema.

    python -m tests.constraints.ten_thousand

A short form runs with the tests (`tests/constraints/test_searches.py`). This one takes minutes, and needs jsonschema.
"""

import json
import re

import jsonschema

from decoding import Choices, Grammar, JSONSchema, Regex, Sample, decode, load
from tests.helpers import build

LETTERS = [chr(i) for i in range(32, 127)]
SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yy"]}}, "required": ["a", "b"], "additionalProperties": False},
    {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 4},
    {"anyOf": [{"type": "number", "minimum": -3, "maximum": 9.5}, {"const": None}, {"type": "boolean"}]},
    {"type": "object", "properties": {"d": {"type": "string", "format": "date"}}, "required": ["d"], "additionalProperties": False},
]  # fmt: skip
PATTERNS = [r"\d{4}-\d\d-\d\d", r"([a-z]+ ){2,5}[A-Z]", "(a|ab)*c", r"\w{3}(\.\w{2,4})+!", "[^x]{1,9}x"]
OUTPUTS = 1000


def judged():
    """Yield each constraint, and what tells whether a text obeys it."""
    for pattern in PATTERNS:
        yield Regex(pattern), lambda text, pattern=pattern: re.fullmatch(pattern, text) is not None
    for schema in SCHEMAS:
        judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        yield JSONSchema(schema), lambda text, judge=judge: judge.is_valid(json.loads(text))
    words = ["yes", "no", "perhaps", "n"]
    yield Choices(words), lambda text: text in words
    yield Grammar('start: "(" start ")" start | "x"'), balanced


def balanced(text):
    """Return whether brackets match, by counting."""
    depth = 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth < 0:
            return False
    return depth == 0


def main():
    """Draw, judge and count."""
    net = build.recurrent("LSTM", vocab=len(LETTERS) + 1, hidden=8, seed=1, scale=2.0)
    model = load(net, tokenizer=[*LETTERS, ""])
    total = 0
    for constraint, obeys in judged():
        found = decode(
            model,
            [[5]] * OUTPUTS,
            Sample(),
            processors=[constraint],
            max_new_tokens=800,
            seed=1,
            eos_token_id=len(LETTERS),
        )
        whole = [h.text for h in found if h.finish_reason == "eos"]
        wrong = [text for text in whole if not obeys(text)]
        print(f"{constraint}: {len(whole)} whole, {len(wrong)} wrong {wrong[:3]}", flush=True)
        assert not wrong
        total += len(whole)
    print(f"{total} outputs obey")


if __name__ == "__main__":
    main()
