"""decoding/plot: what the pictures hold, by their artists. What they look like is in docs/images."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding import Beam, Greedy, Hypothesis, OptionError, Sample, decode, load, score
from decoding.tokenizers import Vocabulary
from tests.helpers import build

matplotlib = pytest.importorskip("matplotlib", reason="the plot extra is not installed")

from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.ft2font import FT2Font  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from decoding import plot  # noqa: E402
from decoding.plot import glyphs  # noqa: E402
from decoding.plot.glyphs import drawable, pieces, width  # noqa: E402
from decoding.plot.page import label, visible  # noqa: E402

MODELS = Path(__file__).parents[1] / "models"
WORDS = ["the ", " quick", "brown\n", "fox", "a", "$x$", "</s>", "of", "to"]


@pytest.fixture(scope="module")
def attentive():
    return load(MODELS / "torch_dynamo_attention.onnx", tokenizer=WORDS)


def made(ids, logprobs, tokenizer=None, prompt=0, rank=0, reason="length", attention=None):
    ids, logprobs = np.array(ids, np.int64), np.array(logprobs, np.float32)
    total = float(logprobs.sum())
    return Hypothesis(prompt, rank, total, total, reason, logprobs, ids, tokenizer, attention=attention)


def drawn(figure):
    """Draw it, which must not warn: warnings are errors here."""
    figure.canvas.draw()
    return figure


def ticks(axis):
    return [t.get_text() for t in axis.get_ticklabels()]


def boxes(axes):
    """Text, place [x, line] and colour of each box, in the order drawn."""
    texts = [t for t in axes.texts if t.get_ha() == "center"]
    rectangles = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert len(texts) == len(rectangles)
    return [(t.get_text(), r.get_xy(), to_rgb(r.get_facecolor()), r) for t, r in zip(texts, rectangles, strict=True)]


# -- attention -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [5, 60])
def test_the_attention_map_is_the_weights_with_their_tokens(attentive, length):
    source = np.random.default_rng(2).normal(size=(1, length, 12))
    options = {"context": source, "return_attention": True, "max_new_tokens": length, "eos_token_id": None}
    (h,) = decode(attentive, [[1]], Greedy(), **options)
    words = [f"w{i}" for i in range(length)]
    axes, scale = drawn(plot.attention(h, words)).axes
    (image,) = axes.images
    np.testing.assert_array_equal(image.get_array(), h.attention)
    assert ticks(axes.xaxis) == words
    assert ticks(axes.yaxis) == [label(text) for text in h.token_texts]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("source token", "output token")
    assert axes.get_title("left") == "Attention"
    assert scale.get_ylabel() == "attention weight"
    assert image.norm.vmin == 0


def test_a_source_is_a_text_or_tokens_and_padding_is_cut():
    weights = np.array([[0.5, 0.5, 0, 0], [0.1, 0.9, 0, 0]], np.float32)
    h = made([0, 1], [-1, -1], attention=weights)
    for source, names in [("ab", ["a", "b"]), ([7, 8], ["7", "8"]), (["$a$", " \n"], ["$a$", "␣↵"]), ("abc", [*"abc"])]:
        (image,) = (axes := drawn(plot.attention(h, source)).axes[0]).images
        assert ticks(axes.xaxis) == names
        np.testing.assert_array_equal(image.get_array(), weights[:, : len(names)])
    assert ticks(plot.attention(h).axes[0].xaxis) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("weights", "source", "message"),
    [
        (None, "ab", r"hypothesis.attention is None.*return_attention=True"),
        (np.zeros((0, 3)), "abc", r"hypothesis.attention has shape \[0, 3\]: there is nothing"),
        (np.full((2, 3), 1 / 3), "ab", r"source: 2 tokens, but there are weights for 3 positions.*reach 0.33.*special ones"),
        (np.zeros((2, 3)), "abcd", r"source: 4 tokens, but there are weights for 3 positions"),
        (np.zeros((2, 3)), "", r"source: 0 tokens"),
    ],
)  # fmt: skip
def test_a_source_that_does_not_fit(weights, source, message):
    with pytest.raises(OptionError, match=message):
        plot.attention(made([0, 1], [-1, -1], attention=weights), source)


# -- beams ---------------------------------------------------------------------------------------------------


def nodes_of(figure):
    """Boxes of all panels but the scale's."""
    return [box for axes in figure.axes[:-1] for box in boxes(axes)]


def lines_of(figure):
    return [line for axes in figure.axes[:-1] for line in axes.lines]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), max_size=70), min_size=1, max_size=6, unique_by=tuple), st.integers(0, 9))
