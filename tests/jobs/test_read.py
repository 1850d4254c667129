"""Inputs that are no files."""

from decoding import Request
from decoding.jobs.read import IterableInput, NumberedInput, Row


def test_an_iterable_has_prompts_requests_and_dicts():
    request = Request("a")
    source = IterableInput(iter(["x", request, {"id": "k", "prompt": "y"}, [1]]))
    assert source.scan() is None
    assert list(source.rows()) == [Row(0, 0, "x"), Row(1, 1, request), Row(2, "k", {"prompt": "y"}), Row(3, 3, [1])]


def test_a_list_has_a_length():
    assert IterableInput(["x", "y"]).scan() == 2


def test_a_number_has_rows_without_anything():
    source = NumberedInput(3)
    assert source.scan() == 3
    assert list(source.rows()) == [Row(0, 0, None), Row(1, 1, None), Row(2, 2, None)]
