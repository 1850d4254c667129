# Random numbers, the best tokens, beam search and the moving of state.

_PURPOSES = {"draw": DEC_DRAW, "multinomial": DEC_MULTINOMIAL, "gumbel": DEC_GUMBEL, "latent": DEC_LATENT,
             "teacher": DEC_TEACHER}


def philox(key, counter, n):
    """Raw words of the Philox4x64-10 generator (Salmon et al. 2011).

    Args:
        key: two integers, 0 <= k < 2 ** 64.
        counter: four integers, lowest first.
        n: how many words.

    Returns:
        uint64 [n], equal to numpy.random.Philox(key=key, counter=counter).random_raw(n).
    """
    cdef cnp.ndarray k = _words(key, "key", 2), c = _words(counter, "counter", 4)
    cdef cnp.ndarray out = _empty(_count(n, "n", 0), -1, cnp.NPY_UINT64)
    c_philox(<const uint64_t *>cnp.PyArray_DATA(k), <const uint64_t *>cnp.PyArray_DATA(c), len(out),
             <uint64_t *>cnp.PyArray_DATA(out))
    return out


cdef cnp.ndarray _words(object values, str name, int count):
    try:
        words = np.array([int(value) for value in values], dtype=np.uint64)
    except (OverflowError, TypeError, ValueError):
        words = None
    if words is None or len(words) != count:
        raise OptionError(f"{name} is {values!r}: expected {count} integers, 0 <= k < 2 ** 64")
    return words


cdef cnp.ndarray _random(bint gaussian, object seed, object rows, object step, object n, str purpose):
    cdef dec_stream stream
    cdef cnp.ndarray out
    cdef list keep = []
    cdef dec_purpose which
    if purpose not in _PURPOSES:
        raise OptionError(f"purpose is {purpose!r}: expected one of {', '.join(_PURPOSES)}")
    which = _PURPOSES[purpose]
    ids = np.atleast_1d(rows)
    _stream(&stream, seed, ids, step, len(ids), keep)
    out = _empty(len(ids), _count(n, "n", 0), cnp.NPY_FLOAT64)
    if gaussian:
        c_normal(&stream, which, out.shape[0], out.shape[1], <double *>cnp.PyArray_DATA(out))
    else:
        c_uniform(&stream, which, out.shape[0], out.shape[1], <double *>cnp.PyArray_DATA(out))
    return out


def uniform(seed, rows, step, n, purpose="draw"):
    """Uniform numbers in [0, 1), the same for a (seed, row, step, purpose) wherever they are asked for.

    Args:
        seed: 0 <= seed < 2 ** 64.
        rows: integers >= 0 that name the streams.
        step: >= 0; one, or one per row.
        n: numbers a row.
        purpose: "draw", "multinomial", "gumbel", "latent" or "teacher"; each has numbers of its own.

    Returns:
        float64 [rows, n]. With counter = [0, step, purpose's place in that list, 0] a row equals
        numpy.random.Generator(numpy.random.Philox(key=[seed, row], counter=counter)).random(n).
    """
    return _random(False, seed, rows, step, n, purpose)


def normal(seed, rows, step, n, purpose="latent"):
    """Standard normal numbers, float64 [rows, n], by Box and Muller's method from those of uniform()."""
    return _random(True, seed, rows, step, n, purpose)