def test_without_a_trace_the_tree_is_the_beginnings_of_the_outputs(sequences, seed):
    rng = np.random.default_rng(seed)
    own = {}
    outputs = []
    for rank, ids in enumerate(sequences):
        logprobs = [own.setdefault(tuple(ids[: t + 1]), -rng.random()) for t in range(len(ids))]
        outputs.append(made(ids, logprobs, Vocabulary(["a", "bb", "$"]), rank=rank))
    figure = plot.beam_tree(outputs)
    beginnings = {tuple(ids[:n]) for ids in sequences for n in range(len(ids) + 1)}
    assert len(nodes_of(figure)) == len(beginnings) + len(sequences)
    assert len(lines_of(figure)) == len(beginnings) + len(sequences) - 1
    assert {axes.get_xlabel() for axes in figure.axes[:-1]} == {"new tokens"}
    steps = [int(step) for axes in figure.axes[:-1] for step in ticks(axes.xaxis)]
    assert steps == list(range(max(map(len, sequences)) + 2))


def test_a_trace_has_every_beam_with_its_own_logprob():
    model, trace = load(build.recurrent(scale=0.8, seed=4)), plot.BeamTrace()
    options = {"max_new_tokens": 7, "num_return_sequences": 3, "eos_token_id": [0, 3]}
    out = decode(model, [1, 2], Beam(3), processors=[trace], **options)
    assert out.tokens == decode(model, [1, 2], Beam(3), **options).tokens
    beams = list(trace.logprobs)
    assert all(sum(len(b) == t for b in beams) <= 3 for t in range(1, 8))
    assert all(beam[:-1] in trace.logprobs for beam in beams if len(beam) > 1)
    values = score(model, [[1, 2, *beam] for beam in beams])
    np.testing.assert_allclose([v[-1] for v in values], list(trace.logprobs.values()), atol=1e-4)
    ended = {tuple(h.tokens) for h in out}
    drawn_beginnings = set(beams) | {b[:n] for b in ended for n in range(len(b) + 1)} | {()}
    figure = drawn(plot.beam_tree(out, trace))
    assert len(nodes_of(figure)) == len(drawn_beginnings) + len(out)
    dotted = sum(line.get_linestyle() == ":" for line in lines_of(figure))
    assert dotted == len(drawn_beginnings - {b[:n] for b in ended for n in range(len(b) + 1)}) > 0
    decode(model, [1], Beam(2), processors=[trace], max_new_tokens=2)
    assert max(map(len, trace.logprobs)) == 1  # of the new search alone


def test_a_column_is_in_order_and_shaded_and_ends_are_told():
    vocabulary = Vocabulary(["a", "b", "c"])
    outputs = [
        made([0, 1], np.log([0.5, 0.25, 1.0]), vocabulary, rank=0, reason="eos"),
        made([2], np.log([0.25, 0.4]), vocabulary, rank=1, reason="eos"),
    ]
    figure = drawn(plot.beam_tree(outputs))
    found = {(text, round(xy[1])): rectangle.get_facecolor() for text, xy, _, rectangle in nodes_of(figure)}
    white, blue = np.array([1, 1, 1]), np.array(to_rgb("#8eb6e6"))
    for place, probability in {("a", 0): 0.5, ("c", 1): 0.25, ("b", 0): 0.25}.items():
        np.testing.assert_allclose(to_rgb(found[place]), white + probability * (blue - white), atol=0.01)
    assert {text for text, _ in found} == {"prompt", "a", "b", "c", "0: eos -2.08", "1: eos -2.30"}
    assert found["prompt", 0][3] == 0  # no shade
    thickest = max(lines_of(figure), key=lambda line: line.get_linewidth()).get_linewidth()
    assert sum(line.get_linewidth() == thickest for line in lines_of(figure)) == 3  # a, b, the end


def test_many_tokens_stand_in_panels_below_each_other():
    outputs = [made([0] * 60, [-1] * 60, Vocabulary(["word"]))]
    figure = drawn(plot.beam_tree(outputs))
    assert len(figure.axes) - 1 > 2
    assert figure.get_figwidth() < 14
    for axes in figure.axes[:-1]:
        assert all(x + r.get_width() <= axes.get_xlim()[1] for _, (x, _), _, r in boxes(axes))


