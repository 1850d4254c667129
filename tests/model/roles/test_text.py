"""decoding/model/roles/text.py, through load(): the tokenizer and the special ids of a model."""

import json

import onnx
import pytest

from decoding import Sample, decode, load, stream
from decoding.errors import ModelError, OptionError
from decoding.tokenizers import read_tokenizer
from tests.helpers import build
from tests.helpers.seq2seq import AdditiveModel
from tests.helpers.tokenizers import TEXT, hugging_face, sentence_piece, trained

pytest.importorskip("tokenizers", reason="the text extra is not installed")
pytest.importorskip("sentencepiece", reason="the text extra is not installed")
KINDS = ["byte_level", "metaspace", "word_piece", "llama", "unigram_bytes", "bpe"]


def network(size, **metadata):
    entries = {f"decoding.{key}": value for key, value in metadata.items()}
    return build.recurrent("GRU", vocab=size, seed=3, metadata=entries)


def with_template(kind):
    """The tokenizer with a post-processor that puts <s> before and </s> after a text."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(hugging_face(kind).to_str())
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer


# -- text comes out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_streams_join_to_decoded_texts(kind):
    """Several outputs of several prompts, interleaved; they end by EOS, by a stop string and by their length."""
    size = read_tokenizer(trained(kind)).size
    model = load(network(size), tokenizer=trained(kind), eos_token_id=list(range(5, 12)))
    options = {"num_return_sequences": 20, "seed": 4, "max_new_tokens": 25, "stop": ["a", "е"]}
    prompts = [TEXT[:9], TEXT[300:308]]
    expected = decode(model, prompts, Sample(), **options)
    texts, ids, reasons = {}, {}, set()
    for event in stream(model, prompts, Sample(), **options):
        key = event.prompt_index, event.output_index
        texts[key] = texts.get(key, "") + event.text
        ids.setdefault(key, []).extend([] if event.finish_reason == "eos" else [event.token])
        reasons.add(event.finish_reason)
    assert sorted((p, ids[p, o], text) for (p, o), text in texts.items()) == sorted(
        (h.prompt_index, h.tokens, h.text) for h in expected
    )
    assert reasons == {None, "eos", "stop", "length"}


# -- special ids ---------------------------------------------------------------------------------------------


def ids_of(model):
    return model.bos_token_id, model.eos_token_id, model.pad_token_id


def test_special_ids_are_the_callers_else_the_files_else_the_tokenizers():
    tokenizer = hugging_face("byte_level")
    assert ids_of(load(network(500), tokenizer=tokenizer)) == (0, (1,), 2)
    assert ids_of(load(network(500, eos=[7, 8], bos=9), tokenizer=tokenizer)) == (9, (7, 8), 2)
    model = load(network(500, eos=[7, 8]), tokenizer=tokenizer, eos_token_id=5, pad_token_id=6, bos_token_id=4)
    assert ids_of(model) == (4, (5,), 6)
    assert ids_of(load(network(11), eos_token_id=(3, 4))) == (None, (3, 4), None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bos_token_id", 11, r"bos_token_id=11: the model gives 11 logits; expected an id from 0 to 10"),
        ("eos_token_id", [1, 11], r"eos_token_id=11: the model gives 11"),
        ("pad_token_id", -1, r"pad_token_id=-1: expected an id"),
        ("eos_token_id", "</s>", r"eos_token_id='</s>': expected an id or a list of ids"),
    ],
)
def test_an_id_that_the_model_has_not_is_refused(name, value, message):
    with pytest.raises(OptionError, match=message):
        load(network(11), **{name: value})


def test_an_id_that_is_passed_ends_sequences():
    free = decode(load(network(11)), [1], max_new_tokens=20)[0].tokens
    assert len(free) == 20
    ended = decode(load(network(11), eos_token_id=free[3]), [1], max_new_tokens=20)[0]
    assert ended.finish_reason == "eos"
    assert ended.tokens == free[: free.index(free[3])]


def test_a_text_begins_with_what_the_tokenizer_puts_there():
    """As the framework's own loop does, which encodes a prompt by the tokenizer: GPT-2's has a BOS, and puts none."""
    plain, template = hugging_face("byte_level"), with_template("byte_level")
    ids = plain.encode("All", add_special_tokens=False).ids
    for options, start in (
        ({"tokenizer": plain}, []),
        ({"tokenizer": template}, [0]),
        ({"tokenizer": template, "bos_token_id": 3}, [3]),
        ({"tokenizer": plain, "bos_token_id": 3}, [3]),
    ):
        model = load(network(500), **options)
        assert list(model._text_start) == start
        assert ("text start []" in model.describe()) == (not start)
        found = decode(model, "All", max_new_tokens=5)
        assert found.tokens == decode(model, [*start, *ids], max_new_tokens=5).tokens
    # The file's own BOS was put there by who made it.
    assert load(network(500, bos=2), tokenizer=plain)._text_start == (2,)


# -- which tokenizer fits ------------------------------------------------------------------------------------


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(OptionError, match=r"tokenizer: only 2 tokens, but the model gives 2000 logits"):
        load(network(2000), tokenizer=["a", "b"])
    with pytest.raises(OptionError, match=r"tokenizer: only 2 tokens"):
        load(network(2000), tokenizer={"a": 0, "b": 1999})
    with pytest.raises(OptionError, match=r"tokenizer: 500 tokens, but the model gives 400 logits"):
        load(network(400), tokenizer=hugging_face("byte_level"))
    with pytest.raises(OptionError, match=r"tokenizer: only 500 tokens, but the model gives 600 logits"):
        load(network(600), tokenizer=hugging_face("byte_level"))
    with pytest.raises(ModelError, match=r"vocabulary: only 2 tokens, but the model gives 200 logits"):
        load(network(200, vocab=["a", "b"]))


@pytest.mark.parametrize("size", [500, 504, 508, 512])
def test_a_padded_embedding_fits(size):
    model = load(network(size), tokenizer=hugging_face("byte_level"))
    assert model.tokenizer.decode([size - 1, model.tokenizer.encode("a")[0]]).endswith("a")


@pytest.mark.parametrize(
    ("tokens", "ids", "fits"),
    [(50_277, 50_280, 1), (50_277, 50_432, 1), (151_669, 151_936, 1), (32_100, 32_128, 1), (65, 128, 1), (65, 73, 1),
     (65, 74, 0), (65, 64, 0), (2, 100, 0), (32_000, 50_280, 0), (30_522, 32_000, 0)],
)  # fmt: skip
def test_the_rule_by_sizes_of_real_models(tokens, ids, fits):
    from decoding.tokenizers import PlainVocabulary, fitted

    read = PlainVocabulary([f"t{i}" for i in range(tokens)])
    if fits:
        assert len(fitted(read, ids, "tokenizer").tokens) == ids
    else:
        with pytest.raises(OptionError, match=f"{tokens} tokens"):
            fitted(read, ids, "tokenizer")


# -- encoders ------------------------------------------------------------------------------------------------

SOURCES = list("abcdefghijkl")


def test_a_text_for_an_encoder_without_a_tokenizer_is_refused():
    """The decoder's vocabulary is another one: its ids would be read as other words, and no error would say so."""
    system = AdditiveModel(3)
    model = load(system.decoder(), encoder=system.encoder(), tokenizer=SOURCES[:10], bos_token_id=1)
    with pytest.raises(OptionError, match=r"the encoder .* has no vocabulary.*encoder_tokenizer="):
        decode(model, "abc")
    given = load(system.decoder(), encoder=system.encoder(), encoder_tokenizer=SOURCES, bos_token_id=1)
    assert decode(given, "abc", max_new_tokens=4).tokens == decode(model, [0, 1, 2], max_new_tokens=4).tokens


