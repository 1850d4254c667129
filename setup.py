"""Build the native kernels: C11 sources of csrc/ under Cython bindings.

No -march flag: the instruction-set files switch targets for themselves, and the library picks one of them when it loads,
so one wheel runs on every processor. MSVC has no such switch in C: its files get flags of their own here.
"""

import os
import struct
import sys
from glob import glob

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if sys.byteorder != "little" or struct.calcsize("P") != 8:
    sys.exit("rnn-decoding needs a 64-bit little-endian system, because its arrays, ONNX files and packed weights are")

NATIVE = ("native.network", "native.run")
TOPICS = ("_arguments", "_beam", "_draw", "_processors", "_random", "_softmax", "_top_k", *NATIVE)

if sys.platform == "win32":
    # Visual Studio 2022 or later: earlier ones contract a * b + c by default, and have no flag against it.
    FLAGS = ["/O2", "/std:c11"]
else:
    # -ffp-contract=off: the portable kernels give the same bits with every compiler.
    # -g0: debug information was five sixths of what was installed. DECODING_CFLAGS="-g", which comes last, brings it back.
    FLAGS = ["-O3", "-g0", "-std=c11", "-ffp-contract=off", "-fvisibility=hidden"]
    FLAGS += ["-Wall", "-Wextra", "-Wno-unused-function"]
FLAGS += os.environ.get("DECODING_CFLAGS", "").split()
MSVC_FLAGS = {"isa_avx2.c": "/arch:AVX2", "isa_avx512.c": "/arch:AVX512"}


class BuildExt(build_ext):
    """Compiles each file with the flags of its instruction set, where the compiler is MSVC for x86-64."""

    def build_extensions(self):
        """Build all extensions."""
        if self.compiler.compiler_type == "msvc" and self.plat_name == "win-amd64":
            compile_all = self.compiler.compile

            def compile_each(sources, extra_postargs=None, **options):
                objects = []
                for source in sources:
                    own = MSVC_FLAGS.get(os.path.basename(source))
                    flags = [*(extra_postargs or []), *([own] if own else [])]
                    objects += compile_all([source], extra_postargs=flags, **options)
                return objects

            self.compiler.compile = compile_each
        super().build_extensions()


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
    cmdclass={"build_ext": BuildExt},
    ext_modules=cythonize(
        [
            extension("decoding.kernels._library", *sorted(glob("csrc/*.c"))),
            # These call the C library through decoding.kernels._library, which alone links csrc/.
            *(extension(f"decoding.kernels.{topic}") for topic in TOPICS),
            extension("decoding.engine.batch.ensemble_run"),
            extension("decoding.engine.flags"),
            extension("decoding.engine.search.native_beams"),
            extension("decoding.engine.search.native_steps"),
            *(
                extension(f"decoding.engine.search.rows.{topic}")
                for topic in ("choices", "edits", "outputs", "sampler")
            ),
            extension("decoding.engine.search.stopping"),
        ],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
            # Nothing in the extension modules counts on the GIL. Objects belong to one thread, or are only read once they are made,
            # but for a network's pool of scratch memory, a list that is asked for its last element in one call, and a Flag, one
            # volatile number that threads may see a moment late.
            "freethreading_compatible": True,
        },
    ),
)
