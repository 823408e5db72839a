"""A local server that speaks TensorFlow Serving's protocol: for laptops, tests and machines without
Docker. Production is the container; see docs/deployment.md.

    python -m serving.server --model_name=encoder --model_base_path=models/encoder

A request goes `grpc_api` or `rest` -> `core` (which model, which version, is it well formed) ->
`batching` -> `servable` (one version's graph). `manager` decides which versions there are.
"""

from tf_avae.backend import need

need({
    "tensorflow_serving": "tensorflow-serving-api", "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking", "grpc_reflection": "grpcio-reflection",
    "aiohttp": "aiohttp", "prometheus_client": "prometheus-client",
})  # fmt: skip
