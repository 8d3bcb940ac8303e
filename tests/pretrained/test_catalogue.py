"""The table of pretrained files, and the script that fetches from it."""

import importlib.util
import io
import re
import zipfile
from pathlib import Path

import pytest
from download_server import BODY, SHA

from modules.encoders.base import ENCODERS, build_encoder
from modules.errors import MissingWeights, UsageError
from modules.pretrained.catalogue import PACKAGES, Package, Weights, package, package_with, weights_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script as a module, in an empty workspace."""
    spec = importlib.util.spec_from_file_location("download_script", ROOT / "pretrain" / "download.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return module


def offer(script, monkeypatch, *packages: Package) -> None:
    monkeypatch.setattr(script, "PACKAGES", packages)
    monkeypatch.setattr("modules.pretrained.catalogue.PACKAGES", packages)


def one(name: str, url: str, sha256: str | None = None) -> Package:
    return Package(name, (Weights(f"pretrain/{name}.pt", url, sha256),), 1, "MIT", "a test")


def test_names_and_files_are_unique_and_sums_are_hexadecimal():
    names = [each.name for each in PACKAGES]
    files = [file for each in PACKAGES for file in each.files]
    assert len(set(names)) == len(names) and len({file.path for file in files}) == len(files)
    for each in PACKAGES:
        assert each.size > 0 and each.licence and each.needed_by
        assert (each.archive is None) == (not each.members) and len(each.members) in (0, len(each.files))
    for file in files:
        assert file.url.startswith("https://") and re.fullmatch(r"(pretrain|logs/44k)/[^\\]+", file.path)
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{8,64}", file.sha256)


def test_every_encoders_first_file_can_be_fetched_by_name():
    for name in ENCODERS.names():
        assert package_with(ENCODERS.get(name).weights[0].path) is not None, name


@pytest.mark.parametrize("name", ENCODERS.names())
def test_an_encoder_without_its_file_names_the_command(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("modules.pretrained.find.CODE_ROOT", tmp_path)
    expected = package_with(ENCODERS.get(name).weights[0].path).name
    with pytest.raises(MissingWeights, match=rf"python pretrain/download\.py {re.escape(expected)} "):
        build_encoder(name, "cpu")


def test_the_readme_of_pretrain_lists_everything():
    text = (ROOT / "pretrain" / "README.md").read_text("utf-8")
    for each in PACKAGES:
        assert f"`{each.name}`" in text, each.name
        for file in each.files:
            assert f"`{file.path.removeprefix('pretrain/')}`" in text, file.path


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean contentvec"):
        package("contentvek")
    assert weights_of("contentvec")[0].path == "pretrain/checkpoint_best_legacy_500.pt"


def test_files_are_fetched_verified_and_kept(script, server, monkeypatch, caplog, capsys):
    caplog.set_level("INFO")
    offer(script, monkeypatch, one("a", server.url, SHA), one("b", server.url))
    assert script.main(["a", "b"]) == 0
    assert Path("pretrain/a.pt").read_bytes() == Path("pretrain/b.pt").read_bytes() == BODY
    assert "licence: MIT" in caplog.text and "b.pt: no checksum is published" in caplog.text
    assert "Next: python preprocess_flist_config.py" in capsys.readouterr().out
    n = len(server.requests)
    assert script.main(["--all"]) == 0 and len(server.requests) == n, "nothing is fetched twice"
    Path("pretrain/b.pt").write_bytes(b"changed")
    caplog.clear()
    assert script.main(["b"]) == 0 and Path("pretrain/b.pt").read_bytes() == b"changed"
    assert "--force replaces it" in caplog.text
    assert script.main(["b", "--force"]) == 0 and Path("pretrain/b.pt").read_bytes() == BODY


def test_a_file_that_changes_on_the_server_is_noticed(script, server, monkeypatch, caplog):
    offer(script, monkeypatch, one("b", server.url))
    assert script.main(["b"]) == 0
    server.body = BODY[:1000]
    assert script.main(["b", "--force"]) == 0 and "has changed since it was fetched before" in caplog.text


def test_one_failure_does_not_stop_the_others(script, server, monkeypatch, caplog):
    offer(script, monkeypatch, one("a", server.url, "0" * 64), one("b", server.url))
    assert script.main(["a", "b"]) == 1
    assert "1 of 2 failed: a" in caplog.text and Path("pretrain/b.pt").is_file() and not Path("pretrain/a.pt").exists()


def test_base_models_come_by_name_only_and_never_over_a_users(script, server, monkeypatch):
    files = (Weights("logs/44k/G_0.pth", server.url),)
    offer(script, monkeypatch, one("a", server.url), Package("base-x", files, 1, "MIT", "x"))
    assert script.main(["--all"]) == 0 and not Path("logs").exists()
    Path("logs/44k").mkdir(parents=True)
    Path("logs/44k/G_0.pth").write_bytes(b"mine")
    for flags in ([], ["--force"]):
        assert script.main(["base-x", *flags]) == 0 and Path("logs/44k/G_0.pth").read_bytes() == b"mine"


def test_of_a_zip_only_what_is_missing_is_written_and_the_zip_removed(script, server, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("v/model", b"theirs")
        archive.writestr("v/config.json", b"{}")
    server.body = packed.getvalue()
    files = (Weights("pretrain/v/model", server.url), Weights("pretrain/v/config.json", server.url))
    members = ("v/model", "v/config.json")
    offer(script, monkeypatch, Package("v", files, 1, "MIT", "x", archive=server.url, members=members))
    Path("pretrain/v").mkdir(parents=True)
    Path("pretrain/v/model").write_bytes(b"mine")
    assert script.main(["v"]) == 0
    assert Path("pretrain/v/model").read_bytes() == b"mine" and Path("pretrain/v/config.json").read_bytes() == b"{}"
    assert not Path("pretrain/v.zip").exists()


@pytest.mark.parametrize("how", ["flag", "pair", "environment"])
def test_a_mirror_takes_the_place_of_hugging_face(script, server, monkeypatch, how):
    mirror = server.url.removesuffix("/file.pt")
    offer(script, monkeypatch, one("a", "https://huggingface.co/file.pt", SHA))
    if how == "environment":
        monkeypatch.setenv("HF_ENDPOINT", mirror)
    flags = {"flag": ["--mirror", mirror], "pair": ["--mirror", f"https://huggingface.co={mirror}"], "environment": []}
    assert script.main(["a", *flags[how]]) == 0 and Path("pretrain/a.pt").is_file()
    with pytest.raises(UsageError, match="--mirror nonsense"):
        script.main(["a", "--mirror", "nonsense"])


def test_the_list_shows_what_is_here(script, capsys):
    Path("pretrain").mkdir()
    Path("pretrain/rmvpe.pt").touch()
    assert script.main(["--list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")}
    assert set(lines) == {"name"} | {each.name for each in PACKAGES}
    assert " yes " in lines["rmvpe"] and " no " in lines["contentvec"]


def test_nothing_named_is_an_error(script):
    with pytest.raises(UsageError, match="--list shows the names"):
        script.main([])
