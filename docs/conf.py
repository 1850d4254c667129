"""Sphinx's configuration: `.ci/docs` builds the site."""

import re

import decoding

project = "rnn-decoding"
author = "the rnn-decoding developers"
copyright = "2026, the rnn-decoding developers"
version = release = decoding.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = "rnn-decoding"
html_static_path = ["_static"]
html_css_files = ["site.css"]
_REPOSITORY = "https://github.com/rnn-decoding/rnn-decoding/"
html_theme_options = {"source_repository": _REPOSITORY, "source_directory": "docs/"}

# Headings get the anchors that GitHub gives them, as the pages are read there too.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]

# In docstrings `name` is a name, which becomes a link where the site has a page of it.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {
    name: name
    for name in ("npt.ArrayLike", "Context", "Latents", "Prompts", "Sources", "Reward", "ModelFile", "FromModel")
}
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
exclude_patterns = ["_build"]


def setup(app):
    """Mend what the pages and Sphinx have otherwise than the site needs it."""

    def plain(app, what, name, obj, options, signature, returns):
        """Show aliases of types in unions by their names (Sphinx 9 writes TypeAliasForwardRef('name'))."""
        return re.sub(r"TypeAliasForwardRef\('(?:npt\.)?(\w+)'\)", r"\1", signature or "") or signature, returns

    def outside(app, name, source):
        """Let links that leave docs/ lead to the repository; pictures are copied."""
        base = "../" * name.count("/") + "../"
        pattern = rf"(?<!!)(\[[^\]]*\])\({re.escape(base)}([^)]+)\)"
        source[0] = re.sub(pattern, rf"\1({_REPOSITORY}blob/main/\2)", source[0])

    app.connect("autodoc-process-signature", plain)
    app.connect("source-read", outside)