def test_an_encoders_tokenizer_must_fit_and_needs_an_encoder():
    system = AdditiveModel(3)
    with pytest.raises(OptionError, match=r"encoder_tokenizer: 500 tokens, but the encoder takes 12 ids"):
        load(system.decoder(), encoder=system.encoder(), encoder_tokenizer=hugging_face("byte_level"))
    with pytest.raises(OptionError, match=r"encoder_tokenizer: .* has no encoder"):
        load(network(11), encoder_tokenizer=SOURCES)


# -- saved models and folders --------------------------------------------------------------------------------


def same_text(model, again):
    assert ids_of(again) == ids_of(model)
    assert again._text_start == model._text_start
    assert again.tokenizer.encode(TEXT) == model.tokenizer.encode(TEXT)
    found = [decode(m, TEXT[:20], max_new_tokens=30).text for m in (model, again)]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [{}, {"bos_token_id": 3, "eos_token_id": [3, 4]}])
def test_a_saved_model_needs_nothing_else(kind, special, tmp_path):
    model = load(network(read_tokenizer(trained(kind)).size), tokenizer=trained(kind), **special)
    for turn in range(2):  # and a saved model saves the same again
        model.save(tmp_path / f"{turn}.onnx")
        again = load(tmp_path / f"{turn}.onnx")
        assert repr(again.tokenizer) == repr(model.tokenizer)
        same_text(model, again)
        model = again


def test_a_template_and_a_saved_encoder_are_kept(tmp_path):
    model = load(network(500), tokenizer=with_template("byte_level"))
    model.save(tmp_path / "m.onnx")
    same_text(model, load(tmp_path / "m.onnx"))
    system = AdditiveModel(3)
    pair = load(system.decoder(), encoder=system.encoder(), encoder_tokenizer=SOURCES, bos_token_id=1, eos_token_id=0)
    pair.save(tmp_path / "pair.onnx")
    again = load(tmp_path / "pair.onnx")
    assert ids_of(again) == ids_of(pair) == (1, (0,), None)
    assert decode(again, "cab", max_new_tokens=5).tokens == decode(pair, "cab", max_new_tokens=5).tokens


