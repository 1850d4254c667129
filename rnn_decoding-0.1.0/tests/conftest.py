"""In the gate (CI=true) property tests take the same examples every time; on a developer's machine new ones."""

import os

from hypothesis import settings

settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")
