"""decoding/tokenizers/special_ids.py: which ids a tokenizer and the files beside it bring."""

import json

import pytest

from decoding.errors import OptionError
from decoding.tokenizers import SpecialIds, checked_special_ids, read_tokenizer, special_ids_of
from tests.helpers.tokenizers import hugging_face, sentence_piece

pytest.importorskip("tokenizers", reason="the text extra is not installed")
pytest.importorskip("sentencepiece", reason="the text extra is not installed")


def brought(given):
    return special_ids_of(given, read_tokenizer(given))


def test_a_tokenizers_object_brings_the_special_tokens_with_usual_names():
    assert brought(hugging_face("byte_level")) == SpecialIds(0, (1,), 2)
    assert brought(hugging_face("ctc")) == SpecialIds(None, (), 0)


def test_a_token_with_a_usual_name_that_is_not_special_is_text():
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"</s>": 0, "a": 1}, unk_token="a"))
    assert brought(plain) == SpecialIds()


def test_a_sentencepiece_model_brings_its_ids():
    processor = sentence_piece("unigram")
    assert brought(processor) == SpecialIds(processor.bos_id(), (processor.eos_id(),), None)
    assert processor.pad_id() == -1


def test_a_tokenizer_of_transformers_brings_its_attributes():
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=hugging_face("byte_level"), eos_token="<pad>")
    assert brought(fast) == SpecialIds(None, (2,), None)
    assert brought(transformers.ByT5Tokenizer()) == SpecialIds(None, (1,), 0)


def folder(path, **files):
    hugging_face("byte_level").save(str(path / "tokenizer.json"))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_files_of_a_folder_go_before_names(tmp_path):
    config = {"eos_token": {"content": "<unk>"}, "pad_token": "<pad>", "bos_token": None}
    assert brought(folder(tmp_path, tokenizer_config=config)) == SpecialIds(0, (3,), 2)
    assert brought(str(folder(tmp_path, generation_config={"eos_token_id": [7, 9]}))) == SpecialIds(0, (7, 9), 2)
    assert brought(folder(tmp_path, config={"decoder_start_token_id": 5, "bos_token_id": 4})).bos == 5


@pytest.mark.parametrize("value", ["2", 1.5, True, -1, 2**31, [1]])
def test_what_is_no_id_is_named(tmp_path, value):
    with pytest.raises(OptionError, match=r"generation_config.json: pad_token_id=.*expected an id"):
        brought(folder(tmp_path, generation_config={"pad_token_id": value}))
    with pytest.raises(OptionError, match=r"^bos_token_id=.*expected an id"):
        checked_special_ids(value, None, None)
    if value != [1]:
        with pytest.raises(OptionError, match=r"^eos_token_id=.*expected an id or a list of ids"):
            checked_special_ids(None, [0, value], None)


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 10**5, b"\xff"])
def test_a_damaged_file_is_named(tmp_path, content):
    folder(tmp_path)
    (tmp_path / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(OptionError, match=r"config\.json: .*JSON"):
        brought(tmp_path)
