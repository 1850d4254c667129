"""What the rows of every kind of file are."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoding import DecodeError, OptionError
from decoding.jobs.files import open_input

PYARROW = "needs pyarrow: pip install 'rnn-decoding[parquet]'"


def rows(path, content=None, **columns):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(open_input(path, None, columns.get("column"), columns.get("id_column")).rows())


def good(found):
    return [(row.id, row.value) for row in found if row.reason is None]


def test_a_line_of_text_is_a_prompt_and_its_number_the_id(tmp_path):
    found = rows(tmp_path / "a.txt", "one\n\ntwo  \nlast")
    assert good(found) == [(0, "one"), (1, ""), (2, "two  "), (3, "last")]


def test_text_has_crlf_a_byte_order_mark_and_separators_of_unicode_within_lines(tmp_path):
    found = rows(tmp_path / "a.txt", "\ufeffone\r\na\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh\r\n")
    assert [row.value for row in found] == ["one", "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"]


def test_a_line_that_is_not_utf_8_is_a_bad_row_and_no_other(tmp_path):
    found = rows(tmp_path / "a.txt", b"one\n\xff\xfe\nthree\n")
    assert good(found) == [(0, "one"), (2, "three")]
    assert "not UTF-8" in found[1].reason
    assert found[1].value == "\\xff\\xfe"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.ndjson"])
def test_an_empty_file_has_no_rows(name, tmp_path):
    (tmp_path / name).touch()
    source = open_input(tmp_path / name, None, None, None)
    assert source.scan() == 0
    assert list(source.rows()) == []


def test_jsonl_has_strings_ids_nothing_and_objects(tmp_path):
    lines = ['"a\u2028b"', "[3, 4]", "null", '{"id": "x", "prompt": "p", "seed": 5}', "", '{"prompt": "q"}', " "]
    found = rows(tmp_path / "a.jsonl", "\n".join(lines))
    assert good(found) == [
        (0, "a\u2028b"),
        (1, [3, 4]),
        (2, None),
        ("x", {"prompt": "p", "seed": 5}),
        (5, {"prompt": "q"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": 1, "prompt"', "not JSON"),
        ('{"id": 1.5}', "expected a string or a whole number"),
        ('{"id": true}', "expected a string or a whole number"),
        ('{"id": null}', "expected a string or a whole number"),
        ('{"id": "\\ud800"}', "not Unicode"),
        (b"\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_of_jsonl_is_a_bad_row_and_no_other(line, reason, tmp_path):
    line = line if isinstance(line, bytes) else line.encode()
    first, bad, last = rows(tmp_path / "a.jsonl", b'"a"\n' + line + b'\n"b"\n')
    assert (first.value, last.value, last.id) == ("a", "b", 2)
    assert reason in bad.reason
    assert bad.id is None


def test_csv_has_quotes_a_byte_order_mark_and_lines_within_fields(tmp_path):
    content = '\ufeffid,prompt,note\r\n1,"one ""quoted"", with a comma",x\r\n"b","two\r\nlines",\r\n\r\n3,last,y'
    assert good(rows(tmp_path / "a.csv", content)) == [
        ("1", 'one "quoted", with a comma'),
        ("b", "two\r\nlines"),
        ("3", "last"),
    ]


def test_the_columns_of_csv_are_chosen(tmp_path):
    content = "key,text\na,one\nb,two\n"
    assert good(rows(tmp_path / "a.csv", content, column="text", id_column="key")) == [("a", "one"), ("b", "two")]
    assert good(rows(tmp_path / "a.csv", column="text")) == [(0, "one"), (1, "two")]
    assert good(rows(tmp_path / "b.csv", "anything\none\n")) == [(0, "one")]
    assert good(rows(tmp_path / "c.csv", ",prompt\n0,a frame's own index\n")) == [(0, "a frame's own index")]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("a,b\n1,2\n", {}, "has the columns 'a', 'b'"),
        ("a,b\n1,2\n", {"column": "c"}, "column='c'"),
        ("a,b\n1,2\n", {"column": "a", "id_column": "c"}, "id_column='c'"),
        ("a,a\n1,2\n", {"column": "a"}, "column='a'"),
        ("prompt,prompt\n1,2\n", {}, "column='prompt'"),
        ("id,prompt,id\n1,b,2\n", {}, "id_column='id'"),
        ("", {}, r"\(none\)"),
    ],
)
def test_a_column_that_is_missing_is_an_error_before_the_first_row(content, columns, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        rows(tmp_path / "a.csv", content, **columns)


def test_a_header_alone_has_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("prompt\n")
    source = open_input(tmp_path / "a.csv", None, None, None)
    assert source.scan() == 0
    assert list(source.rows()) == []


def test_bad_rows_of_csv(tmp_path):
    content = b'id,prompt\na\nb,"two" and more\nc,three,too many\nd,\xff\ne,fine\nf,"never closed\n'
    found = rows(tmp_path / "a.csv", content)
    assert good(found) == [("e", "fine")]
    reasons = [row.reason for row in found if row.reason]
    expected = ["no value", "not CSV", "more fields", "not UTF-8", "not CSV"]
    assert len(reasons) == len(expected)
    assert all(wanted in reason for wanted, reason in zip(expected, reasons, strict=True))


def test_a_field_of_csv_may_be_long(tmp_path):
    assert good(rows(tmp_path / "a.csv", "prompt\n" + "x" * 200_000 + "\n")) == [(0, "x" * 200_000)]


def test_parquet_has_texts_and_ids(tmp_path):
    pa = pytest.importorskip("pyarrow", reason=PYARROW)
    pq = pytest.importorskip("pyarrow.parquet", reason=PYARROW)
    pq.write_table(pa.table({"prompt": ["a", None, "c"], "id": [7, 8, 9]}), tmp_path / "a.parquet")
    found = rows(tmp_path / "a.parquet")
    assert good(found) == [(7, "a"), (9, "c")]
    assert "no value" in found[1].reason
    pq.write_table(pa.table({"tokens": [[1, 2], [3]]}), tmp_path / "b.parquet")
    assert good(rows(tmp_path / "b.parquet")) == [(0, [1, 2]), (1, [3])]
    pq.write_table(pa.table({"prompt": [str(i) for i in range(5000)]}), tmp_path / "c.parquet")
    source = open_input(tmp_path / "c.parquet", None, None, None)
    assert source.scan() == 5000
    assert good(source.rows()) == [(i, str(i)) for i in range(5000)]
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(OptionError, match="cannot be read as Parquet"):
        rows(tmp_path / "d.parquet")


def test_a_page_of_parquet_that_is_damaged_is_an_error(tmp_path):
    pa = pytest.importorskip("pyarrow", reason=PYARROW)
    pq = pytest.importorskip("pyarrow.parquet", reason=PYARROW)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [str(i) * 9 for i in range(5000)]}), path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"a\.parquet: cannot be read as Parquet"):
        rows(path)


def test_lines_of_jsonl_are_utf_8_and_no_other(tmp_path):
    found = rows(tmp_path / "b.jsonl", b'"\xed\xa0\x80"\n"fine"\n')
    assert good(found) == [(1, "fine")]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_refused(name, encoding, tmp_path):
    with pytest.raises(OptionError, match="it is UTF-16; write it in UTF-8"):
        rows(tmp_path / name, "\ufeffprompt\n[3]\n".encode(encoding))


@pytest.mark.parametrize(
    ("name", "advice"),
    [("a.jsonl.gz", "decompress"), ("a.ZST", "decompress"), ("a.json", r"\.jsonl"), ("a.tsv", r"\.csv")],
)
def test_names_that_say_another_kind_are_refused(name, advice, tmp_path):
    with pytest.raises(OptionError, match=f"is no kind of input; .*{advice}"):
        rows(tmp_path / name, "a\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, None, None), "pass one of them"),
        (("a.txt", 3, None, None), "pass one of them"),
        ((None, 0, None, None), "num=0"),
        (("missing.txt", None, None, None), "no such file"),
        ((5, None, None, None), "expected the path of a file"),
    ],
)
def test_a_wrong_input_is_named(arguments, message):
    with pytest.raises(OptionError, match=message):
        open_input(*arguments)


def test_a_column_of_a_file_without_columns_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(OptionError, match="has no columns"):
        open_input(tmp_path / "a.txt", None, "prompt", None)


def test_the_description_depends_on_the_contents(tmp_path):
    def described(content):
        (tmp_path / "a.txt").write_text(content)
        source = open_input(tmp_path / "a.txt", None, None, None)
        source.scan()
        return source.describe()

    assert described("a\n") == described("a\n")
    assert described("a\n") != described("b\n")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_texts_are_read_from_jsonl_as_they_are(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("texts") / "a.jsonl"
    path.write_text("".join(json.dumps(text, ensure_ascii=False) + "\n" for text in texts), "utf-8", newline="")
    source = open_input(path, None, None, None)
    assert source.scan() == len(texts)
    assert [row.value for row in source.rows()] == texts
    assert np.array_equal([row.id for row in source.rows()], range(len(texts)))
