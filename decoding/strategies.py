"""How the next token is chosen. A strategy is frozen and checked when it is made: an error names the field and its range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from decoding.errors import OptionError, check_flag, finite_number, shown, whole_number
from decoding.filters import FILTERS


@dataclass(frozen=True)
class Greedy:
    """The most probable token at every step; of equal logits the lowest id wins."""

    searches_together: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class Sample:
    """A random draw from the tempered, filtered softmax of the logits. The filters apply in the order of the fields.

    Args:
        temperature: divides the logits; above 0. Below 1 sharpens, above 1 flattens. One number, or an
            array with one for each prompt.
        top_k: keep exactly the k most probable tokens; 0 keeps all (Fan et al. 2018).
        top_p: keep the most probable tokens until their probabilities reach p, the one that crosses it included;
            in (0, 1] (Holtzman et al. 2020).
        min_p: keep tokens of at least min_p times the greatest probability; in [0, 1] (Nguyen et al. 2024).
        typical_p: keep the tokens whose information is nearest to the entropy until their probabilities reach
            typical_p; in (0, 1] (Meister et al. 2022).
        epsilon_cutoff: keep tokens of at least this probability; in [0, 1) (Hewitt et al. 2022).
        eta_cutoff: keep tokens of at least min(eta, sqrt(eta) * exp(-entropy)); in [0, 1) (Hewitt et al. 2022).
        replacement: False draws `num_return_sequences` distinct sequences: stochastic beam search with Gumbel-top-k
            (Kool et al. 2019).

    At least one token always survives. Raises OptionError where a value is out of its range.
    """

    temperature: float | npt.ArrayLike = 1.0
    top_k: int = FILTERS["top_k"].off
    top_p: float = FILTERS["top_p"].off
    min_p: float = FILTERS["min_p"].off
    typical_p: float = FILTERS["typical_p"].off
    epsilon_cutoff: float = FILTERS["epsilon_cutoff"].off
    eta_cutoff: float = FILTERS["eta_cutoff"].off
    replacement: bool = True

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)
        for name, one in FILTERS.items():
            if one.whole:
                _store(self, name, whole_number(f"Sample({name}", getattr(self, name), int(one.low), close=")"))
            else:
                _check_number(self, name, one.expected, one.allows)
        check_flag("Sample(replacement", self.replacement, close=")")

    @property
    def filters(self) -> dict[str, Any]:
        """The values of the filters by name, as the kernels take them."""
        return {name: getattr(self, name) for name in FILTERS}

    @property
    def searches_together(self) -> bool:
        """Whether one search finds all outputs of a prompt; else each output is drawn independently."""
        return not self.replacement


@dataclass(frozen=True)
class TopN:
    """A uniform choice among the `n` most probable tokens.

    Args:
        n: how many, at least 1.
    """

    searches_together: ClassVar[bool] = False

    n: int

    def __post_init__(self) -> None:
        _store(self, "n", whole_number("TopN(n", self.n, 1, close=")"))


@dataclass(frozen=True)
class MustContain:
    """Phrases that every output of `Beam` contains: lexically constrained beam search (Post and Vilar 2018).

    The beams are shared out over banks: hypotheses with equally many tokens of the phrases. An output ends only when it has
    all phrases. It has one where its tokens are those that the tokenizer makes of the phrase.

    Args:
        phrases: strings or id sequences.
        ordered: whether they come in this order, one after the end of the other; else in any order, and they may overlap.

    Example: ``Beam(10, must_contain=MustContain(["New York", "train"]))``.
    """

    phrases: Sequence[str | Sequence[int]]
    ordered: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.phrases, str | bytes) or not isinstance(self.phrases, Sequence) or not self.phrases:
            raise OptionError(f"MustContain(phrases={shown(self.phrases)}): expected a list of strings or id sequences")
        own: list[str | tuple[int, ...]] = []
        for phrase in self.phrases:
            if isinstance(phrase, str):
                own.append(phrase)
            elif isinstance(phrase, bytes) or not isinstance(phrase, Sequence | np.ndarray):
                raise OptionError(f"MustContain(phrases={shown(phrase)}): expected a string or a sequence of ids")
            else:
                own.append(tuple(whole_number("MustContain(phrases", i, 0, below=2**31, close=")") for i in phrase))
        if not all(own):
            raise OptionError("MustContain(phrases): an empty phrase is in every output; leave it out")
        object.__setattr__(self, "phrases", tuple(own))
        check_flag("MustContain(ordered", self.ordered, close=")")

    @classmethod
    def of_json(cls, value: Any) -> MustContain:
        """Return what JSON says: a list of phrases, or an object with the fields of `MustContain`.

        Raises:
            OptionError: a field is unknown or wrong, or the phrases are missing.
        """
        given = value if isinstance(value, dict) else {"phrases": value}
        if "phrases" not in given or given.keys() - {"phrases", "ordered"}:
            raise OptionError(
                f"must_contain={shown(value)}: expected a list of phrases, or an object with phrases and ordered"
            )
        return cls(**given)


@dataclass(frozen=True)
class Beam:
    """Beam search, as Hugging Face's `generate` does it.

    A hypothesis of `length` new tokens (EOS counted) scores logprob / length ** length_penalty. Each step looks at
    2 * num_beams candidates; EOS closes a hypothesis only among the first num_beams of them.

    Args:
        num_beams: hypotheses kept for each prompt.
        length_penalty: above 0 favours long outputs, below 0 short ones; from -1000 to 1000.
        early_stopping: True stops as soon as num_beams hypotheses are closed; False when the best open one, scored at its
            present length, is no better than the worst closed one; "never" when no open one can become better.
        num_beam_groups: groups that search apart, each penalised for the tokens that earlier groups chose at the same
            step (diverse beam search, Vijayakumar et al. 2016); divides num_beams.
        diversity_penalty: that penalty, for each earlier choice of the token; needs num_beam_groups above 1.
        coverage_penalty: adds coverage_penalty * sum over the source of log(min(attention so far, 1)) to the score of a
            closed hypothesis (Wu et al. 2016, "GNMT", equation 14); positions that are never attended to, such as
            padding, do not count. Needs a model with an attention output.
        must_contain: phrases that every output contains; needs one group of beams, and several beams for each token of them
            finds better outputs.
    """

    searches_together: ClassVar[bool] = True

    num_beams: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    coverage_penalty: float = 0.0
    must_contain: MustContain | None = None

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_beam_groups"):
            _store(self, name, whole_number(f"Beam({name}", getattr(self, name), 1, below=2**31, close=")"))
        _check_number(self, "length_penalty", "a finite number from -1000 to 1000", lambda x: -1000 <= x <= 1000)
        _check_number(self, "diversity_penalty", "a finite number of at least 0", lambda x: 0 <= x < math.inf)
        _check_number(self, "coverage_penalty", "a finite number of at least 0", lambda x: 0 <= x < math.inf)
        if not isinstance(self.early_stopping, bool | str) or self.early_stopping not in (True, False, "never"):
            raise OptionError(f"Beam(early_stopping={shown(self.early_stopping)}): expected True, False or 'never'")
        if self.num_beams % self.num_beam_groups:
            raise OptionError(
                f"Beam(num_beam_groups={self.num_beam_groups}): expected a divisor of num_beams={self.num_beams}"
            )
        if not isinstance(self.must_contain, MustContain | None):
            raise OptionError(f"Beam(must_contain={shown(self.must_contain)}): expected MustContain([...])")
        if self.must_contain is not None and self.num_beam_groups > 1:
            raise OptionError(f"Beam(num_beam_groups={self.num_beam_groups}): expected 1 with must_contain")
        if self.diversity_penalty and self.num_beam_groups == 1:
            raise OptionError(
                f"Beam(diversity_penalty={self.diversity_penalty}): one group has no other to differ from; "
                "pass num_beam_groups above 1 too"
            )


Strategy = Greedy | Sample | TopN | Beam


def _check_temperature(temperature: Any) -> None:
    try:
        values = np.asarray(temperature, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise OptionError(
            f"Sample(temperature={shown(temperature)}): expected a number above 0, or an array of them"
        ) from error
    if values.ndim > 1 or values.size == 0:
        raise OptionError(
            f"Sample(temperature=array of shape {list(values.shape)}): expected one number, or one for each prompt"
        )
    for value in values.flat:
        if value == 0:
            raise OptionError(
                "Sample(temperature=0): a temperature is above 0; for the most probable token at every step use Greedy()"
            )
        if not (value > 0 and np.isfinite(value) and 0 < value <= float(np.finfo(np.float32).max)):
            raise OptionError(f"Sample(temperature={value}): expected a finite number above 0")
        if np.float32(value) == 0:
            raise OptionError(f"Sample(temperature={value}): expected a number that float32 can hold; use Greedy()")


def _store(strategy: Any, name: str, value: int) -> None:
    """Keep a whole number as an int: what was given may be anything with `__index__`, which native code does not take."""
    object.__setattr__(strategy, name, value)


def _check_number(strategy: Any, name: str, expected: str, allowed: Any) -> None:
    value = getattr(strategy, name)
    number = finite_number(value)
    if number is None or not allowed(number):
        raise OptionError(f"{type(strategy).__name__}({name}={shown(value)}): expected {expected}")
