"""Kernels."""

from decoding.kernels._kernels import *  # noqa: F403
