"""Versions that come and go: which are loaded, which answer, and that nobody is dropped."""

import asyncio
import shutil
import time
from contextlib import asynccontextmanager

import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server import metrics
from serving.server.batching import Scheduler
from serving.server.manager import Manager, Options
from serving.server.status import Code, StatusError
from serving.server.version import State


class Loaded:
    """What stands for a loaded graph."""

    def __init__(self, path):
        self.path = path
        self.closed = False

    def close(self):
        self.closed = True


class Folders:
    """A model's folder, and a loader that fails for versions that hold a file `broken`."""

    def __init__(self, base):
        self.base = base
        self.loaded = []
        self.seconds = 0.0

    def add(self, version, broken=False):
        folder = self.base / str(version)
        folder.mkdir(parents=True)
        if broken:
            (folder / "broken").touch()

    def open(self, path):
        time.sleep(self.seconds)
        if not path.exists():
            raise tf.errors.NotFoundError(None, None, f"Could not find {path}")
        if (path / "broken").exists():
            raise tf.errors.DataLossError(None, None, "cannot parse")
        self.loaded.append(Loaded(path))
        return self.loaded[-1]

    def config(self, policy="", labels="", name="m"):
        text = (
            f'name: "{name}" base_path: "{self.base}" model_platform: "tensorflow" '
            + (f"model_version_policy {{ {policy} }} " if policy else "")
            + labels
        )
        config = text_format.Parse(text, model_server_config_pb2.ModelConfig())
        return model_server_config_pb2.ModelConfigList(config=[config])


@pytest.fixture
def folders(tmp_path):
    made = Folders(tmp_path / "m")
    made.base.mkdir()
    return made


@asynccontextmanager
async def managed(folders, **options):
    manager = Manager(
        Options(**{"poll": 0, "retries": 0, "retry_interval": 0.01} | options),
        Scheduler(None, 1), lambda: None,
    )  # fmt: skip
    manager._open = folders.open
    try:
        yield manager
    finally:
        await manager.close()


def states(manager, name="m"):
    return {n: v.state.name for n, v in sorted(manager.models[name].versions.items())}


async def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def current(manager, text='name: "m"'):
    with manager.using(text_format.Parse(text, model_pb2.ModelSpec())) as version:
        return version.number


def current_or_none(manager):
    try:
        return current(manager)
    except StatusError:
        return None


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", [30]),
        ("latest { num_versions: 2 }", [7, 30]),
        ("all {}", [2, 7, 30]),
        ("specific { versions: 2 versions: 5 }", [2]),
    ],
)
def test_policies(folders, policy, expected):
    for version in (2, 7, 30, "007", 2**63):  # of two names for a number the shorter; of 63 bits
        folders.add(version)
    (folders.base / ".tmp-31").mkdir()
    (folders.base / "notes").mkdir()
    (folders.base / "40").touch()  # a file

    async def run():
        async with managed(folders) as manager:
            await manager.configure(folders.config(policy))
            await until(lambda: manager.models["m"].available() == expected)
            assert current(manager) == max(expected)
            assert manager.ready()
            assert "007" not in {loaded.path.name for loaded in folders.loaded}

    asyncio.run(run())


def test_a_new_version_takes_over_and_the_old_one_goes_when_it_is_not_used(folders):
    folders.add(1)

    async def run():
        async with managed(folders) as manager:
            await manager.configure(folders.config())
            with manager.using(model_pb2.ModelSpec(name="m")) as used:
                folders.seconds = 0.1
                folders.add(2)
                manager.scan()
                # While the new one loads, the old one answers.
                await until(lambda: states(manager) == {1: "AVAILABLE", 2: "LOADING"})
                assert current(manager) == 1 == used.number
                await until(lambda: current(manager) == 2)
                await until(lambda: states(manager)[1] == "UNLOADING")
                await asyncio.sleep(0.05)
                assert not folders.loaded[0].closed  # a request is under way
            await until(lambda: states(manager) == {1: "END", 2: "AVAILABLE"})
            assert folders.loaded[0].closed
            # Back to the old one: the new folder is taken away.
            shutil.rmtree(folders.base / "2")
            manager.scan()
            await until(lambda: states(manager) == {1: "AVAILABLE", 2: "END"})
            assert current(manager) == 1

    asyncio.run(run())


