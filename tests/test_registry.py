"""Names are found by folder, listed in messages, and never silently replaced."""

import pytest

from modules.errors import UsageError
from modules.registry import Registry


@pytest.fixture
def registry(tmp_path, monkeypatch):
    package = tmp_path / "plugs_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text(
        "from modules.registry import Registry\nPLUGS = Registry('plug', 'plugs_for_test')\n"
    )
    (package / "round.py").write_text(
        "from plugs_for_test.base import PLUGS\n@PLUGS.register('round', 'circle')\nclass Round: pass\n"
    )
    (package / "_hidden.py").write_text("raise RuntimeError('files with an underscore are not searched')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import importlib

    return importlib.import_module("plugs_for_test.base").PLUGS


def test_a_file_in_the_folder_is_enough(registry):
    assert registry.names() == ["circle", "round"]
    assert registry.get("round") is registry.get("circle")
    assert "round" in registry and "square" not in registry


def test_an_unknown_name_lists_the_known_ones(registry):
    with pytest.raises(UsageError, match=r"unknown plug 'roud'\. Did you mean round\? Known: circle, round\."):
        registry.get("roud")


def test_a_name_cannot_be_taken_twice():
    plugs = Registry("plug", "json")
    plugs.register("one")(object)
    with pytest.raises(ValueError, match="'one' is registered twice"):
        plugs.register("one")(object)