def test_another_tokenizer_takes_the_place_of_the_files(tmp_path):
    model = load(network(500, vocab=[chr(200 + i) for i in range(500)]), tokenizer=hugging_face("byte_level"))
    model.save(tmp_path / "m.onnx")
    keys = {entry.key for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert "decoding.tokenizer" in keys
    assert "decoding.vocab" not in keys
    same_text(model, load(tmp_path / "m.onnx"))


def test_a_folder_loads_with_the_files_beside_the_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(network(512).SerializeToString())
    assert load(tmp_path).tokenizer is None
    hugging_face("byte_level").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9], "max_length": 20}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "<unk>"}}))
    model = load(f"{tmp_path}/")
    assert ids_of(model) == (0, (7, 9), 3)
    same_text(model, load(tmp_path / "model.onnx", tokenizer=tmp_path))
    assert load(tmp_path, eos_token_id=1).eos_token_id == (1,)
    assert load(tmp_path / "model.onnx").tokenizer is None
    (tmp_path / "other.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"a folder; .*it has model\.onnx, other\.onnx"):
        load(tmp_path)


def test_a_folder_with_sentencepiece_and_an_encoder(tmp_path):
    """The folder's tokenizer reads sources too, where it fits the encoder."""
    (tmp_path / "m.onnx").write_bytes(network(sentence_piece("bpe").get_piece_size()).SerializeToString())
    (tmp_path / "tokenizer.model").write_bytes(sentence_piece("bpe").serialized_model_proto())
    model = load(tmp_path)
    assert model.tokenizer.encode("All human") == sentence_piece("bpe").encode("All human")
    assert ids_of(model) == (1, (2,), None)
    size = model.vocab_size
    for source_vocab in (size, 12):
        system = AdditiveModel(3, source_vocab=source_vocab, vocab=size)
        (tmp_path / "m.onnx").write_bytes(system.decoder().SerializeToString())
        (tmp_path / "m.encoder.onnx").write_bytes(system.encoder().SerializeToString())
        model = load(tmp_path)
        if source_vocab == size:
            ids = model.tokenizer.encode("All human")
            assert decode(model, "All human", max_new_tokens=5).tokens == decode(model, ids, max_new_tokens=5).tokens
        else:
            with pytest.raises(OptionError, match=r"the encoder .* has no vocabulary"):
                decode(model, "All human")
    (tmp_path / "m.onnx").write_bytes(AdditiveModel(3).decoder().SerializeToString())
    with pytest.raises(ModelError, match=rf"tokenizer: {size} tokens, but the model gives 10 logits"):
        load(tmp_path)


def test_truncation_of_a_tokenizer_is_not_the_prompts():
    """A tokenizer.json keeps the truncation of its training: a prompt must not lose its end without a word."""
    tokenizer = read_tokenizer(hugging_face("byte_level"))
    cut = pytest.importorskip("tokenizers").Tokenizer.from_str(hugging_face("byte_level").to_str())
    cut.enable_truncation(max_length=4)
    cut.enable_padding(length=100)
    assert read_tokenizer(cut).encode(TEXT) == tokenizer.encode(TEXT)
    assert cut.truncation["max_length"] == 4


def test_a_tokenizer_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=with_template("llama"), **special)
    model = load(network(len(fast)), tokenizer=fast)
    assert ids_of(model) == (0, (1,), None)
    assert model._text_start == (0,)
    fast("All human", truncation=True, max_length=2)  # sets the truncation of the tokenizer within
    out = decode(model, TEXT[:50], Sample(), seed=1, max_new_tokens=40)[0]
    assert out.text == fast.decode(out.tokens)
    assert model.tokenizer.encode(TEXT) == fast.encode(TEXT, add_special_tokens=False)
    model.save(tmp_path / "m.onnx")
    same_text(model, load(tmp_path / "m.onnx"))
    slow = load(network(384), tokenizer=transformers.ByT5Tokenizer())
    assert ids_of(slow) == (None, (1,), 0)
    with pytest.raises(OptionError, match=r"a ByT5Tokenizer of 384 tokens cannot be written into a file"):
        slow.save(tmp_path / "slow.onnx")


@pytest.mark.parametrize("options", [{}, {"quantize": "int8"}, {"executor": "native"}, {"roles": {"window": None}}])
def test_every_way_of_running_has_the_ids_and_the_text(options):
    model = load(network(500), tokenizer=with_template("byte_level"), eos_token_id=7, **options)
    for one in (model, model if "quantize" in options else model.with_weights({})):
        assert ids_of(one) == (0, (7,), 2)
        assert one._text_start == (0,)
        assert one.tokenizer is model.tokenizer