@pytest.mark.parametrize("how", ["broken", "vanishes"])
def test_a_version_that_cannot_be_loaded_is_refused_and_the_old_one_serves(folders, how):
    folders.add(1)

    async def run():
        async with managed(folders, retries=2) as manager:
            await manager.configure(folders.config())
            folders.add(2, broken=how == "broken")
            folders.seconds = 0.05
            manager.scan()
            if how == "vanishes":
                shutil.rmtree(folders.base / "2")
            await until(lambda: states(manager)[2] == "END")
            error = manager.models["m"].versions[2].error
            assert error.code == (Code.DATA_LOSS if how == "broken" else Code.NOT_FOUND)
            manager.scan()
            assert states(manager) == {1: "AVAILABLE", 2: "END"}
            assert current(manager) == 1 and manager.ready()
            # A repaired one, under the next number, is taken.
            folders.add(3)
            manager.scan()
            await until(lambda: states(manager) == {1: "END", 2: "END", 3: "AVAILABLE"})

    asyncio.run(run())


def test_a_good_version_is_taken_while_a_bad_one_is_tried(folders):
    folders.add(1, broken=True)

    async def run():
        async with managed(folders, poll=0.01, retries=50) as manager:
            work = asyncio.gather(manager.configure(folders.config()), manager.poll())
            await asyncio.sleep(0.05)
            assert states(manager) == {1: "LOADING"}
            folders.add(2)
            await until(lambda: current_or_none(manager) == 2)
            work.cancel()

    asyncio.run(run())


def test_a_look_that_fails_is_not_the_last(folders, monkeypatch):
    folders.add(1)

    async def run():
        async with managed(folders, poll=0.01) as manager:
            await manager.configure(folders.config())
            monkeypatch.setattr(manager, "_look", lambda model: 1 / 0)
            polling = asyncio.create_task(manager.poll())
            await asyncio.sleep(0.05)
            monkeypatch.undo()
            folders.add(2)
            await until(lambda: current(manager) == 2)
            polling.cancel()

    asyncio.run(run())


def test_whether_all_can_be_asked_is_told_after_every_look(folders, tmp_path):
    folders.add(1)
    empty = Folders(tmp_path / "n")
    empty.base.mkdir()
    both = folders.config()
    both.config.extend(empty.config(name="n").config)
    told = []

    async def run():
        async with managed(folders) as manager:
            manager._changed = lambda: told.append(manager.ready())
            await manager.configure(folders.config())
            assert told[0] is False and told[-1] is True
            await manager.configure(both)
            assert told[-1] is False
            await manager.configure(folders.config())
            assert told[-1] is True

    asyncio.run(run())


def test_loading_is_tried_again(folders):
    folders.add(1, broken=True)

    async def run():
        async with managed(folders, retries=50) as manager:
            waiting = asyncio.create_task(manager.configure(folders.config()))
            await asyncio.sleep(0.1)
            assert states(manager) == {1: "LOADING"} and not manager.ready()
            (folders.base / "1" / "broken").unlink()
            await waiting
            assert states(manager) == {1: "AVAILABLE"}

    asyncio.run(run())


def test_a_folder_that_cannot_be_read_changes_nothing(folders):
    folders.add(1)

    async def run():
        async with managed(folders) as manager:
            await manager.configure(folders.config())
            folders.base.rename(folders.base.with_name("moved"))
            manager.scan()
            assert current(manager) == 1
            folders.base.mkdir()  # an empty one does: nothing is wanted
            manager.scan()
            await until(lambda: states(manager) == {1: "END"})
            with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(m\)"):
                current(manager)

    asyncio.run(run())


def test_labels(folders):
    for version in (1, 2):
        folders.add(version)
    stable = 'version_labels { key: "stable" value: 1 }'
    moved = 'version_labels { key: "stable" value: 2 }'

    async def run():
        async with managed(folders) as manager:
            # At the start nothing is available yet, so a label needs the flag.
            with pytest.raises(StatusError, match="not currently available") as caught:
                await manager.configure(folders.config("all {}", stable))
            assert caught.value.code == Code.FAILED_PRECONDITION and not manager.models
        async with managed(folders, labels_for_unavailable=True) as manager:
            await manager.configure(folders.config("specific { versions: 1 }", stable))
            assert current(manager, 'name: "m" version_label: "stable"') == 1
            # A label that exists may move only to a version that is available.
            with pytest.raises(StatusError, match="version 2 of model m"):
                await manager.configure(folders.config("all {}", moved))
            await manager.configure(folders.config("all {}", stable))
            await until(lambda: len(manager.models["m"].available()) == 2)
            await manager.configure(folders.config("all {}", moved))
            assert current(manager, 'name: "m" version_label: "stable"') == 2
            with pytest.raises(StatusError, match="Unrecognized servable version label: x"):
                current(manager, 'name: "m" version_label: "x"')

    asyncio.run(run())