def top_n(logits, n, *, seed, rows=None, step=0):
    """Draws uniformly one of the n most probable tokens of each row.

    Args:
        logits: real numbers [B, V]; -inf forbids.
        n: >= 1; ties go to the lowest id; forbidden tokens never count.
        seed, rows, step: as in draw().

    Returns:
        tokens int64 [B]; logprobs float32 [B], of the tokens under the logits.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    cdef dec_rows r
    cdef dec_stream stream
    cdef cnp.ndarray a, tokens, logprobs
    cdef dec_status status
    cdef int64_t bad = 0, most = _count(n, "n", 1)
    cdef list keep = []
    a = _rows(logits, "logits", &r)
    _stream(&stream, seed, rows, step, r.rows, keep)
    tokens = _empty(r.rows, -1, cnp.NPY_INT64)
    logprobs = _empty(r.rows, -1, cnp.NPY_FLOAT32)
    scratch = _lend(scratch_size(r.width))
    with nogil:
        status = c_top_n(&r, &stream, most, <int64_t *>cnp.PyArray_DATA(tokens),
                         <float *>cnp.PyArray_DATA(logprobs), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        _raise(status, bad, "logits")
    return tokens, logprobs


def gumbel_top_k(logits, k, *, temperature=1.0, top_k=0, double top_p=1.0, double min_p=0.0, double typical_p=1.0,
                 double epsilon_cutoff=0.0, double eta_cutoff=0.0, seed, rows=None, step=0, scores=None, maxima=None):
    """Draws k distinct tokens a row by Gumbel-top-k (Kool et al. 2019), for stochastic beam search.

    Every log-probability gets Gumbel noise and the k greatest win; for temperature and filters see draw().

    Args:
        logits: real numbers [B, V]; -inf forbids.
        k: >= 1.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: as in draw().
        seed, rows, step: as in draw().
        scores: [B], log-probability of what came before each row (0 by default); it is added.
        maxima: [B], a perturbed value that the greatest of each row is made to equal: its parent's. None or an
            infinite entry leaves it free.

    Returns:
        tokens int64 [B, k]; perturbed float64 [B, k], descending; scores float64 [B, k], each row's score plus the
        token's tempered, filtered log-probability; logprobs float32 [B, k], under the logits as given. Where fewer
        than k tokens are possible: -1, and -inf.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    cdef dec_rows r
    cdef dec_stream stream
    cdef dec_filter f
    cdef cnp.ndarray a, temperatures, before, ceilings, tokens, perturbed, out_scores, logprobs
    cdef dec_status status
    cdef int64_t bad = 0, count = _count(k, "k", 1)
    cdef list keep = []
    a = _rows(logits, "logits", &r)
    _stream(&stream, seed, rows, step, r.rows, keep)
    _filter(&f, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff)
    temperatures = _temperatures(temperature, r.rows)
    before = _doubles(0.0 if scores is None else scores, "scores", r.rows)
    ceilings = _doubles(math.inf if maxima is None else maxima, "maxima", r.rows)
    tokens = _empty(r.rows, count, cnp.NPY_INT64)
    perturbed = _empty(r.rows, count, cnp.NPY_FLOAT64)
    out_scores = _empty(r.rows, count, cnp.NPY_FLOAT64)
    logprobs = _empty(r.rows, count, cnp.NPY_FLOAT32)
    scratch = _lend(scratch_size(r.width))
    with nogil:
        status = c_gumbel_top_k(
            &r, &stream, <const float *>cnp.PyArray_DATA(temperatures), &f, count,
            <const double *>cnp.PyArray_DATA(before), <const double *>cnp.PyArray_DATA(ceilings),
            <int64_t *>cnp.PyArray_DATA(tokens), <double *>cnp.PyArray_DATA(perturbed),
            <double *>cnp.PyArray_DATA(out_scores), <float *>cnp.PyArray_DATA(logprobs), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        _raise(status, bad, "logits")
    return tokens, perturbed, out_scores, logprobs


cdef cnp.ndarray _doubles(object values, str name, int64_t count):
    array = np.asarray(values, np.float64)
    if array.shape not in ((), (count,)) or np.isnan(array).any():
        raise OptionError(f"{name} has shape {array.shape} or a NaN: expected one number for each of {count} rows")
    return np.ascontiguousarray(np.broadcast_to(array, (count,)))


cdef _best(object values, str name, object k, bint logprobs):
    cdef dec_rows r
    cdef cnp.ndarray a, best, ids
    cdef dec_status status
    cdef int64_t bad = 0, count = _count(k, "k", 1)
    a = _rows(values, name, &r)
    if count > r.width:
        raise OptionError(f"k is {count}: expected 1 <= k <= {r.width}, the number of columns")
    best = _empty(r.rows, count, cnp.NPY_FLOAT32)
    ids = _empty(r.rows, count, cnp.NPY_INT64)
    scratch = _lend(scratch_size(r.width))
    with nogil:
        if logprobs:
            status = c_top_logprobs(&r, count, <float *>cnp.PyArray_DATA(best), <int64_t *>cnp.PyArray_DATA(ids),
                                    scratch, &bad)
        else:
            status = c_top_k(&r, count, <float *>cnp.PyArray_DATA(best), <int64_t *>cnp.PyArray_DATA(ids), scratch,
                             &bad)
        free(scratch)
    if status != DEC_OK:
        _raise(status, bad, name)
    return best, ids


def top_k(logits, k):
    """The k greatest values of each row, sorted; ties to the lowest index.

    Args:
        logits: real numbers [B, V].
        k: 1 <= k <= V.

    Returns:
        values float32 [B, k], greatest first; indices int64 [B, k].

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    return _best(logits, "logits", k, False)


def top_logprobs(logits, k):
    """The k greatest log-probabilities of each row; arguments, results and errors are those of top_k()."""
    return _best(logits, "logits", k, True)


def token_logprobs(logits, tokens):
    """Log-probabilities of one given token a row.

    Args:
        logits: real numbers [B, V].
        tokens: integers [B], 0 <= token < V.

    Returns:
        float32 [B].

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row with NaN, +inf, or nothing but -inf.
    """
    cdef dec_rows r
    cdef cnp.ndarray a, ids, out
    cdef dec_status status
    cdef int64_t bad = 0
    a = _rows(logits, "logits", &r)
    ids = _integers(tokens, "tokens", np.int64, r.rows)
    out = _empty(r.rows, -1, cnp.NPY_FLOAT32)
    scratch = _lend(scratch_size(r.width))
    with nogil:
        status = c_token_logprobs(&r, <const int64_t *>cnp.PyArray_DATA(ids), <float *>cnp.PyArray_DATA(out), scratch,
                                  &bad)
        free(scratch)
    if status == DEC_OUT_OF_RANGE:
        raise OptionError(f"tokens has {ids[bad]} at row {bad}: expected 0 <= token < {r.width}")
    if status != DEC_OK:
        _raise(status, bad, "logits")
    return out


def beam_prune(logits, scores, num_beams, *, groups=1, double diversity_penalty=0.0, eos_token_id=(),
               bint normalize=True):
    """One step of beam search: the 2 * num_beams best continuations of every prompt.

    Log-softmax, running scores and selection are one pass; the [K, V] log-probabilities are never written.

    Args:
        logits: real numbers [P, K, V], of P prompts with K live beams each.
        scores: [P, K], the beams' log-probabilities so far; -inf marks a dead beam, whose logits are not read.
        num_beams: >= 1; the candidates are twice as many, so that those which end leave enough to go on with.
        groups: diverse beam search (Vijayakumar et al. 2016): beams are split in order into this many groups, which
            choose one after the other; it divides K and num_beams.
        diversity_penalty: >= 0; subtracted from a token for each time that an earlier group chose it in this step
            (its first num_beams / groups candidates that do not end).
        eos_token_id: ids of the tokens that end a sequence; only the diversity penalty looks at them.
        normalize: False takes `logits` as log-probabilities that were edited and are not to be normalised again.

    Returns:
        scores float32, parents int64 (0 .. K-1), tokens int64, each [P, 2 * num_beams]: best first (within each
        group; groups in order); ties to the lowest parent, then token. Where there are fewer: -inf, -1, -1.

    Raises:
        OptionError: a wrong argument.
        DecodeError: a row of a live beam with NaN, +inf, or nothing but -inf; rows count from 0 to P * K - 1.
    """
    cdef dec_rows r
    cdef dec_beam beam
    cdef cnp.ndarray a, flat, before, eos, best, parents, tokens
    cdef dec_status status
    cdef int64_t bad = 0
    a = logits if cnp.PyArray_Check(logits) and _plain(logits) else _as_float32(logits, "logits")
    if cnp.PyArray_NDIM(a) != 3:
        raise OptionError(f"logits has shape {_shape(a)}: expected [P, K, V], prompts, beams, vocabulary")
    beam.prompts = cnp.PyArray_DIM(a, 0)
    beam.beams = cnp.PyArray_DIM(a, 1)
    before = np.ascontiguousarray(_as_float32(scores, "scores"))
    if _shape(before) != (beam.prompts, beam.beams):
        raise OptionError(f"scores has shape {_shape(before)}: expected {(beam.prompts, beam.beams)}, one per beam")
    beam.num_beams = _count(num_beams, "num_beams", 1)
    beam.groups = _count(groups, "groups", 1)
    if beam.num_beams % beam.groups or beam.beams % beam.groups:
        raise OptionError(
            f"groups is {beam.groups}: expected a divisor of num_beams ({beam.num_beams}) and of the beams in logits "
            f"({beam.beams})"
        )
    beam.diversity_penalty = diversity_penalty
    if not 0.0 <= diversity_penalty < math.inf:
        raise OptionError(f"diversity_penalty is {diversity_penalty}: expected a finite number >= 0")
    eos = _ids(eos_token_id, "eos_token_id")
    beam.eos = <const int64_t *>cnp.PyArray_DATA(eos)
    beam.eos_count = len(eos)
    beam.logits_are_logprobs = not normalize
    flat = _rows(a.reshape((beam.prompts * beam.beams, cnp.PyArray_DIM(a, 2))), "logits", &r)
    best = _empty(beam.prompts, 2 * beam.num_beams, cnp.NPY_FLOAT32)
    parents = _empty(beam.prompts, 2 * beam.num_beams, cnp.NPY_INT64)
    tokens = _empty(beam.prompts, 2 * beam.num_beams, cnp.NPY_INT64)
    scratch = _lend(beam_scratch_size(beam.beams, beam.num_beams, r.width))
    with nogil:
        status = c_beam_prune(&r, &beam, <const float *>cnp.PyArray_DATA(before), <float *>cnp.PyArray_DATA(best),
                              <int64_t *>cnp.PyArray_DATA(parents), <int64_t *>cnp.PyArray_DATA(tokens), scratch, &bad)
        free(scratch)
    if status != DEC_OK:
        _raise(status, bad, "logits and scores")
    return best, parents, tokens


def gather_rows(array, index, axis=0, out=None):
    """array.take(index, axis): the rows of any batch axis in a new order, any dtype.

    Args:
        array: an array of at least one axis.
        index: integers [N], 0 <= i < array.shape[axis].
        axis: which axis holds the rows.
        out: C-contiguous array of the result's shape and dtype that does not overlap `array`.

    Returns:
        The result, or `out`.

    Raises:
        OptionError: a wrong argument.
    """
    cdef cnp.ndarray a = np.ascontiguousarray(array), result
    cdef cnp.ndarray ids = _ids(index, "index")
    cdef int64_t outer = 1, bad = 0, where
    cdef size_t row_bytes = cnp.PyArray_ITEMSIZE(a)
    cdef dec_status status
    shape = np.shape(array)
    if not shape or not -len(shape) <= axis < len(shape):
        raise OptionError(f"axis is {axis}: expected an axis of an array of shape {shape}")
    if a.dtype.hasobject:
        raise OptionError(f"array has dtype {a.dtype}: expected one without Python objects")
    where = axis + len(shape) if axis < 0 else axis
    for i, length in enumerate(shape):
        if i < where:
            outer *= length
        elif i > where:
            row_bytes *= length
    wanted = shape[:where] + (len(ids),) + shape[where + 1:]
    if out is None:
        result = np.empty(wanted, a.dtype)
    elif not (isinstance(out, np.ndarray) and out.shape == wanted and out.dtype == a.dtype
              and out.flags.c_contiguous and out.flags.writeable):
        raise OptionError(f"out does not fit: expected a writeable C-contiguous array of {a.dtype} of shape {wanted}")
    elif np.may_share_memory(out, array):
        raise OptionError("out overlaps array: expected another array")
    else:
        result = out
    with nogil:
        status = c_gather_rows(cnp.PyArray_DATA(a), cnp.PyArray_DATA(result), <const int64_t *>cnp.PyArray_DATA(ids),
                               outer, cnp.PyArray_DIM(a, where), cnp.PyArray_DIM(ids, 0), row_bytes, &bad)
    if status != DEC_OK:
        raise OptionError(f"index has {ids[bad]} at {bad}: expected 0 <= i < {shape[where]}")
    return result
