"""decoding.export.keras_model: on torch one step exports, on TensorFlow whole sequences too. Needs Keras 3."""

import numpy as np
import pytest

from decoding import ModelError, OptionError, export, score

keras = pytest.importorskip("keras", reason="Keras is not installed, or has no backend")
V, H = 23, 12


def language_model(length=None, stateful=False):
    tokens = keras.Input((length,), dtype="int32", batch_size=2 if stateful else None)
    x = keras.layers.Embedding(V, H)(tokens)
    y = keras.layers.GRU(H, return_sequences=True, stateful=stateful)(x)
    return keras.Model(tokens, keras.layers.Dense(V)(y))


def step():
    tokens, state = keras.Input((1,), dtype="int32"), keras.Input((H,), name="h")
    x = keras.layers.Embedding(V, H)(tokens)
    y, after = keras.layers.GRU(H, return_sequences=True, return_state=True)(x, initial_state=state)
    return keras.Model([tokens, state], [keras.layers.Dense(V)(y), after])


class Subclassed(keras.Model):
    """As TensorFlow's tutorial "Text generation with an RNN" writes it."""

    def __init__(self, needs=None):
        super().__init__()
        self.needs = needs
        self.embedding = keras.layers.Embedding(V, H)
        self.gru = keras.layers.GRU(H, return_sequences=True, return_state=True)
        self.dense = keras.layers.Dense(V)

    def call(self, inputs, states=None, return_state=False, training=False):
        x, states = self.gru(self.embedding(inputs, training=training), initial_state=states, training=training)
        x = self.dense(x, training=training)
        if self.needs is not None:
            raise ValueError("it needs more")
        return (x, states) if return_state else x


@pytest.mark.filterwarnings("ignore")
def test_a_step_with_its_state(tmp_path):
    keras.utils.set_random_seed(0)
    net = step()
    model = export.keras_model(net, tmp_path / "m.onnx", vocab=[chr(97 + i) for i in range(V)])
    ids, state, expected = [3, 1, 4, 1, 5], np.zeros((1, H), np.float32), []
    for token in ids:
        scores, state = (keras.ops.convert_to_numpy(x) for x in net([np.array([[token]]), state]))
        expected.append(scores[0, 0] - np.log(np.exp(scores[0, 0]).sum()))
    found = score(model, ids)[0][1:]
    np.testing.assert_allclose(found, [row[t] for row, t in zip(expected, ids[1:], strict=False)], atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow exports loops over time")
def test_whole_sequences_on_tensorflow(tmp_path):
    for net in (language_model(), Subclassed()):
        model = export.keras_model(net, tmp_path / "m.onnx")
        assert model.executor == "native"
        ids = np.random.default_rng(0).integers(0, V, 12)
        scores = keras.ops.convert_to_numpy(keras.ops.log_softmax(net(ids[None])))[0]
        np.testing.assert_allclose(score(model, ids.tolist())[0][1:], scores[np.arange(11), ids[1:]], atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="TensorFlow exports loops over time")
def test_whole_sequences_on_torch_are_refused_with_advice(tmp_path):
    with pytest.raises(ModelError, match="set KERAS_BACKEND=tensorflow"):
        export.keras_model(language_model(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_wrong_models_are_named(tmp_path):
    path = tmp_path / "m.onnx"
    for model, message in (
        (7, "model=7: expected a keras.Model"),
        (Subclassed(needs="more"), r"its call\(\) fails on ids \[batch, time\] alone"),
        (language_model(5), r"its first input .* is \[None, 5\]"),
        (language_model(1, stateful=True), "is stateful"),
    ):
        with pytest.raises(OptionError, match=message):
            export.keras_model(model, path)
