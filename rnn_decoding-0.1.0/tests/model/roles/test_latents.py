"""Latents: inputs that are drawn, found by their names or given by roles."""

import pytest

from decoding import ModelError, OptionError
from decoding.model.contract.io import Draw
from decoding.model.roles.latents import find_latents
from tests.helpers.text import graph


def draws(ports, given=None):
    names = [port.split()[-1] for port in ports.split(", ")]
    found = graph(f"(int64[batch,time] token, {ports}) => (float[2] out) {{ out = Identity({names[0]}) }}")
    return find_latents(found, given or {}, found.inputs[1:], "token", [])


@pytest.mark.parametrize("name", ["z", "noise", "latent", "eps", "z0", "enc_noise", "latents"])
def test_names_of_latents(name):
    assert draws(f"float[batch,8] {name}") == {name: Draw("normal", "sequence")}


@pytest.mark.parametrize("port", ["float[batch,8] size", "float[batch,8] buzz", "int64[batch,8] z", "float[batch,8] freeze"])  # fmt: skip
def test_other_inputs_are_not_drawn(port):
    assert draws(port) == {}


def test_a_latent_with_the_tokens_time_is_drawn_at_every_step():
    assert draws("float[batch,time,8] z") == {"z": Draw("normal", "step")}
    assert draws("float[batch,4,8] z") == {"z": Draw("normal", "sequence")}


def test_roles_say_how_it_is_drawn():
    assert draws("float[batch,8] q", {"latent": {"q": "uniform"}}) == {"q": Draw("uniform", "sequence")}
    every = {"latent": {"q": {"distribution": "uniform", "every": "step"}}}
    assert draws("float[batch,8] q", every) == {"q": Draw("uniform", "step")}
    assert draws("float[batch,8] z", {"context": ["z"]}) == {}


@pytest.mark.parametrize(
    ("ports", "latent", "message"),
    [
        ("float[batch,8] z", ["z"], r"roles\['latent'\]=\['z'\]: expected \{input: 'normal' or 'uniform'\}"),
        ("float[batch,8] z", {"z": "gamma"}, r"roles\['latent'\]\['z'\]='gamma': expected 'normal' or 'uniform'"),
        ("float[batch,8] z", {"z": {"mean": 0}}, r"roles\['latent'\]\['z'\]=\{'mean': 0\}: expected"),
        (
            "int64[batch,8] z",
            {"z": "normal"},
            r"z int64\[batch, 8\] cannot be drawn: a latent is a floating-point input",
        ),
        ("float[batch,time,8] z", {"z": {"every": "sequence"}}, r"the input has a value for each token"),
    ],
)
def test_roles_that_cannot_be_followed(ports, latent, message):
    with pytest.raises(OptionError, match=message):
        draws(ports, {"latent": latent})


def test_a_latent_whose_size_is_not_declared_is_refused():
    with pytest.raises(ModelError, match=r"the latent z float32\[batch, size\] cannot be drawn, since a size after its batch is not fixed"):  # fmt: skip
        draws("float[batch,size] z")
