"""Other libraries doing what this project does, each in an environment without TensorFlow.

What is here knows nothing of the project, and is run as the package `peers` (see worker.py);
hence its relative imports.
"""
