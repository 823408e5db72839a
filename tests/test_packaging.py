"""What an index shows of the package."""

import re
import runpy

import pytest
import setuptools

from tests.test_readme import README, ROOT


@pytest.mark.parametrize("home", [None, "https://home.example/of/it"])
def test_links_of_the_description_lead_somewhere_or_are_none(home, tmp_path, monkeypatch):
    """Relative ones would lead nowhere there."""
    for name in ("setup.py", "README.md", "CITATION.cff", "tf_avae/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    if home:
        with (tmp_path / "CITATION.cff").open("a") as file:
            file.write(f"repository-code: {home}\n")
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **words: given.update(words))
    runpy.run_path(str(tmp_path / "setup.py"))
    shown, link = given["long_description"], r"\]\((?!#)([^)]*)\)"
    inside = [to for to in re.findall(link, README) if not to.startswith("http")]
    assert inside and all(to.startswith("https:") for to in re.findall(link, shown))
    assert shown.count(f"({home}/") == (len(inside) if home else 0)
    assert ("![" in shown) == bool(home)
    assert given["project_urls"] == ({"Repository": home} if home else {})
