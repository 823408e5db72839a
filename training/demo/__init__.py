"""A page to touch: one attack on a plain VAE and on the encoder that ships, side by side.

    python -m training.demo

`kept` has what is made at the first start, `readers` the encoders with what attacks and proves,
`digits` the images, `page` the page, which Gradio draws, and `space` the folder that a hosting
space runs. Needs the extra `tf_avae[demo]`; see docs/demo.md.
"""

from tf_avae.backend import need


def check_installed() -> None:
    """Raises `NotInstalled` if Gradio is not installed."""
    need({"gradio": "Gradio"}, "demo")
