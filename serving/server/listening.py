"""Listens, loads, serves, stops."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from aiohttp import web

from serving.server import flags, grpc_api, rest, tls
from serving.server.batching import Scheduler
from serving.server.core import Core
from serving.server.manager import Options
from serving.server.model_configs import ModelConfigList
from serving.server.parameters import Parameters
from serving.server.status import Code, StatusError
from tf_avae.backend import tf, without_warnings
from tf_avae.console.commands import handling
from tf_avae.errors import InputError

log = logging.getLogger("serving.server")

_GRACE = 30.0  # seconds for requests under way when the server is told to stop


def run(given: argparse.Namespace) -> int:
    """Serves until a signal comes; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    default: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    with without_warnings(), handling(default):  # TensorFlow warns that its loader is old
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_serve(given))
        return _beside_a_loop(given)


def _beside_a_loop(given: argparse.Namespace) -> int:
    """Serves in a thread, because this one runs an event loop, as notebooks do. An interrupt stops
    the server."""
    stops: list[Callable[[], object]] = []
    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(lambda: asyncio.run(_serve(given, stops.append)))
        try:
            return serving.result()
        except KeyboardInterrupt:
            for stop in stops:
                stop()
            return serving.result()


async def _serve(
    given: argparse.Namespace, offer: Callable[[Callable[[], object]], object] = lambda stop: None
) -> int:
    """Serves until a signal comes, or any thread calls the function that `offer` was given."""
    flags.check(given)
    models = flags.read_models(given)
    cores = os.cpu_count() or 1
    parameters = None
    if given.enable_batching:
        parameters = Parameters.of_proto(flags.read_batching(given.batching_parameters_file), cores)
    for name in flags.WITHOUT_EFFECT:
        if getattr(given, name) is not None:
            log.info("--%s has no effect here", name)

    health = grpc_api.Health()
    changed = asyncio.Event()
    largest = given.max_request_mib << 20
    scheduler = Scheduler(parameters, 4 * cores, largest)
    core = Core(
        scheduler, _options(given), given.enable_serialization_as_tensor_content, changed.set
    )
    await health.say(False)
    # A message holds the largest request and some overhead.
    arguments: dict[str, int | str] = {"grpc.max_receive_message_length": largest + 2**20}
    arguments |= flags.channel_arguments(given.grpc_channel_arguments)
    server = grpc_api.server(core, health, arguments)
    _listen(server, given)
    http = await _listen_http(core, given)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    offer(lambda: loop.call_soon_threadsafe(stop.set))
    noted: tuple[signal.Signals, ...] = ()
    if threading.current_thread() is threading.main_thread():  # Python handles signals there alone
        noted = (signal.SIGINT, signal.SIGTERM)
    for number in noted:
        loop.add_signal_handler(number, stop.set)
    await server.start()
    work = [asyncio.create_task(_report(core, health, changed))]
    try:
        work.append(asyncio.create_task(_keep_models(core, given, models)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, *work], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in work:
            if task.done():
                task.result()  # raises what ended it
        log.info("stopping: waiting for the requests under way")
    finally:
        for number in noted:
            loop.remove_signal_handler(number)  # a second one ends the process at once
        for task in work:
            task.cancel()
        await health.stop()
        endings = [server.stop(_GRACE)]
        if http is not None:
            endings.append(http.cleanup())
        await asyncio.gather(*endings)
        await core.manager.close()
        scheduler.close()
    log.info("stopped")
    return 0


def _options(given: argparse.Namespace) -> Options:
    session = tf.compat.v1.ConfigProto()
    both = given.tensorflow_session_parallelism
    session.intra_op_parallelism_threads = given.tensorflow_intra_op_parallelism or both
    session.inter_op_parallelism_threads = given.tensorflow_inter_op_parallelism or both
    return Options(
        poll=given.file_system_poll_wait_seconds,
        retries=given.max_num_load_retries,
        retry_interval=max(0.0, given.load_retry_interval_micros / 1e6),
        threads=max(1, given.num_load_threads),
        warm_up=given.enable_model_warmup,
        warm_up_iterations=given.num_request_iterations_for_warmup or 1,
        labels_for_unavailable=given.allow_version_labels_for_unavailable_models,
        session=session,
        trust=given.trust,
    )


def _listen(server: grpc.aio.Server, given: argparse.Namespace) -> None:
    secure = None
    if given.ssl_config_file:
        secure = tls.credentials(flags.read_tls(given.ssl_config_file), given.ssl_config_file)
    host = f"[{given.host}]" if ":" in given.host else given.host
    addresses = [f"{host}:{given.port}"] if given.port else []
    addresses += [f"unix:{given.grpc_socket_path}"] if given.grpc_socket_path else []
    for address in addresses:
        try:
            if secure is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, secure)
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {address} for gRPC; is the port in use? Give another --port"
            ) from error
        log.info("gRPC%s at %s", " with TLS" if secure else "", address)


async def _listen_http(core: Core, given: argparse.Namespace) -> rest.Runner | None:
    metrics_path = flags.read_metrics_path(given.monitoring_config_file)
    if not given.rest_api_port:
        return None
    server = rest.Server(
        core,
        timeout=given.rest_api_timeout_in_ms / 1e3 or None,
        metrics_path=metrics_path,
        cors=given.rest_api_enable_cors_support,
    )
    runner = rest.Runner(server, _GRACE)
    await runner.setup()
    try:
        site = web.TCPSite(runner, given.host, given.rest_api_port)
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise InputError(
            f"cannot listen on {given.host}:{given.rest_api_port} for REST "
            f"({os.strerror(error.errno) if error.errno else error}); give another --rest_api_port"
        ) from error
    log.info("REST at http://%s:%s/v1/models", given.host, given.rest_api_port)
    if metrics_path:
        log.info("metrics at http://%s:%s%s", given.host, given.rest_api_port, metrics_path)
    return runner


async def _keep_models(core: Core, given: argparse.Namespace, models: ModelConfigList) -> None:
    """Loads the models, and follows folders and config file."""

    async def configure() -> None:
        try:
            await core.manager.configure(models)
        except StatusError as error:
            if error.code is not Code.UNKNOWN:  # a config that is not valid
                raise InputError(error.message) from error
            log.error("%s", error)
        if given.model_config_file and given.model_config_file_poll_wait_seconds:
            await _poll_config(core, given)

    # Both at once: a good version may appear while a bad one is tried.
    await asyncio.gather(configure(), core.manager.poll())
    await asyncio.Event().wait()


async def _poll_config(core: Core, given: argparse.Namespace) -> None:
    while True:
        await asyncio.sleep(given.model_config_file_poll_wait_seconds)
        try:
            await core.manager.configure(flags.read_models(given))
        except Exception as error:  # the file is read again later
            log.error("the model config stays as it was: %s", error)


async def _report(core: Core, health: grpc_api.Health, changed: asyncio.Event) -> None:
    """Sets the health service's status when it changes."""
    ready = False
    while True:
        await changed.wait()
        changed.clear()
        if core.manager.ready() != ready:
            ready = not ready
            await health.say(ready)
            log.info("%s", "ready" if ready else "not ready")
