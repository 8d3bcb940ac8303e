"""What can be refused before torch is loaded is what the loaded parts would refuse."""

import pytest

from modules.encoders.base import ENCODERS
from modules.errors import MissingWeights, UsageError
from modules.f0.base import PREDICTORS, predictor_identity
from modules.pretrained.find import require
from modules.pretrained.needs import require_parts
from modules.registry import declared_names


def refuses(call) -> bool:
    try:
        call()
    except (MissingWeights, UsageError):
        return True
    return False


def test_names_are_read_from_the_files_as_they_are_registered():
    assert declared_names("modules.encoders") == ENCODERS.names()
    assert declared_names("modules.f0") == PREDICTORS.names()


@pytest.mark.parametrize("name", ENCODERS.names())
def test_an_encoder_is_refused_exactly_where_its_files_are_missing(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert refuses(lambda: require_parts(name)) == refuses(lambda: require(*ENCODERS.get(name).weights))
    for weights in ENCODERS.get(name).weights[:1]:
        path = tmp_path / weights.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    require_parts(name)


@pytest.mark.parametrize("name", [name for name in PREDICTORS.names() if name != "swift"])
def test_a_predictor_is_refused_exactly_where_its_file_is_missing(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert refuses(lambda: require_parts(predictor=name)) == refuses(lambda: predictor_identity(name))


def test_unknown_names_get_the_nearest_and_all_missing_files_are_named_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"speech encoder 'vec768'\. Did you mean vec768l\w+\? Known: cnhubertlarge"):
        require_parts("vec768", "fcpe")
    with pytest.raises(UsageError, match=r"unknown f0 predictor 'rmvp'\. Did you mean rmvpe\?"):
        require_parts("vec768l12", "rmvp")
    with pytest.raises(MissingWeights, match=r"legacy_500.pt: not found.*; pretrain/rmvpe.pt: not found"):
        require_parts("vec768l12", "rmvpe")


def test_a_package_whose_names_cannot_be_read_is_left_to_the_registry(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__init__.py").touch()
    (tmp_path / "parts/one.py").write_text(
        "PARTS.register('a', 'b')(print)\nfor x in ('c', 'd'):\n    P.register(x)(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert declared_names("parts") == ["a", "b", "c", "d"]
    (tmp_path / "parts/two.py").write_text("PARTS.register(''.join('ab'))(print)")
    assert declared_names("parts") is None
