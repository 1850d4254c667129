"""Recurrent language models of transformers, small and random, and modules that run one step of each.

A step takes ids [batch, 1] and the tensors of the model's cache, and returns logits [batch, 1, V] and these tensors.
"""

import inspect
from functools import partial

import torch
import transformers
from torch import nn
from transformers import DynamicCache

V, H = 24, 8
_BASE = {"vocab_size": V, "hidden_size": H, "num_hidden_layers": 2,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
_ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 12,
              "max_position_embeddings": 64, "attn_implementation": "eager"}  # fmt: skip
_MAMBA = {"state_size": 4, "conv_kernel": 4, "expand": 2}
_JAMBA = {"mamba_d_state": 4, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 2, "use_mamba_kernels": False}
_BAMBA = {"mamba_n_heads": 4, "mamba_d_head": 4, "mamba_n_groups": 1, "mamba_d_state": 4, "mamba_d_conv": 4,
          "mamba_expand": 2, "mamba_chunk_size": 4}  # fmt: skip
_DELTA = {"linear_conv_kernel_dim": 4, "linear_key_head_dim": 4, "linear_value_head_dim": 4,
          "linear_num_value_heads": 2}  # fmt: skip

# The class's stem, and its configuration. Layers without attention are those that have a state of a fixed size.
CONFIGS = {
    "mamba": ("Mamba", {**_BASE, **_MAMBA, "time_step_rank": 2}),
    "mamba2": ("Mamba2", {**_BASE, **_MAMBA, "num_heads": 4, "head_dim": 4, "n_groups": 1, "chunk_size": 4}),
    "falcon_mamba": ("FalconMamba", {**_BASE, **_MAMBA, "time_step_rank": 2}),
    "jamba": ("Jamba", {**_BASE, **_ATTENTION, **_JAMBA, "attn_layer_period": 8, "attn_layer_offset": 7,
                        "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2,
                        "num_experts_per_tok": 1, "experts_implementation": "batched_mm"}),
    "bamba": ("Bamba", {**_BASE, **_ATTENTION, **_BAMBA, "attn_layer_indices": []}),
    "granite": ("GraniteMoeHybrid", {**_BASE, **_ATTENTION, **_BAMBA, "layer_types": ["mamba", "mamba"],
                                     "num_local_experts": 0, "num_experts_per_tok": 0,
                                     "shared_intermediate_size": 12, "position_embedding_type": None}),
    "zamba": ("Zamba", {**_BASE, **_ATTENTION, **_JAMBA, "layers_block_type": ["mamba", "mamba"],
                        "attn_layer_period": 8, "attn_layer_offset": 7, "n_mamba_heads": 2}),
    "qwen3_next": ("Qwen3Next", {**_BASE, **_ATTENTION, **_DELTA, "linear_num_key_heads": 1, "head_dim": 4,
                                 "layer_types": ["linear_attention"] * 2, "num_experts": 0,
                                 "mlp_only_layers": [0, 1], "num_experts_per_tok": 1,
                                 "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}),
    "lfm2": ("Lfm2", {**_BASE, **_ATTENTION, "layer_types": ["conv", "conv"], "conv_L_cache": 3,
                      "block_multiple_of": 4}),
    "recurrent_gemma": ("RecurrentGemma", {**_BASE, **_ATTENTION, "lru_width": H, "block_types": ("recurrent",),
                                           "conv1d_width": 4}),
    "xlstm": ("xLSTM", {**_BASE, "num_blocks": 2, "num_heads": 2, "qk_dim_factor": 1.0, "ffn_proj_factor": 1.0,
                        "ffn_round_up_to_multiple_of": 8, "chunk_size": 4, "mode": "inference",
                        "autocast_kernel_dtype": "float32"}),
    "rwkv": ("Rwkv", {**_BASE, "attention_hidden_size": H, "intermediate_size": 12, "context_length": 64}),
    "jamba_hybrid": ("Jamba", {**_BASE, **_ATTENTION, **_JAMBA, "attn_layer_period": 2, "attn_layer_offset": 1,
                               "expert_layer_period": 8, "expert_layer_offset": 7, "num_experts": 1}),
    "qwen3_next_hybrid": ("Qwen3Next", {**_BASE, **_ATTENTION, **_DELTA, "linear_num_key_heads": 1, "head_dim": 4,
                                        "layer_types": ["linear_attention", "full_attention"], "num_experts": 0,
                                        "mlp_only_layers": [0, 1], "num_experts_per_tok": 1,
                                        "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8}),
    "olmo_hybrid": ("OlmoHybrid", {**_BASE, **_ATTENTION, **_DELTA, "linear_num_key_heads": 2,
                                   "layer_types": ["linear_attention", "full_attention"]}),
}  # fmt: skip


def language_model(name):
    """The random model of a name in CONFIGS, with weights large enough that the next token depends on many."""
    stem, options = CONFIGS[name]
    options = dict(options)
    chosen = {k: options.pop(k) for k in ("attn_implementation", "experts_implementation") if k in options}
    config = getattr(transformers, f"{stem}Config")(**options)
    torch.manual_seed(0)
    model = getattr(transformers, f"{stem}ForCausalLM")._from_config(config, **chosen).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.4 if parameter.dim() > 1 else 0.1))
    return model


def step_of(name, model):
    """The module that runs one step of the model."""
    return {"xlstm": XlstmStep, "rwkv": RwkvStep, "recurrent_gemma": GriffinStep}.get(name, CacheStep)(model)


class Whole(nn.Module):
    """ids [batch, time] -> logits [batch, time, V], without a cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


class RecurrentCache(DynamicCache):
    """A cache of recurrent layers alone. transformers 5.23 asks an attention layer for its length and finds none."""

    def get_seq_length(self, layer_idx=0):
        return 0

    def get_query_offset(self, layer_idx=0):
        return 0

    def get_mask_sizes(self, query_length, layer_idx=0):
        return query_length, 0


class CacheStep(nn.Module):
    """One step of a model with a DynamicCache: convolution windows, recurrent states, keys and values of each layer."""

    inputs = ()

    def __init__(self, model):
        super().__init__()
        self.model = model
        takes = inspect.signature(model.forward).parameters
        self.argument = "cache_params" if "cache_params" in takes else "past_key_values"
        with torch.no_grad():
            cache = self._run(torch.ones(1, 1, dtype=torch.int64), self._cache())[1]
        self.places = [place for i, layer in enumerate(cache.layers) for place in _places(i, layer)]
        self.shapes = [tuple(_at(cache, place).shape[1:]) for place in self.places]
        self.names = [f"{kind.removesuffix('s').removesuffix('_state')}_{i}" for i, kind, _ in self.places]

    def start(self, batch, past=0):
        """States of zeros; keys and values of `past` tokens."""
        grows = [kind in ("keys", "values") for _, kind, _ in self.places]
        shapes = [(s[0], past, s[2]) if g else s for s, g in zip(self.shapes, grows, strict=True)]
        return [torch.zeros(batch, *shape) for shape in shapes]

    def forward(self, input_ids, *states):
        cache = self._cache()
        for place, state in zip(self.places, states, strict=True):
            _put(cache, place, state)
        logits, cache = self._run(input_ids, cache)
        return logits, *(_at(cache, place) for place in self.places)

    def _cache(self):
        cache = DynamicCache(config=self.model.config)
        attends = any(hasattr(layer, "keys") for layer in cache.layers)
        return cache if attends else RecurrentCache(config=self.model.config)

    def _run(self, ids, cache):
        return self.model(input_ids=ids, use_cache=True, **{self.argument: cache}).logits, cache


def _places(i, layer):
    for kind in ("conv_states", "recurrent_states"):
        yield from ((i, kind, k) for k, state in getattr(layer, kind, {}).items() if state is not None)
    yield from ((i, kind, None) for kind in ("keys", "values") if hasattr(layer, kind))


def _at(cache, place):
    i, kind, k = place
    values = getattr(cache.layers[i], kind)
    return values if k is None else values[k]


def _put(cache, place, state):
    i, kind, k = place
    layer = cache.layers[i]
    layer.dtype, layer.device = state.dtype, state.device
    if k is None:
        setattr(layer, kind, state)
        layer.is_initialized = True
        return
    getattr(layer, kind)[k] = state.clone()
    getattr(layer, f"is_{kind}_initialized")[k] = layer.has_previous_state[k] = True
    if kind == "conv_states":
        layer.conv_kernel_size[k] = state.shape[-1]


class XlstmStep(nn.Module):
    """xLSTM: each layer's matrix, its normalizer and the largest gate so far."""

    inputs = ()

    def __init__(self, model):
        super().__init__()
        from transformers.models.xlstm.modeling_xlstm import xLSTMCache

        self.model, self.layers = model, model.config.num_hidden_layers
        self.cache = partial(xLSTMCache, model.config, max_batch_size=1, dtype=torch.float32)
        self.names = [f"{name}_{i}" for i in range(self.layers) for name in ("c", "n", "m")]

    def start(self, batch):
        # Not the cache's own shapes: they hold for multiples of 64 alone.
        count, config = self.model.config.num_heads, self.model.config
        keys, values = (int(config.hidden_size * f) // count for f in (config.qk_dim_factor, config.v_dim_factor))
        shapes = [(count, keys, values), (count, keys), (count, 1)] * self.layers
        return [torch.zeros(batch, *shape) for shape in shapes]

    def forward(self, input_ids, *states):
        cache = self.cache()
        cache.rnn_state = {i: tuple(s.clone() for s in states[3 * i : 3 * i + 3]) for i in range(self.layers)}
        logits = self.model(input_ids=input_ids, cache_params=cache, use_cache=True).logits
        return logits, *(state for i in range(self.layers) for state in cache.rnn_state[i])


class RwkvStep(nn.Module):
    """RWKV-4: the last inputs of each layer, and its running weighted mean kept in log space."""

    inputs = ()
    names = ("ffn_shift", "shift", "num", "den", "top")

    def __init__(self, model):
        super().__init__()
        self.model = model

    def start(self, batch):
        config = self.model.config
        return [torch.zeros(batch, config.hidden_size, config.num_hidden_layers) for _ in self.names]

    def forward(self, input_ids, *states):
        ffn_shift, shift, *sums = (s.clone() for s in states)
        state = [_Shift(ffn_shift), _Shift(shift), *sums]
        logits = self.model(input_ids=input_ids, state=state, use_cache=True).logits
        return logits, ffn_shift, shift, *sums


class _Shift:
    """The inputs before, read as [batch, 1, hidden]: transformers reads [batch, hidden], which is right for one row alone."""

    def __init__(self, state):
        self.state = state

    def __getitem__(self, at):
        return self.state[at][:, None]

    def __setitem__(self, at, value):
        self.state[at] = value


class GriffinStep(nn.Module):
    """RecurrentGemma: its recurrent blocks keep their states as attributes, and reset them at position 0."""

    inputs = ("position_ids",)

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.blocks = [layer.temporal_block for layer in model.model.layers]
        self.names = [f"{name}_{i}" for i in range(len(self.blocks)) for name in ("conv", "recurrent")]

    def start(self, batch):
        width = self.model.config.lru_width
        shapes = [(width, self.model.config.conv1d_width - 1), (width,)] * len(self.blocks)
        return [torch.zeros(batch, *shape) for shape in shapes]

    def forward(self, input_ids, position_ids, *states):
        for i, block in enumerate(self.blocks):
            block.conv1d_state, block.rg_lru.recurrent_states = states[2 * i : 2 * i + 2]
        cache = RecurrentCache(config=self.model.config)
        out = self.model(input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True)
        return out.logits, *(s for b in self.blocks for s in (b.conv1d_state, b.rg_lru.recurrent_states))