def test_trees_of_several_prompts_are_refused():
    with pytest.raises(OptionError, match=r"hypotheses of the prompts \[0, 1\]: expected those of one"):
        plot.beam_tree([made([1], [-1]), made([1], [-1], prompt=1)])
    with pytest.raises(OptionError, match=r"hypotheses of the prompts \[\]"):
        plot.beam_tree([])
    model = load(build.recurrent())
    with pytest.raises(OptionError, match="BeamTrace: beams of several prompts"):
        decode(model, [[1], [2]], Beam(2), processors=[plot.BeamTrace()])


# -- temperature ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [3, 60])
def test_bars_are_the_tempered_softmax(top):
    logits = np.random.default_rng(0).normal(size=40).astype(np.float32) * 2
    logits[5] = -np.inf
    names = [f"t{i}" for i in range(40)]
    axes = drawn(plot.temperature(logits, (0.5, 1, 1.5), names, top=top)).axes[0]
    order = np.argsort(-logits, kind="stable")[:top]
    others = ["37\nothers"] if top == 3 else []
    assert ticks(axes.xaxis) == [*(names[i] for i in order), *others]
    for bars, t in zip(axes.containers, (0.5, 1, 1.5), strict=True):
        p = np.exp(logits.astype(float) / t)
        p /= p.sum()
        expected = np.append(p[order], [1 - p[order].sum()] * len(others))
        np.testing.assert_allclose([bar.get_height() for bar in bars], expected, atol=1e-5)
        bits = -(p[p > 0] * np.log2(p[p > 0])).sum()
        assert bars.get_label() == f"T = {t:g}: {bits:.2f} bits"
    assert axes.get_ylabel() == "probability"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logits": [[1.0, 2.0]]}, r"logits of shape \[1, 2\]: expected one row"),
        ({"logits": [1.0, np.nan]}, r"logits of shape \[2\]: expected one row \[V\] of numbers"),
        ({"logits": []}, r"logits of shape \[0\]"),
        ({"logits": [1.0, 2.0], "tokens": ["a"]}, r"tokens: found 1 labels; expected one for each of the 2 logits"),
        ({"logits": [1.0], "temperatures": [0.0]}, r"temperatures=\[0.0\]: expected finite numbers above 0"),
        ({"logits": [1.0], "temperatures": []}, r"temperatures=\[\]"),
        ({"logits": [1.0], "top": 0}, r"top=0: expected a whole number of at least 1"),
    ],
)
def test_wrong_distributions(arguments, message):
    with pytest.raises(OptionError, match=message):
        plot.temperature(**arguments)


# -- tokens --------------------------------------------------------------------------------------------------


def test_tokens_stand_in_lines_and_are_shaded_by_their_probability():
    (h,) = decode("shakespeare", "ROMEO:", Sample(), max_new_tokens=300, seed=1)
    axes, _ = drawn(plot.tokens(h)).axes
    found = boxes(axes)
    assert "".join(text for text, *_ in found) == visible(h.text)
    white, blue = np.array([1, 1, 1]), np.array(to_rgb("#8eb6e6"))
    for (*_, colour, _), logprob in zip(found, h.token_logprobs, strict=True):
        np.testing.assert_allclose(colour, white + np.exp(logprob) * (blue - white), atol=0.01)
    lines = h.text.removesuffix("\n").split("\n")
    assert sorted({round(y) for _, (_, y), _, _ in found}) == list(range(len(lines)))
    places = [(round(y), x) for _, (x, y), _, _ in found]
    assert places == sorted(places)


def test_eos_is_a_token_and_headings_part_several_outputs():
    one, two = made([1, 1], [-1, -2, -3], reason="eos"), made([2], [-1], rank=1)
    assert [text for text, *_ in boxes(plot.tokens(one).axes[0])] == ["1", "1", "<EOS>"]
    axes = drawn(plot.tokens([one, two])).axes[0]
    assert [text for text, *_ in boxes(axes)] == ["1", "1", "<EOS>", "2"]
    headings = [t.get_text() for t in axes.texts if t.get_style() == "italic"]
    assert headings == ["prompt 0, rank 0: score -6.000, eos", "prompt 0, rank 1: score -1.000, length"]


