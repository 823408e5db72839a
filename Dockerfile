# The stock TensorFlow Serving image, set up for exported encoders (docs/deployment.md).
#
#   python -m serving.export RUN --to models/encoder
#   docker build -t encoder .                        models/ goes into the image
#   docker build -t encoder --target server .        no model: mount a folder over /models
#
# The server's TensorFlow must be at least the one that exported, or the build stops. A digest
# can follow the version: --build-arg TF_SERVING_VERSION=2.21.0@sha256:...
ARG TF_SERVING_IMAGE=tensorflow/serving
ARG TF_SERVING_VERSION=2.21.0

FROM ${TF_SERVING_IMAGE}:${TF_SERVING_VERSION} AS server
COPY serving/configs/*.txt /etc/serving/
COPY serving/container/*.sh /usr/local/bin/
# Readable by any user, whatever the umask of the checkout.
RUN chmod 0755 /etc/serving /usr/local/bin/*.sh && chmod 0644 /etc/serving/*
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 8500 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=6s --start-period=120s --retries=3 \
    CMD ["/usr/local/bin/healthcheck.sh"]
# Arguments of `docker run` come after these, and the last of a repeated flag counts. A request
# holds its thread while it waits for its batch: with the stock 4 threads a core, large batches
# would never fill, and gRPC would refuse requests before the bounded queue of batching.txt does.
ENTRYPOINT ["/usr/local/bin/serve.sh", \
    "--port=8500", \
    "--rest_api_port=8501", \
    "--model_config_file=/etc/serving/models.txt", \
    "--model_config_file_poll_wait_seconds=30", \
    "--file_system_poll_wait_seconds=5", \
    "--allow_version_labels_for_unavailable_models", \
    "--enable_model_warmup", \
    "--enable_batching", \
    "--batching_parameters_file=/etc/serving/batching.txt", \
    "--monitoring_config_file=/etc/serving/monitoring.txt", \
    "--grpc_max_threads=512", \
    "--rest_api_num_threads=64"]

FROM server AS checked
USER 0
COPY models/ /models/
RUN check_models.sh /models && chmod -R a+rX,go-w /models
USER 10001:10001

FROM server
COPY --from=checked /models/ /models/
