"""How the pages become a site: `make docs`. Everything a reader's browser loads is in it."""

import re

import tf_avae

project = "tf-avae"
version = release = tf_avae.__version__
html_title = f"{project} {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The pages are read on GitHub too, whose anchors these are.
myst_heading_anchors = 4
# In docstrings: `name`.
default_role = "code"
add_module_names = False
napoleon_use_ivar = True
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = False
html_copy_source = False


def as_restructured_text(app, what, name, of, options, lines):
    """Docstrings are plain: what is indented after an empty line is code, and a bar or an
    underscore is itself."""
    made, before, in_section, in_code = [], "", False, False
    for line in lines:
        if line and not line.startswith(" "):
            in_section, in_code = line.endswith(":") and line[:-1].isalpha(), False
        elif line and not in_section and not before and not in_code:
            made += ["::", ""]
            in_code = True
        if not in_code:
            words = line.split("`")
            words[::2] = (re.sub(r"\||(?<=\w)_(?=\W|$)", r"\\\g<0>", word) for word in words[::2])
            line = "`".join(words)
        made.append(line)
        before = line
    lines[:] = made


def setup(app):
    """Before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)
