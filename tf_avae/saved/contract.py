"""The signatures and outputs of an export, its files, and the batch sizes of its warm-up."""

ONNX = "model.onnx"
"""The file that an ONNX version is known by."""

SIGNATURES = ("serving_default", "embed_bytes", "decode")
"""Of an encoder."""

CERTIFY_SIGNATURES = ("certify", "certify_bytes")
"""Of an encoder of whose layers bounds are known, too: images and files, each with a radius."""

CLASSIFIER_SIGNATURES = ("serving_default", "classify", "classify_bytes", "embed_bytes")
"""Of a classifier, which is an encoder too: images under the first two names, files under the
others; all give the same outputs."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of images that a server computes at once, and that warm-up makes it ready for: the
`allowed_batch_sizes` of its batching file."""

WARM_UP = "assets.extra/tf_serving_warmup_requests"
