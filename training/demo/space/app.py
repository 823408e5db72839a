"""The demo as a hosting space runs it: the page of `tf-avae demo`, for everybody who comes."""

import sys

from training.demo.__main__ import main

sys.exit(main(["--host", "0.0.0.0", "--port", "7860", "--no-browser"]))