def test_texts_with_logprobs_and_what_has_none():
    texts = ["春", "x" * 200, "\n", "b"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there may be no font for the first
        axes = drawn(plot.tokens(texts, [np.nan, -1, -2, -3])).axes[0]
    found = boxes(axes)
    assert "".join(text for text, *_ in found)[1:] == "x" * 200 + "↵b"
    assert found[0][3].get_facecolor()[3] == 0
    assert all(x + r.get_width() <= 80 for _, (x, _), _, r in found)
    assert round(found[-1][1][1]) == round(found[-2][1][1]) + 1


def test_very_many_tokens_are_cut_with_a_count():
    figure = plot.tokens(["a"] * 2345, np.full(2345, -1.0))
    assert len(boxes(figure.axes[0])) == 2000
    assert "... and 345 more tokens" in [t.get_text() for t in figure.axes[0].texts]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"],), r"found texts without logprobs="),
        (([],), r"there are no tokens to draw"),
        ((["a"], [-1, -2]), r"1 texts and log-probabilities of shape \[2\]"),
        (("ab", [-1, -2]), r"expected a list of texts, one a token"),
    ],
)
def test_wrong_tokens(arguments, message):
    with pytest.raises(OptionError, match=message):
        plot.tokens(*arguments)


# -- labels and fonts ----------------------------------------------------------------------------------------


def test_labels_show_what_cannot_be_seen():
    assert [label(t) for t in (" a", "\n", "\t", "\x00", "", "x" * 40)] == ["␣a", "↵", "⇥", "\\x00", "", "x" * 15 + "…"]
    assert (width("ab"), width("春a"), width("e\u0301"), width("")) == (2, 3, 1, 1)


@given(st.text(alphabet="ab春\u0301", max_size=30), st.integers(2, 9))
def test_pieces_lose_nothing_and_fit(text, columns):
    cut = list(pieces(text, columns))
    assert "".join(cut) == text
    assert all(width(piece) <= columns for piece in cut)


def test_a_font_is_found_for_what_the_default_lacks():
    """U+237C is in STIX, which comes with matplotlib, and not in DejaVu Sans Mono."""
    missing = "\u237c"
    (text,), style = drawable([missing], "monospace")
    assert text == missing
    fonts = [matplotlib.font_manager.findfont(family) for family in style["fontfamily"]]
    assert not FT2Font(fonts[0]).get_char_index(ord(missing))
    assert FT2Font(fonts[-1]).get_char_index(ord(missing))
    drawn(plot.tokens([missing], [-1.0]))


@pytest.fixture
def no_other_fonts(monkeypatch):
    monkeypatch.setattr(glyphs, "_installed", list)
    glyphs._font_for.cache_clear()
    yield
    glyphs._font_for.cache_clear()


@pytest.mark.usefixtures("no_other_fonts")
def test_what_no_font_has_is_replaced_with_one_warning():
    with pytest.warns(UserWarning, match=r"no installed font has '春眠'.*install one that does") as caught:
        figure = drawn(plot.tokens(["春", "a眠"], [-1.0, -2.0]))
    assert len(caught) == 1
    assert [text for text, *_ in boxes(figure.axes[0])] == ["\ufffd", "a\ufffd"]


@pytest.mark.usefixtures("no_other_fonts")
def test_what_the_pictures_say_of_themselves_needs_no_other_font():
    long = made([0, 1, 2, 3], [-1, -2, -3, -4], Vocabulary([" \n\t", "x" * 40, "", "\x00"]), attention=np.ones((4, 2)))
    for figure in (
        plot.tokens([long, long]),
        plot.beam_tree([long]),
        plot.attention(long),
        plot.temperature([1, 2], top=1),
    ):
        drawn(figure)  # without the warning that no font has a character
        assert not any("\ufffd" in text.get_text() for text in figure.findobj(Text))


# -- matplotlib itself ---------------------------------------------------------------------------------------


def python(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_matplotlib_is_imported_only_for_pictures_and_pyplot_never():
    program = (
        "import sys, decoding; assert 'matplotlib' not in sys.modules; import matplotlib; before = matplotlib.rcParams.copy(); "
        "decoding.plot.tokens(['a'], [-1.0]).canvas.draw(); decoding.plot.temperature([1.0, 2.0]).canvas.draw(); "
        "assert matplotlib.rcParams.copy() == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert python(program).stderr == ""


def test_without_matplotlib_the_error_says_what_to_install():
    hidden = "import sys; sys.modules['matplotlib'] = None; "
    for use in ("import decoding; decoding.plot", "from decoding import plot"):
        assert (
            "decoding.plot needs the package matplotlib; pip install 'rnn-decoding[plot]'"
            in python(hidden + use).stderr
        )
    command = "from decoding.cli.main import main; sys.exit(main(['generate', 'shakespeare', 'A', '--plot', 'x.png']))"
    result = python(hidden + command)
    assert result.returncode == 1
    assert result.stderr.startswith("decoding: decoding.plot needs the package matplotlib")