def test_a_new_config_replaces_the_models(folders, tmp_path):
    folders.add(1)
    other = Folders(tmp_path / "n")
    other.add(4)

    async def run():
        async with managed(folders) as manager:
            await manager.configure(folders.config())
            await manager.configure(other.config(name="n"))
            assert current(manager, 'name: "n"') == 4
            await until(lambda: states(manager) == {1: "END"})  # its history stays
            assert folders.loaded[0].closed
            await manager.configure(folders.config())
            await until(lambda: states(manager) == {1: "AVAILABLE"})
            other.add(5, broken=True)
            shutil.rmtree(other.base / "4")
            with pytest.raises(
                StatusError, match=r"1 model\(s\) did not become available: .*parse"
            ):
                await manager.configure(other.config(name="n"))

    asyncio.run(run())


@pytest.mark.parametrize("moved", [False, True])
def test_a_model_that_is_removed_and_put_back_at_once_is_served(folders, tmp_path, moved):
    """Without another look at the folders, and though its version is still being unloaded."""
    folders.add(1)
    other = Folders(tmp_path / "elsewhere")
    other.add(1)

    async def run():
        async with managed(folders) as manager:
            await manager.configure(folders.config())
            with manager.using(model_pb2.ModelSpec(name="m")):  # somebody keeps it loaded meanwhile
                await manager.configure(model_server_config_pb2.ModelConfigList())
                assert states(manager) == {1: "UNLOADING"}
                back = asyncio.create_task(
                    manager.configure((other if moved else folders).config())
                )
                await asyncio.sleep(0.05)
                assert not back.done()
            await asyncio.wait_for(back, 10)
            assert states(manager) == {1: "AVAILABLE"} and current(manager, 'name: "m"') == 1
            (version,) = manager.models["m"].versions.values()
            assert version.path == (other if moved else folders).base / "1"
            assert [loaded.closed for loaded in folders.loaded] == [True, False]

    asyncio.run(run())


def test_models_that_are_gone_are_forgotten_in_the_end(folders, monkeypatch):
    monkeypatch.setattr("serving.server.manager._MOST_REMOVED", 2)
    folders.add(1)

    async def run():
        async with managed(folders) as manager:
            for n in range(6):
                await manager.configure(folders.config(name=f"n{n}"))
                await until(
                    lambda n=n: all(
                        model.versions[1].state == State.END
                        for name, model in manager.models.items()
                        if name != f"n{n}"
                    )
                )
            manager.scan()
            assert list(manager.models) == ["n3", "n4", "n5"]
            assert [metrics.label(f"n{n}") for n in range(6)] == ["", "", "", "n3", "n4", "n5"]

    asyncio.run(run())


@pytest.mark.parametrize("text", ["model_type: TENSORFLOW", 'model_platform: "tensorflow"'])
def test_a_platform_is_named_by_the_old_field_or_by_the_new_one(folders, text):
    folders.add(1)
    config = text_format.Parse(
        f'name: "m" base_path: "file://{folders.base}" {text}',
        model_server_config_pb2.ModelConfig(),
    )

    async def run():
        async with managed(folders) as manager:
            await manager.configure(model_server_config_pb2.ModelConfigList(config=[config]))
            assert current(manager, 'name: "m"') == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'name: "m" base_path: "/a" model_type: TENSORFLOW model_platform: "tensorflow"',
            r"^Illegal setting both ModelServerConfig::model_type \(deprecated\) and "
            "ModelServerConfig::model_platform, model name is m$",
        ),
        (
            'name: "m" base_path: "/a" model_type: OTHER',
            "^ModelServerConfig::model_type choice 2 not supported.$",
        ),
        (
            'name: "m" base_path: "s3://bucket/m" model_platform: "tensorflow"',
            r"^File system scheme 's3' not implemented \(file: 's3://bucket/m'\): .*copy the model",
        ),
        ('name: "m" base_path: "gs://b/m" model_platform: "tensorflow"', "scheme 'gs'"),
        ('name: "m" base_path: "file://a" model_platform: "tensorflow"', "absolute path or URI"),
        ('name: "m" base_path: "/a"', "neither ModelServerConfig::model_type"),
        ('name: "m" base_path: "/a" model_platform: "torch"', "unsupported platform torch"),
        ('name: "m" base_path: "a" model_platform: "tensorflow"', "absolute path or URI"),
        ('name: "m" base_path: "/a\\000b" model_platform: "tensorflow"', "absolute path or URI"),
    ],
)
def test_configs_that_are_not_valid(folders, text, words):
    config = text_format.Parse(text, model_server_config_pb2.ModelConfig())

    async def run():
        async with managed(folders) as manager:
            with pytest.raises(StatusError, match=words):
                await manager.configure(model_server_config_pb2.ModelConfigList(config=[config]))
            assert not manager.models

    asyncio.run(run())


def test_states_have_the_protocols_numbers():
    from tensorflow_serving.apis import get_model_status_pb2

    official = get_model_status_pb2.ModelVersionStatus.State.items()
    assert {s.name: s.value for s in State} == {n: v for n, v in official if n != "UNKNOWN"}
