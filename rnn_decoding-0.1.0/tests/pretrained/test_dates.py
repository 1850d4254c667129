"""The shipped model `dates`: what it reads, and that its files are the network that was trained."""

import datetime
import itertools
from pathlib import Path

import numpy as np
import pytest

from decoding import Beam, Greedy, OptionError, Sample, decode, load
from decoding.cli.main import main
from examples import dates_data


@pytest.fixture(scope="module")
def dates():
    return load("dates")


def held_out(seed, count, **options):
    return zip(*itertools.islice(dates_data.pairs(seed, held_out=True, **options), count), strict=True)


@pytest.mark.parametrize("strategy", [Beam(4), Greedy()], ids=str)
def test_at_least_99_of_100_held_out_dates_are_read(dates, strategy):
    written, meant = held_out(11, 500)
    found = decode(dates, written, strategy)
    assert sum(a == b for a, b in zip(found.text, meant, strict=True)) >= 495
    assert {h.finish_reason for h in found} == {"eos"}


@pytest.mark.parametrize("language", ["numbers", *dates_data.LANGUAGES])
def test_every_language_is_read(dates, language):
    written, meant = held_out(12, 60, language=language)
    found = decode(dates, written, Beam(4))
    assert sum(a == b for a, b in zip(found.text, meant, strict=True)) >= 58


@pytest.mark.parametrize(
    "written",
    ["3 mai 2026", "May 3rd, 2026", "03.05.2026", "Sunday 3 May 2026", "2026/5/3", "3/5/2026", "3-5-26", "26-05-03",
     "SONNTAG, DEN 3. MAI 2026", "le 3 mai 2026", "3 de mayo de 2026", "domenica 3 maggio 2026", "3 de maio de 2026",
     "zondag 3 mei 2026", "3mei2026", "20260503", "the 3rd of May, '26"],
)  # fmt: skip
def test_one_day_in_many_forms(dates, written):
    assert decode(dates, [written], Beam(4)).text == ["2026-05-03"]


def test_the_command_line_prints_the_date(capsys):
    assert main(["generate", "dates", "3 mai 2026", "--num-beams", "4"]) == 0
    assert capsys.readouterr().out.split()[-1] == "2026-05-03"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_sources_of_unequal_length_give_what_each_gives_alone(dates, batch_size):
    written, _ = held_out(13, 24)
    assert len({len(w) for w in written}) > 8
    options = {"seed": 3, "return_attention": True}
    alone = [decode(dates, [w], Greedy(), return_attention=True)[0] for w in written]
    together = decode(dates, written, Greedy(), batch_size=batch_size, **options)
    for one, other, source in zip(alone, together, written, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.token_logprobs, other.token_logprobs, atol=1e-4)
        assert other.attention.shape == (len(other.tokens), len(source))
        np.testing.assert_allclose(one.attention, other.attention, atol=1e-4)
        np.testing.assert_allclose(other.attention.sum(1), 1, atol=1e-4)
    assert decode(dates, written, Sample(), batch_size=batch_size, **options).tokens == decode(dates, written, Sample(), **options).tokens  # fmt: skip


def test_the_attention_of_a_digit_lies_where_it_stands(dates):
    h = decode(dates, ["Sunday, 17 March 2043"], Greedy(), return_attention=True)[0]
    assert h.text == "2043-03-17"
    looked = h.attention[[0, 1, 2, 3, 5, 6, 8, 9]].argmax(1)
    assert all(17 <= i <= 20 for i in looked[:4])  # 2043
    assert all(10 <= i <= 16 for i in looked[4:6])  # March and its edges
    assert all(7 <= i <= 10 for i in looked[6:])  # 17


def test_a_character_that_it_does_not_know(dates):
    with pytest.raises(OptionError, match=r"has '☺' at position 2, which is not in"):
        decode(dates, ["3 ☺ 2026"])


# -- the data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "separator", "meant"),
    [
        (("2026", "5", "3"), "/", "2026-05-03"),
        (("3", "5", "2026"), "/", "2026-05-03"),
        (("3", "5", "2026"), "-", "2026-05-03"),
        (("5", "13", "2026"), "/", "2026-05-13"),
        (("03", "05", "26"), ".", "2026-05-03"),
        (("26", "05", "03"), "-", "2026-05-03"),
        (("26", "5", "3"), "-", "2026-05-03"),
        (("31", "12", "99"), "-", "1999-12-31"),
        (("31", "12", "68"), "/", "2068-12-31"),
        (("31", "12", "69"), "/", "1969-12-31"),
    ],
)
def test_the_rule_for_numbers(numbers, separator, meant):
    assert dates_data.read_numbers(*numbers, separator).isoformat() == meant


def test_numbers_that_are_no_date():
    with pytest.raises(ValueError, match="no date"):
        dates_data.read_numbers("32", "13", "2026", "/")


def test_no_held_out_date_is_trained_on():
    days = {
        kind: {iso for _, iso in itertools.islice(dates_data.pairs(1, held_out=kind), 5000)} for kind in (True, False)
    }
    assert not days[True] & days[False]
    assert all(datetime.date.fromisoformat(iso).toordinal() % 20 == 0 for iso in days[True])


# -- the network ---------------------------------------------------------------------------------------------


@pytest.fixture
def script(monkeypatch):
    pytest.importorskip("torch", reason="torch is not installed (pip install '.[examples]')")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (pip install '.[examples]')")
    monkeypatch.syspath_prepend(Path(dates_data.__file__).parent)
    import train_dates

    return train_dates


def test_torch_and_the_exported_pair_agree(script, tmp_path):
    torch = script.torch
    torch.manual_seed(4)
    encoder, decoder = script.Encoder().eval(), script.Decoder().eval()
    with torch.no_grad():
        for parameter in itertools.chain(encoder.parameters(), decoder.parameters()):
            parameter.mul_(3)  # so that outputs differ from source to source
    script.export_pair(encoder, decoder, tmp_path / "random.onnx")
    model = load(tmp_path / "random.onnx")
    written, _ = held_out(14, 9)
    found = decode(model, written, Greedy(), max_new_tokens=15, eos_token_id=None, return_attention=True)
    assert len({tuple(h.tokens) for h in found}) > 3
    for source, h in zip(written, found, strict=True):
        ids = torch.tensor([[script.SOURCE.index(c) for c in source]])
        with torch.no_grad():
            annotations, keys, state = encoder(ids, torch.tensor([ids.shape[1]]))
            mask, token = torch.ones_like(ids, dtype=torch.bool), torch.tensor([script.BOS])
            for step in range(15):
                logits, state, attention = decoder(token, state, annotations, keys, mask)
                token = logits.argmax(1)
                assert h.tokens[step] == int(token)
                assert h.token_logprobs[step] == pytest.approx(float(logits.log_softmax(1).max()), abs=1e-4)
                np.testing.assert_allclose(h.attention[step], attention[0].numpy(), atol=1e-4)


def test_the_shipped_files_say_what_the_script_writes(script):
    model = load("dates")
    assert model.tokenizer.tokens == script.TARGET
    assert (model.bos_token_id, model.eos_token_id) == (script.BOS, (script.EOS,))
