"""Imports point one way."""

import ast
import graphlib
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Which parts of tf_avae each part may import, its own aside.
FOUNDATIONS = {
    "types", "errors", "plugins", "registry", "colours", "config", "files", "backend", "records",
    "inputs",
}  # fmt: skip
ALLOWED = {
    "types": set(),
    "errors": set(),
    "files": {"errors"},
    "inputs": {"backend", "errors", "types"},
    "plugins": {"backend", "errors"},
    "console": {"backend", "errors", "plugins"},
    # By name it registers classes that lie above it, when Keras and TFDS are imported.
    "backend": {"errors", "types"},
    "provenance": {"backend", "console", "plugins"},
    "records": {"config", "errors"},
    "registry": {"errors", "plugins"},
    "colours": {"errors"},
    "config": {"colours", "errors", "registry"},
    "distributions": FOUNDATIONS,
    "networks": FOUNDATIONS,
    "attacks": FOUNDATIONS,
    "bounds": FOUNDATIONS,
    "certificates": {"errors"},  # with NumPy alone
    "image_files": FOUNDATIONS,
    "graphs": FOUNDATIONS,
    "datasets": FOUNDATIONS | {"console", "image_files"},
    "theory": FOUNDATIONS | {"distributions"},
    "plots": FOUNDATIONS,
    # Probes and evaluation take callables and arrays, never the model class.
    "probes": FOUNDATIONS | {"bounds"},
    "evaluation": FOUNDATIONS
    | {"attacks", "bounds", "distributions", "graphs", "plots", "probes", "provenance"},
    "objectives": FOUNDATIONS | {"distributions"},
    "model": FOUNDATIONS | {"bounds", "distributions", "networks", "attacks", "objectives"},
    "robustified": FOUNDATIONS
    | {"attacks", "bounds", "distributions", "model", "networks", "objectives"},
    "runs": FOUNDATIONS
    | {"attacks", "datasets", "graphs", "image_files", "model", "networks", "objectives", "plots"}
    | {"provenance", "robustified"},
    "saved": FOUNDATIONS
    | {"bounds", "datasets", "distributions", "evaluation", "graphs", "image_files", "model"}
    | {"networks", "probes", "provenance", "robustified", "runs"},
    "__main__": FOUNDATIONS | {"console", "tf_avae"},
}


def imported(path):
    """Dotted names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module != "tf_avae":
                yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts(path):
    """The parts of tf_avae that a file imports."""
    for name in imported(path):
        words = name.split(".")
        if words[0] == "tf_avae":
            # What is no part comes from the package itself, which lies above all of them.
            yield words[1] if len(words) > 1 and words[1] in ALLOWED else "tf_avae"


FILES = sorted((ROOT / "tf_avae").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_parts_import_only_what_lies_below_them(path):
    part = path.relative_to(ROOT / "tf_avae").parts[0].removesuffix(".py")
    if part == "__init__":
        return
    assert set(parts(path)) - {part} <= ALLOWED[part]


def test_every_part_is_in_the_table_and_the_table_has_no_cycle():
    found = {p.relative_to(ROOT / "tf_avae").parts[0].removesuffix(".py") for p in FILES}
    assert found - {"__init__"} == ALLOWED.keys()
    left = dict(ALLOWED)
    while left:
        free = [part for part, needs in left.items() if not needs & left.keys()]
        assert free, f"cycle among {sorted(left)}"
        for part in free:
            del left[part]


def module(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_file_needs_itself_by_way_of_others():
    """Packages themselves aside: what they show is imported from where it lives."""
    files = [f for d in ("tf_avae", "training", "serving") for f in (ROOT / d).rglob("*.py")]
    known = {module(path): path for path in files if path.name != "__init__.py"}
    needs = {name: set(imported(path)) & known.keys() - {name} for name, path in known.items()}
    assert sum(map(len, needs.values())) > 500
    graphlib.TopologicalSorter(needs).prepare()  # raises where there is a circle


@pytest.mark.parametrize(
    ("house", "above"),
    [
        ("tf_avae/datasets", {"drawn_faces": {"celeb_a"}}),
        ("training/sweep", {name: {"cells"} for name in ("colormnist", "precision", "table3")}),
    ],
)
def test_rooms_beside_one_another_do_not_know_one_another(house, above):
    rooms = {path.parent.name for path in (ROOT / house).glob("*/__init__.py")}
    assert above.keys() < rooms
    for room, other in itertools.permutations(rooms, 2):
        if other not in above.get(room, ()):
            names = {n for path in (ROOT / house / room).rglob("*.py") for n in imported(path)}
            inside = f"{house.replace('/', '.')}.{other}"
            assert not [name for name in names if f"{name}.".startswith(f"{inside}.")], room


def test_the_package_does_not_know_its_command_lines():
    for path in FILES:
        assert not {n.split(".")[0] for n in imported(path)} & {"training", "serving"}


def test_training_and_serving_do_not_know_one_another():
    for folder, other in (("training", "serving"), ("serving", "training")):
        for path in (ROOT / folder).rglob("*.py"):
            assert other not in {name.split(".")[0] for name in imported(path)}


def test_the_check_sees_imports_inside_functions(tmp_path):
    file = tmp_path / "f.py"
    file.write_text("def f():\n    from tf_avae import model\n    import tf_avae.runs.run as r\n")
    assert set(parts(file)) == {"model", "runs"}
    file.write_text("from tf_avae import AVAE\n")
    assert set(parts(file)) == {"tf_avae"}


def test_what_is_private_to_others_is_taken_in_one_place():
    private = [
        (path.relative_to(ROOT), name)
        for folder in ("tf_avae", "training", "serving")
        for path in (ROOT / folder).rglob("*.py")
        for name in imported(path)
        if name.startswith(("keras.src", "tensorflow.python"))
    ]
    assert not private
    homes = (ROOT / "tf_avae/backend/private.py").read_text()
    assert homes.count('"keras.src') + homes.count('"tensorflow.python') == 8
    from tf_avae.backend import private as taken

    for name in taken._HOMES:
        assert getattr(taken, name)
