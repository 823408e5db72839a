"""One set of tests for any server that claims TensorFlow Serving's protocol.

They run against the local server by default, and against any other by its address:

    make conformance
    make conformance GRPC=localhost:8500 REST=localhost:8501

The other server must serve what `python -m tests.conformance.prepare FOLDER` wrote, which also
prints how to start the container with it.
"""
