"""Keys and certificates, made by OpenSSL."""

import subprocess


def make_certificates(folder):
    """An authority, and what it vouches for: a server and a client; another authority. Each as
    NAME.pem and NAME.key in the folder, which is returned."""

    def openssl(words):
        command = ["openssl", *words.split()]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)

    new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    for name in ("ca", "other"):
        openssl(f"{new} -keyout {name}.key -out {name}.pem -subj /CN={name}")
    for name in ("server", "client"):
        openssl(
            f"{new} -keyout {name}.key -out {name}.pem -subj /CN={name} -CA ca.pem -CAkey ca.key "
            "-addext subjectAltName=DNS:localhost -addext basicConstraints=CA:FALSE"
        )
    return folder
