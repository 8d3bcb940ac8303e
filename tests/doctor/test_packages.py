"""Installed packages against requirements.txt, without importing or downloading any."""

import importlib.metadata
import sys

import pytest

from modules.doctor import packages
from modules.doctor.packages import Requirement, check_packages, check_python, read_requirements
from modules.pretrained.find import CODE_ROOT

OURS = (CODE_ROOT / "requirements.txt").read_text("utf-8")


@pytest.fixture
def installed(monkeypatch) -> dict[str, str]:
    """Name -> version of what is installed; tests change it."""
    versions = {each.name: each.version or "1.0" for each in read_requirements(OURS, tuple(sys.version_info[:2]))}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(packages, "version", version)
    return versions


def kinds(found) -> list[tuple[str, str]]:
    return [(finding.level, finding.kind) for finding in found]


@pytest.mark.parametrize("minor", range(10, 15))
def test_each_line_of_our_file_is_understood_and_each_package_comes_once_for_every_python(minor):
    names = [each.name for each in read_requirements(OURS, (3, minor))]
    assert {"torch", "numpy", "av", "pyworld-prebuilt"} <= set(names) and len(names) == len(set(names))


def test_a_line_for_another_python_does_not_count():
    text = 'a==1; python_version >= "3.11"\na==2; python_version < "3.11"\nb  # why\n\n# c==1\n'
    assert read_requirements(text, (3, 10)) == [Requirement("a", "2"), Requirement("b", None)]
    assert read_requirements(text, (3, 14))[0].version == "1"
    assert read_requirements('a==1; python_version == "3.11"', (3, 12)) == []
    with pytest.raises(ValueError, match="not understood"):
        read_requirements("-r other.txt", (3, 12))


def test_the_tested_versions_are_no_more_than_a_fact(installed):
    installed["torch"] += "+cu130"
    (found,) = check_packages()
    assert found.level == "info" and str(len(installed)) in found.text


def test_what_is_missing_is_one_error_and_what_differs_one_warning_with_one_command(installed):
    del installed["soxr"], installed["PyYAML"]
    installed |= {"torch": "2.1.0", "torchaudio": "2.1.0"}
    missing, others = check_packages()
    assert (missing.level, others.level) == ("error", "warning")
    assert "2 of " in missing.text and "soxr" in missing.text and "PyYAML" in missing.text
    assert "torch 2.1.0 (for 2.13.0)" in others.text and "torchaudio 2.1.0" in others.text
    assert missing.remedy == others.remedy and missing.remedy.startswith("python -m pip install -r ")


def test_pyworld_beside_the_package_that_carries_it_is_named(installed):
    installed["pyworld"] = "0.3.5"
    (_, found) = check_packages()
    assert found.level == "warning" and "uninstall -y pyworld pyworld-prebuilt" in found.remedy
    assert "pyworld-prebuilt==" in found.remedy


def test_a_requirements_file_that_is_not_there_is_an_error_of_the_check_only(tmp_path):
    from modules.doctor.guard import guarded

    (found,) = guarded("environment", "packages", check_packages, tmp_path / "requirements.txt")
    assert (found.level, found.kind) == ("warning", "unchecked") and "no such file" in found.text


@pytest.mark.parametrize(("version", "level"), [((3, 9, 1), "error"), ((3, 10, 0), "info"), ((3, 15, 0), "error")])
def test_a_python_without_wheels_is_an_error(monkeypatch, version, level):
    monkeypatch.setattr(sys, "version_info", version)
    (found,) = check_python()
    assert found.level == level and ".".join(map(str, version)) in found.text
