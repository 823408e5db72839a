"""Credentials for gRPC from an SSLConfig."""

import ssl
import tempfile
from typing import Any

import grpc

from tf_avae.errors import InputError


def credentials(config: Any, path: str) -> grpc.ServerCredentials:
    """Server credentials from an `SSLConfig`; `client_verify` asks clients for a certificate.

    Raises:
        InputError: the key or a certificate is damaged, or they do not belong together.
    """
    # gRPC says of a bad key only that it could not bind. OpenSSL, which says more, reads files.
    # The file is readable by its owner alone.
    with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="utf-8") as file:
        file.write(f"{config.server_key}\n{config.server_cert}\n")
        file.flush()
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            # Without a password: an encrypted key must not ask for one on a terminal.
            context.load_cert_chain(file.name, password=lambda: b"")
            if config.custom_ca:
                context.load_verify_locations(cadata=config.custom_ca)
        except (ssl.SSLError, ValueError) as error:
            raise InputError(
                f"{path}: server_key, server_cert or custom_ca cannot be used ({error}); give PEM "
                "text, an unencrypted key, and the certificate that belongs to it"
            ) from error
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
