"""A network with packed weights, and its runs."""

cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from decoding.kernels._library cimport (
    DEC_AFFINE, DEC_DENSE, DEC_FLOAT32, DEC_GRU, DEC_HARD_SIGMOID, DEC_INT8, DEC_LEAKY_RELU, DEC_LSTM, DEC_OK, DEC_RELU, DEC_RNN,
    DEC_SCALED_TANH, DEC_SIGMOID, DEC_SOFTSIGN, DEC_TANH, c_linear_draw, c_linear_greedy, c_linear_pack, c_linear_product,
    c_network_read, choose_scratch_size, dec_activation, dec_feed, dec_layer, dec_linear, dec_number, dec_state, dec_status,
    dec_stream, linear_scratch_size, linear_size, network_scratch_size,
)
from decoding.kernels.native.run cimport NativeRun, Scratch

import numpy as np

from decoding.errors import ModelError

cnp.import_array()

_CELLS = {"LSTM": DEC_LSTM, "GRU": DEC_GRU, "RNN": DEC_RNN, "DENSE": DEC_DENSE}
_ACTIVATIONS = {
    "sigmoid": DEC_SIGMOID, "tanh": DEC_TANH, "relu": DEC_RELU, "affine": DEC_AFFINE, "hard_sigmoid": DEC_HARD_SIGMOID,
    "leaky_relu": DEC_LEAKY_RELU, "scaled_tanh": DEC_SCALED_TANH, "softsign": DEC_SOFTSIGN,
}
# The finest int8 weights: the kernels' sums are exact with them.
cdef enum:
    LARGEST = 127
    # Floats of the gates of one part of a chunk (8 MiB): a longer chunk is read in parts, which gives the same bits.
    PART = 1 << 21
    # Longest rows of logits for which scanning them block by block while they are computed is not slower than computing,
    # then scanning them all: 1 to 3 % faster up to 8192, but 3 to 13 % slower above, where one block is computed again.
    FUSED = 8192


