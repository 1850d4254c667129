"""What an ensemble should do, from the scores of each member alone."""

import numpy as np

from decoding import Beam, Greedy, Sample, TopN, load, score
from tests.helpers import build
from tests.helpers.exports import MODELS
from tests.helpers.seq2seq import AdditiveModel

VOCAB = 9
STRATEGIES = [Greedy(), Sample(temperature=1.4), TopN(3), Beam(3), Sample(replacement=False)]
SOURCES = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]


def members_of_every_kind():
    """Return models over one vocabulary by how they run, or by what is peculiar about them."""
    return {
        "native": load(build.recurrent("LSTM", vocab=VOCAB, seed=1, layers=2), executor="native"),
        "onnxruntime": load(build.recurrent("GRU", vocab=VOCAB, seed=2, exposed=True), executor="onnxruntime"),
        "softmax": load(build.recurrent("RNN", vocab=VOCAB, seed=3, final="Softmax")),
        "int8": load(build.recurrent("LSTM", vocab=VOCAB, seed=6, hidden=16), quantize="int8"),
        "window": load(MODELS / "torch_dynamo_self_attention.onnx"),
    }


def translators_and_lm():
    """Return two encoder-decoders, one without a mask, and a language model of the decoder's vocabulary."""
    found = []
    for seed, masked in ((1, True), (2, False)):
        net = AdditiveModel(seed, masked=masked, metadata={"decoding.bos": 1, "decoding.eos": 2})
        found.append(load(net.decoder(), encoder=net.encoder()))
    lm = load(build.recurrent("LSTM", vocab=10, seed=5, metadata={"decoding.bos": 1, "decoding.eos": 2}))
    return (*found, lm)


def outputs(strategy):
    """Return how many outputs of a prompt to ask for."""
    return 1 if isinstance(strategy, Greedy) else 3


def log_softmax(x):
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore"):
        return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def next_logprobs(model, prefix, **inputs):
    """Float64 [V]: the log-probability of every token after a prefix, by `score()` of one member; `inputs` are those of one prompt."""
    each = {
        name: {key: [row] * model.vocab_size for key, row in value.items()}
        if isinstance(value, dict)
        else [value] * model.vocab_size
        for name, value in inputs.items()
    }
    bos = [] if model.bos_token_id is None else [model.bos_token_id]
    assert list(prefix[: len(bos)]) == bos  # score() puts it in front
    sequences = [[*prefix[len(bos) :], token] for token in range(model.vocab_size)]
    return np.array([own[-1] for own in score(model, sequences, **each)], np.float64)


def combined(logprobs, weights=None, combine="logprobs"):
    """The scores [..., V] of an ensemble from the log-probabilities of its members: not normalised for "logprobs"."""
    weights = np.full(len(logprobs), 1 / len(logprobs)) if weights is None else np.asarray(weights, np.float64)
    if combine == "probs":
        with np.errstate(divide="ignore"):
            return np.log(sum(w * np.exp(x) for w, x in zip(weights / weights.sum(), logprobs, strict=True)))
    forbidden = np.any([(x == -np.inf) & (w != 0) for w, x in zip(weights, logprobs, strict=True)], axis=0)
    with np.errstate(invalid="ignore"):
        total = sum(w * x for w, x in zip(weights, logprobs, strict=True) if w)
    return np.where(forbidden, -np.inf, total)


class Truth:
    """The scores of an ensemble after any prefix.

    Args:
        members: each a model and its own inputs for one prompt, as `score()` takes them.
    """

    def __init__(self, members, weights=None, combine="logprobs"):
        self._members, self._weights, self._combine = members, weights, combine
        self._known = {}

    def scores(self, prefix):
        """Float64 [V], as beams add them up."""
        key = tuple(map(int, prefix))
        if key not in self._known:
            each = [next_logprobs(model, list(key), **inputs) for model, inputs in self._members]
            self._known[key] = combined(each, self._weights, self._combine)
        return self._known[key]

    def logprobs(self, prefix):
        """Float64 [V], the distribution that is drawn from."""
        return log_softmax(self.scores(prefix))

    def of_output(self, prompt, tokens):
        """The log-probability and the added score of each token of an output."""
        steps = [[*prompt, *tokens[:t]] for t in range(len(tokens))]
        logprobs = np.array([self.logprobs(p)[token] for p, token in zip(steps, tokens, strict=True)])
        return logprobs, np.array([self.scores(p)[token] for p, token in zip(steps, tokens, strict=True)])

    def greedy(self, prompt, count):
        """The most probable token, `count` times."""
        out = []
        for _ in range(count):
            out.append(int(np.argmax(self.scores([*prompt, *out]))))
        return out

    def best(self, prompt, length, count, eos=None, banned=()):
        """The outputs of greatest mean score among all of that length, or ended by EOS before: an exhaustive search without banned tokens."""
        found = []

        def extend(tokens, score):
            if len(tokens) == length or (tokens and tokens[-1] == eos):
                found.append((score / len(tokens), tokens))
                return
            for token, own in enumerate(self.scores([*prompt, *tokens])):
                if token not in banned:
                    extend([*tokens, token], score + own)

        extend([], 0.0)
        return sorted(found, key=lambda one: -one[0])[:count]


def check(found, truth, prompts, *, ranks):
    """Check that the log-probabilities and, of beams, the scores follow from the members' own."""
    for h in found:
        logprobs, scores = truth.of_output(prompts[h.prompt_index], h.tokens)
        np.testing.assert_allclose(h.token_logprobs, logprobs, atol=2e-4)
        if ranks:
            np.testing.assert_allclose(h.score, scores.mean(), atol=2e-4)
