"""Arguments of wrong kinds and sizes are OptionErrors that name them, never errors of what stumbles over them (issue 13)."""

import numpy as np
import pytest

import decoding
from decoding import (
    Beam,
    Discriminator,
    ModelError,
    OptionError,
    Sample,
    TopN,
    decode,
    decode_iter,
    kernels,
    mbr,
    rerank,
)
from decoding.processors import (
    AllowedTokens,
    ForcedTokens,
    FrequencyPenalty,
    LogitBias,
    NoRepeatNgram,
    PrefixAllowed,
    RepetitionPenalty,
    SuppressTokens,
)
from tests.helpers.build import recurrent

HUGE = 10**400
DEEP = []  # has no repr: CPython 3.13 prints 5,000 lists within each other
for _ in range(100_000):
    DEEP = [DEEP]


class Index:
    """A whole number by its protocol alone."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number


@pytest.fixture(scope="module")
def model():
    return decoding.load(recurrent(), threads=1)


@pytest.fixture(scope="module")
def out(model):
    return decode(model, [[1], [2]], Sample(), num_return_sequences=2, max_new_tokens=3, seed=1, eos_token_id=None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogitBias([1, 2]), r"LogitBias\(bias=\[1, 2\]\): expected a dict"),
        (lambda: LogitBias({1: "a"}), r"LogitBias\(bias=\{1: 'a'\}\): expected finite numbers"),
        (lambda: LogitBias({1: np.zeros(2)}), r"LogitBias\(bias="),
        (lambda: LogitBias({1: 1e39}), r"LogitBias\(bias=\{1: 1e\+39\}\).*float32 holds"),
        (lambda: LogitBias({2**31: 1.0}), r"LogitBias\(bias=2147483648\): expected a whole number below 2\*\*31"),
        (lambda: SuppressTokens(3), r"SuppressTokens\(ids=3\): expected a list of token ids"),
        (lambda: SuppressTokens({1: 2}), r"SuppressTokens\(ids=\{1: 2\}\): expected a list of token ids"),
        (lambda: SuppressTokens([2**63]), r"SuppressTokens\(ids=9223372036854775808\): expected"),
        (lambda: AllowedTokens("12"), r"AllowedTokens\(ids='12'\): expected a list of token ids"),
        (lambda: AllowedTokens(np.array(1)), r"AllowedTokens\(ids=array\(1\)\): expected a list"),
        (lambda: ForcedTokens([3]), r"ForcedTokens\(tokens=\[3\]\): expected a dict"),
        (lambda: ForcedTokens({2**63: 1}), r"ForcedTokens\(position=9223372036854775808\): expected"),
        (lambda: PrefixAllowed(int), r"PrefixAllowed\(<class 'int'>\): expected a function"),
        (lambda: RepetitionPenalty(HUGE), r"RepetitionPenalty\(penalty=100000"),
        (lambda: RepetitionPenalty(1e39), r"RepetitionPenalty\(penalty=1e\+39\).*float32 holds"),
        (lambda: FrequencyPenalty(DEEP), r"FrequencyPenalty\(penalty=<list>\)"),
        (lambda: NoRepeatNgram(2**63), r"NoRepeatNgram\(n=9223372036854775808\): expected"),
        (lambda: Sample(top_k=2**63), r"Sample\(top_k=9223372036854775808\): expected a whole number below"),
        (lambda: Sample(top_p=np.array([0.5, 0.5])), r"Sample\(top_p=array"),
        (lambda: Sample(temperature=HUGE), r"Sample\(temperature=100000"),
        (lambda: Sample(replacement=1), r"Sample\(replacement=1\): expected True or False"),
        (lambda: TopN(DEEP), r"TopN\(n=<list>\): expected a whole number"),
        (lambda: Beam(length_penalty=2**31), r"Beam\(length_penalty=2147483648\): expected a finite number from"),
        (lambda: Beam(length_penalty=HUGE), r"Beam\(length_penalty=100000"),
        (lambda: Beam(early_stopping=np.array([1, 2])), r"Beam\(early_stopping=array"),
        (lambda: Beam(2**40), r"Beam\(num_beams=1099511627776\): expected a whole number below 2\*\*31"),
    ],
)
def test_strategies_and_processors(make, message):
    with pytest.raises(OptionError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_return_sequences": 2**40}, r"num_return_sequences=1099511627776: expected"),
        ({"max_new_tokens": 2**31}, r"max_new_tokens=2147483648: expected a whole number below 2\*\*31"),
        ({"batch_size": 2**40}, r"batch_size=1099511627776: expected"),
        ({"workers": 2**31}, r"workers=2147483648: expected at most 1,024"),
        ({"return_attention": "yes"}, r"return_attention='yes': expected True or False"),
        ({"progress": np.array([1, 2])}, r"progress=array\(\[1, 2\]\): expected True or False"),
        ({"eos_token_id": np.float32}, r"eos_token_id=<class 'numpy.float32'>: expected"),
        ({"eos_token_id": np}, r"eos_token_id=<module"),
        ({"stop": np.array(1)}, r"stop=array\(1\): expected"),
        ({"processors": np.array(1)}, r"processors=array\(1\): expected"),
        ({"processors": [int]}, r"processors: int is a class"),
        ({"teacher": [[1]], "teacher_ratio": np.array([1.0, 2.0])}, r"teacher_ratio=array"),
        ({"step_inputs": 3}, r"step_inputs=3: expected a function"),
        ({"seed": HUGE}, r"seed=100000"),
    ],
)
def test_options(model, options, message):
    with pytest.raises(OptionError, match=message):
        decode(model, [[1]], **options)


def test_whole_numbers_may_be_anything_with_an_index(model):
    options = {"max_new_tokens": 3, "seed": 1, "eos_token_id": None}
    for strategy, same in (
        (TopN(Index(2)), TopN(2)),
        (Sample(top_k=Index(2)), Sample(top_k=2)),
        (Beam(Index(2)), Beam(2)),
    ):
        assert decode(model, [[1]], strategy, **options).tokens == decode(model, [[1]], same, **options).tokens


def test_rerank_mbr_and_padded(out):
    for call, message in (
        (lambda: mbr(out, True), "similarity: True is not a function"),
        (lambda: mbr(out, int), "similarity: <class 'int'> is not a function"),
        (lambda: mbr(out, lambda a, b: 1.0, weights=np.array(["a", "b"])), "weights=array"),
        (lambda: rerank(out, float), "reward: float is a class"),
        (lambda: out.padded(2**63), "fill=9223372036854775808: expected"),
        (lambda: out.padded([0, 1, 2]), r"fill=\[0, 1, 2\]: expected"),
        (lambda: out.padded(np.nan), "fill=nan: expected"),
    ):
        with pytest.raises(OptionError, match=message):
            call()
    assert out.padded(-1).dtype == np.int64


def test_rollout(model):
    reward = lambda ids: ids.mean(axis=1)  # noqa: E731
    for options, message in (
        ({"pad_token_id": 2**63}, "pad_token_id=9223372036854775808: expected"),
        ({"pad_token_id": np.array([1, 2])}, "pad_token_id=array"),
        ({"n": 2**40}, "n=1099511627776: expected"),
        ({"reward": int}, "reward: int is a class"),
    ):
        with pytest.raises(OptionError, match=message):
            decoding.rollout(model, [[1, 2]], **{"reward": reward, "n": 1, **options})


def test_saving_running_and_scoring_files(model, tmp_path):
    for path in (True, 3, None, [1]):
        with pytest.raises(OptionError, match=r"path=.*expected the path"):
            model.save(path)
    for path in (tmp_path, tmp_path / ("x" * 5000), "null\0"):
        with pytest.raises(ModelError, match="cannot be written"):
            model.save(path)
    for ids in (3, []):
        with pytest.raises(OptionError, match=r"inputs\['tokens'\]: shape"):
            model.run({"tokens": ids})
    with pytest.raises(ModelError, match="no such file, and no shipped model"):
        decode("x" * 5000, [[1]])


def test_discriminators():
    from onnx import TensorProto, helper

    nodes = [helper.make_node("Cast", ["ids"], ["f"], to=1), helper.make_node("ReduceMean", ["f"], ["s"], axes=[1])]
    graph = helper.make_graph(
        nodes,
        "d",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, ["n", 1])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(OptionError, match="token=array"):
        Discriminator(proto, token=np.array(["a", "b"]))
    discriminator = Discriminator(proto)
    assert discriminator([[1, 3]]).tolist() == [2.0]
    for ids in (ValueError(), 3, [[1], [2, 3]], None):
        with pytest.raises(OptionError, match="ids"):
            discriminator(ids)


X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
RAGGED = [[1], [2, 3], 4]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: kernels.draw(X, seed=1, step=np.uint64(2**63)),
            "step has 9223372036854775808: expected integers below",
        ),
        (lambda: kernels.draw(X, seed=1, step=2**63), "step is 9223372036854775808"),
        (lambda: kernels.draw(X, seed=1.5), r"seed is 1\.5: expected an integer"),
        (lambda: kernels.draw(X, seed=1, rows=RAGGED), "rows is .*expected an array"),
        (lambda: kernels.draw(X, seed=1, top_p="a"), "top_p is 'a': expected a number"),
        (
            lambda: kernels.draw(X, seed=1, top_k=np.array([1, 2])),
            r"top_k has shape \[2\]: expected one number, or one",
        ),
        (lambda: kernels.draw(X, seed=1, threads=2.0), r"threads is 2\.0: expected an integer"),
        (lambda: kernels.draw(X, seed=1, temperature="a"), "temperature is 'a': expected"),
        (lambda: kernels.draw(RAGGED, seed=1), "logits is .*expected an array"),
        (lambda: kernels.softmax(X, "a"), "temperature is 'a': expected a number"),
        (lambda: kernels.log_softmax(X, HUGE), "temperature is 10000.*expected a number"),
        (lambda: kernels.temper(np.abs(X), DEEP), "temperature is <list>: expected a number"),
        (lambda: kernels.multinomial(np.abs(X), replacement=np.ones(2), seed=1), "replacement is array"),
        (lambda: kernels.multinomial(np.abs(X), 2**61, seed=1), "there is no memory for it"),
        (lambda: kernels.philox(3, [1, 2, 3, 4], 1), "key is 3: expected 2 integers"),
        (lambda: kernels.uniform(1, RAGGED, 0, 1), "rows is .*expected an array"),
        (lambda: kernels.normal(1, [1], 0, 1, purpose=3.0), r"purpose is 3\.0: expected one of"),
        (lambda: kernels.gumbel_top_k(X, [2], seed=1), r"k is \[2\]: expected an integer"),
        (lambda: kernels.gumbel_top_k(X, 2, seed=1, scores=["a"]), "scores is .*expected numbers"),
        (lambda: kernels.gumbel_top_k(X, 2, seed=1, min_p=None), "min_p is None: expected a number"),
        (lambda: kernels.token_logprobs(X, RAGGED), "tokens is .*expected an array"),
        (lambda: kernels.beam_prune(X[None], np.zeros((1, 3)), 3, diversity_penalty=None), "diversity_penalty is None"),
        (lambda: kernels.beam_prune(X[None], np.zeros((1, 3)), 3, normalize=np.ones(2)), "normalize is array"),
        (lambda: kernels.gather_rows(X, [0], "a"), "axis is 'a': expected an integer"),
        (lambda: kernels.gather_rows(RAGGED, [0]), "array is .*expected an array"),
        (lambda: kernels.repetition_penalty(X.copy(), int, 1.2), "history is <class 'int'>: expected a sequence"),
        (lambda: kernels.repetition_penalty(X.copy(), [[1]] * 3, [1]), r"penalty is \[1\]: expected a number"),
        (lambda: kernels.frequency_penalty(X.copy(), [[1]] * 3, HUGE), "penalty is 10000"),
        (lambda: kernels.suppress_tokens(X.copy(), RAGGED), "ids is .*expected an array"),
        (lambda: kernels.logit_bias(X.copy(), np.array([2**63], np.uint64), 1.0), "ids has 9223372036854775808"),
    ],
)
def test_kernels(call, message):
    with pytest.raises(OptionError, match=message):
        call()


def test_decode_iter(model):
    for options, message in (
        ({"workers": 2**31}, "workers=2147483648: expected at most 1,024"),
        ({"num_return_sequences": np.uint64(2**63)}, "num_return_sequences=.*expected"),
    ):
        with pytest.raises(OptionError, match=message):
            decode_iter(model, [[1]], Sample(), **options)


def test_quantize_and_verify():
    for value in (np.array([]), np.array(["int8", "int8"]), 8, True):
        with pytest.raises(OptionError, match=r"quantize=.*expected 'int8'"):
            decoding.load(recurrent(), threads=1, quantize=value)
    for value in (np.array([True, False]), 1, "yes"):
        with pytest.raises(OptionError, match=r"verify=.*expected True or False"):
            decoding.load(recurrent(), threads=1, verify=value)