cdef class NativeNetwork:
    """Packed weights, only read after they are made: any number of threads may run them.

    Args:
        arrays: a NativeArrays; its arrays need not outlive the call.
        int8: pack the weights as int8.
        table: take the product of embedding and first layer's input weights from one table.
        name: of the model, for messages.
    """

    def __cinit__(self, arrays, *, bint int8=False, bint table=True, str name="network"):
        cdef int64_t count = len(arrays.layers)
        self.keep, self.pool, self.name = [], [], name
        self.layers = <dec_layer *>calloc(count, sizeof(dec_layer))
        self.linears = <dec_linear *>calloc(4 * count + 1 + len(arrays.contexts), sizeof(dec_linear))
        if self.layers == NULL or self.linears == NULL:
            raise MemoryError(f"{count} layers")
        self.network.layers, self.network.layer_count = self.layers, count
        self.network.vocabulary = arrays.vocabulary
        self.gates = len(arrays.layers[0].input)
        self._enter(arrays, table or arrays.embedding is None)
        for i, layer in enumerate(arrays.layers):
            self._layer(&self.layers[i], layer, int8, i > 0 or self.network.table == NULL)
        self.output = self._pack(arrays.output, arrays.output_bias, int8)
        self.width = arrays.layers[count - 1].width
        self.contexts, self.context_count = &self.linears[self.packed], len(arrays.contexts)
        for weights in arrays.contexts:
            self._pack(weights, None, int8)

    def __dealloc__(self):
        free(self.layers)
        free(self.linears)

    cdef int _enter(self, arrays, bint table) except -1:
        """The embedding, the table, or both where a residual connection reads the embedding too."""
        cdef cnp.ndarray embedding, values
        cdef dec_linear *product
        cdef Scratch scratch = Scratch()
        first = arrays.layers[0]
        if arrays.embedding is not None:
            embedding = np.ascontiguousarray(arrays.embedding, np.float32)
            self.network.embedding_width = embedding.shape[1]
        if not table or first.residual:
            self.keep.append(embedding)
            self.network.embedding = <const float *>cnp.PyArray_DATA(embedding)
        if table and arrays.embedding is None:
            values = np.ascontiguousarray(np.asarray(first.input, np.float32).T + np.asarray(first.bias, np.float32))
        elif table:
            values = np.empty((arrays.vocabulary, self.gates), np.float32)
            product = self._pack(first.input, first.bias, False)
            scratch.reserve(linear_scratch_size(product, arrays.vocabulary))
            c_linear_product(product, <const float *>cnp.PyArray_DATA(embedding), self.network.embedding_width,
                             arrays.vocabulary, <float *>cnp.PyArray_DATA(values), self.gates, 0, scratch.memory)
            self.keep.pop()  # the packed weights have done their work
            self.packed -= 1
        if table:
            self.keep.append(values)
            self.network.table = <const float *>cnp.PyArray_DATA(values)
        return 0

    cdef int _layer(self, dec_layer *to, layer, bint int8, bint reads) except -1:
        cdef cnp.ndarray peepholes
        to.cell, to.hidden = _CELLS[layer.cell], layer.hidden
        to.input = self._pack(layer.input, layer.bias, int8) if reads else NULL
        if layer.state is not None:
            to.state = self._pack(layer.state, None, int8)
        if layer.candidate is not None:
            to.candidate = self._pack(layer.candidate, layer.candidate_bias, int8)
        if layer.projection is not None:
            to.projection = self._pack(layer.projection, layer.projection_bias, int8)
        if layer.peepholes is not None:
            peepholes = np.ascontiguousarray(layer.peepholes, np.float32)
            self.keep.append(peepholes)
            to.peepholes = <const float *>cnp.PyArray_DATA(peepholes)
        to.clip, to.coupled, to.residual = layer.clip, layer.coupled, layer.residual
        to.linear_before_reset = layer.linear_before_reset
        for i, activation in enumerate(layer.activations):
            to.activation[i] = _ACTIVATIONS[activation.name]
            to.alpha[i], to.beta[i] = activation.alpha, activation.beta
        return 0

    cdef dec_linear *_pack(self, weights, bias, bint int8) except NULL:
        cdef cnp.ndarray w = np.require(weights, np.float32, ["ALIGNED"]), b, memory
        cdef dec_linear *linear = &self.linears[self.packed]
        cdef dec_number number = DEC_INT8 if int8 else DEC_FLOAT32
        cdef const float *added = NULL
        cdef size_t address
        if bias is not None:
            b = np.ascontiguousarray(bias, np.float32)
            added = <const float *>cnp.PyArray_DATA(b)
        memory = np.empty(linear_size(w.shape[1], w.shape[0], number) + 64, np.uint8)
        address = <size_t>cnp.PyArray_DATA(memory)
        c_linear_pack(linear, w.shape[1], w.shape[0], number, <const float *>cnp.PyArray_DATA(w), w.strides[0] // 4,
                      w.strides[1] // 4, added, LARGEST, <void *>((address + 63) // 64 * 64))
        self.keep.append(memory)
        self.packed += 1
        return linear

    @property
    def nbytes(self):
        """Bytes of packed weights and tables."""
        return sum(array.nbytes for array in self.keep)

    def bind(self, tokens, states, logits, contexts=()):
        """Prepare runs over arrays that stay where they are.

        Args:
            tokens: int64 [rows, time].
            states: for each layer (h, c) as float32 [rows, width], each row contiguous; c is None but for LSTM, both are for DENSE.
            logits: float32 [time, rows, outputs], or None where they are not wanted.
            contexts: float32 [rows, n] for each context.
        """
        return NetworkRun(self, tokens, states, logits, contexts)


cdef class NetworkRun(NativeRun):
    """Runs of one network over arrays that it keeps alive."""

    def __cinit__(self, NativeNetwork network, tokens, states, logits, contexts):
        cdef int64_t i, count = network.network.layer_count, longest = 0, wide = 0
        cdef size_t most
        self.network, self.pool = network, network.pool
        self.keep = (tokens, states, logits, contexts)
        self.rows, self.time = tokens.shape
        self.states = <dec_state *>calloc(count, sizeof(dec_state))
        self.contexts = <const float **>calloc(len(contexts) + 1, sizeof(void *))
        if self.states == NULL or self.contexts == NULL:
            raise MemoryError("a run")
        self._check(tokens, np.int64, (self.rows, self.time), True)
        self.tokens = <int64_t *>cnp.PyArray_DATA(tokens)
        if logits is not None:
            self._check(logits, np.float32, (self.time, self.rows, network.output.outputs), True)
            self.logits = <float *>cnp.PyArray_DATA(logits)
        if len(states) != count or len(contexts) != network.context_count:
            raise ValueError(f"{len(states)} states, {len(contexts)} contexts: expected {count}, {network.context_count}")
        for i in range(count):
            if network.layers[i].cell != DEC_DENSE:
                self._state(&self.states[i], states[i], &network.layers[i])
        for i in range(network.context_count):
            self._check(contexts[i], np.float32, (self.rows, network.contexts[i].inputs), True)
            self.contexts[i] = <const float *>cnp.PyArray_DATA(contexts[i])
            wide += network.contexts[i].inputs
        if network.context_count:
            self.context = <float *>malloc(self.rows * network.gates * sizeof(float) + 1)
            self.taken = <float *>malloc(self.rows * wide * sizeof(float) + 1)
            if self.context == NULL or self.taken == NULL:
                raise MemoryError("the contexts of a run")
        for i in range(count):
            longest = max(longest, network.layers[i].hidden * 4)
        most = self.rows * longest * sizeof(float)  # as much as a layer's states and more
        self.part = max(1, min(self.time, PART // max(1, self.rows * longest)))
        most = max(most, network_scratch_size(&network.network, self.rows, self.part),
                   linear_scratch_size(network.output, self.rows * self.part),
                   choose_scratch_size(network.output, self.rows))
        for i in range(network.context_count):
            most = max(most, linear_scratch_size(&network.contexts[i], self.rows))
        self.scratch_at = (self.rows * self.part * network.width * 4 + 63) // 64 * 64
        self.size = self.scratch_at + most + 64

    def __dealloc__(self):
        free(self.states)
        free(self.contexts)
        free(self.context)
        free(self.taken)

    cdef int _check(self, array, dtype, shape, bint contiguous) except -1:
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape or not (
            array.flags.aligned and (array.flags.c_contiguous or not contiguous)
        ):
            raise ValueError(f"{getattr(array, 'dtype', type(array))} of shape {np.shape(array)}: expected {dtype} of shape {shape}")
        return 0

    cdef int _state(self, dec_state *to, pair, const dec_layer *layer) except -1:
        cdef bint has_c = layer.cell == DEC_LSTM
        cdef int64_t hidden = layer.hidden, width = hidden if layer.projection == NULL else layer.projection.outputs
        h, c = pair
        for array, size in ((h, width), (c, hidden)) if has_c else ((h, width),):
            self._check(array, np.float32, (self.rows, size), False)
            if (size > 1 and array.strides[1] != 4) or array.strides[0] % 4:
                raise ValueError(f"a state with strides {array.strides}: expected contiguous rows")
        to.h, to.h_stride = <float *>cnp.PyArray_DATA(h), h.strides[0] // 4
        if has_c:
            to.c, to.c_stride = <float *>cnp.PyArray_DATA(c), c.strides[0] // 4
        return 0

    cdef void add_contexts(self, char *memory) noexcept nogil:
        cdef int64_t i, start = 0, end
        cdef const dec_linear *linear
        if self.network.context_count == 0:
            return
        while start < self.rows:
            end = start
            while end < self.rows and self._takes_context(end):
                end += 1
            if end > start:
                for i in range(self.network.context_count):
                    linear = &self.network.contexts[i]
                    c_linear_product(linear, self.contexts[i] + start * linear.inputs, linear.inputs, end - start,
                                     self.context + start * self.network.gates, self.network.gates, i > 0,
                                     self._work(memory))
            start = end + 1
        self.computed = True

    cdef bint _takes_context(self, int64_t row) noexcept nogil:
        """Return whether a context of the row is another than in the last run, and keep it for the next."""
        cdef bint other = not self.computed
        cdef float *kept = self.taken
        cdef const float *own
        cdef int64_t i, n
        for i in range(self.network.context_count):
            n = self.network.contexts[i].inputs
            own = self.contexts[i] + row * n
            if other or memcmp(kept + row * n, own, n * sizeof(float)) != 0:
                other = True
                memcpy(kept + row * n, own, n * sizeof(float))
            kept += self.rows * n
        return other

    cdef dec_status read(self, char *memory, int64_t start, int64_t time, int64_t *bad) noexcept nogil:
        cdef dec_feed feed
        feed.rows, feed.time, feed.vectors, feed.lengths = self.rows, time, NULL, NULL
        feed.tokens, feed.token_stride = self.tokens + start, self.time
        feed.context = self.context
        feed.context_stride = self.network.gates
        return c_network_read(&self.network.network, &feed, self.states, self._top(memory), self._work(memory), bad)

    cdef void project(self, char *memory, int64_t start, int64_t time) noexcept nogil:
        cdef int64_t outputs = self.network.output.outputs
        c_linear_product(self.network.output, self._top(memory), self.network.width, self.rows * time,
                         self.logits + start * self.rows * outputs, outputs, 0, self._work(memory))

    cdef dec_status choose(self, char *memory, const dec_stream *stream, const float *temperature, int64_t *tokens,
                           float *logprobs, int64_t *bad) noexcept nogil:
        cdef int64_t width = self.network.width
        if stream == NULL:
            return c_linear_greedy(self.network.output, self._top(memory), width, self.rows, tokens, logprobs,
                                   self._work(memory), bad)
        return c_linear_draw(self.network.output, self._top(memory), width, self.rows, stream, temperature, tokens, logprobs,
                             self._work(memory), bad)

    cdef bint fuses(self) noexcept nogil:
        return self.network.output.outputs <= FUSED

    cdef void move_rows(self, char *memory, const int64_t *rows) noexcept nogil:
        cdef int64_t i
        cdef float *aside = <float *>self._work(memory)
        for i in range(self.network.network.layer_count):
            if self.states[i].h != NULL:
                self._move(self.states[i].h, self.states[i].h_stride, self._width(i), rows, aside)
            if self.states[i].c != NULL:
                self._move(self.states[i].c, self.states[i].c_stride, self.network.layers[i].hidden, rows, aside)

    cdef void copy_row(self, NativeRun to, int64_t row) noexcept nogil:
        cdef int64_t i
        cdef dec_state *own
        cdef dec_state *other
        for i in range(self.network.network.layer_count):
            own, other = &self.states[i], &(<NetworkRun> to).states[i]
            if own.h != NULL:
                memcpy(other.h + row * other.h_stride, own.h + row * own.h_stride, self._width(i) * sizeof(float))
            if own.c != NULL:
                memcpy(other.c + row * other.c_stride, own.c + row * own.c_stride,
                       self.network.layers[i].hidden * sizeof(float))

    cdef int64_t _width(self, int64_t layer) noexcept nogil:
        """Return how many numbers a row of a layer's h has: as many as the projection gives, if there is one."""
        cdef const dec_layer *own = &self.network.layers[layer]
        return own.hidden if own.projection == NULL else own.projection.outputs

    cdef void _move(self, float *state, int64_t stride, int64_t hidden, const int64_t *rows, float *aside) noexcept nogil:
        cdef int64_t r
        for r in range(self.rows):
            if rows[r] != r:
                memcpy(aside + r * hidden, state + rows[r] * stride, hidden * sizeof(float))
        for r in range(self.rows):
            if rows[r] != r:
                memcpy(state + r * stride, aside + r * hidden, hidden * sizeof(float))

    cdef object refused(self, int64_t row):
        return ModelError(f"{self.network.name}: the step failed: row {row} has a token that lies outside the embedding; "
                          f"expected 0 <= token < {self.network.network.vocabulary}")  # fmt: skip

    # The parts of the memory: what the output product takes [time, rows, width], and the rest.

    cdef float *_top(self, char *memory) noexcept nogil:
        return <float *>((<size_t>memory + 63) // 64 * 64)

    cdef void *_work(self, char *memory) noexcept nogil:
        return <char *>self._top(memory) + self.scratch_at
