"""Build the native kernels: C11 sources of csrc/ under Cython bindings.

No -march flag: the instruction-set files switch targets for themselves and the
dispatch table picks one when the module loads, so one wheel runs everywhere.
"""

import os
import sys
from glob import glob

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

TOPICS = ("_arguments", "_beam", "_draw", "_native", "_processors", "_random", "_softmax", "_top_k")

if sys.platform == "win32":
    FLAGS = ["/O2", "/std:c11"]
else:
    # -ffp-contract=off: the portable kernels give the same bits with every compiler.
    FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unused-function"]
FLAGS += os.environ.get("DECODING_CFLAGS", "").split()


def extension(name, *c_sources):
    return Extension(
        name,
        [name.replace(".", "/") + ".pyx", *c_sources],
        include_dirs=["csrc", np.get_include()],
        depends=glob("csrc/*.h"),
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_22_API_VERSION")],
        extra_compile_args=FLAGS,
        extra_link_args=os.environ.get("DECODING_LDFLAGS", "").split(),
    )


setup(
    ext_modules=cythonize(
        [
            extension("decoding.kernels._library", *sorted(glob("csrc/*.c"))),
            # These call the C library through decoding.kernels._library, which alone links csrc/.
            *(extension(f"decoding.kernels.{topic}") for topic in TOPICS),
            extension("decoding.engine.flags"),
            extension("decoding.engine.search.native_beams"),
            extension("decoding.engine.search.native_steps"),
            extension("decoding.engine.search.row_sampler"),
            extension("decoding.engine.search.stopping"),
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
        },
    )
)
