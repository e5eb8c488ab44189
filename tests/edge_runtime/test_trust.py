"""Whose signature a model needs before it runs: the configuration, the trusted keys, and what is said."""

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import make_package

from edge_runtime.cli import cli
from edge_runtime.config import Config, defaults
from edge_runtime.errors import ConfigError, ModelZooError
from edge_runtime.model import LoadedModel
from edge_runtime.runtime import Runtime
from edge_runtime.trust import (
    add_trusted_key,
    read_key,
    remove_trusted_key,
    signature_policy,
    trusted_keys,
    trusted_keys_folder,
)
from model_zoo import (
    KeyFileError,
    PrivateKey,
    SignatureError,
    SignaturePolicy,
    StoreError,
    last_used,
    sign_package,
)
from model_zoo.prune import prune

MAKER = PrivateKey.generate("Maker")
OTHER = PrivateKey.generate("Other")


def configured(**model: object) -> Config:
    return Config(path=None, given={"model": model, "runtime": {"threads": 1}}, tables={})


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_package(tmp_path_factory.mktemp("packages") / "tiny")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_package(tmp_path_factory.mktemp("signed") / "tiny")
    sign_package(folder, MAKER)
    return folder


# --- the policy ---------------------------------------------------------------------------------------------


def test_by_default_nothing_is_required_and_nobody_is_trusted(home: Path) -> None:
    assert signature_policy(defaults()) == SignaturePolicy("warn", {})
    assert list(home.iterdir()) == [], "asking creates nothing"


def test_trusted_keys_come_from_the_folder_and_from_the_configuration(home: Path) -> None:
    folder = trusted_keys_folder()
    assert folder == home / ".config" / "edge-runtime" / "trusted-keys"
    add_trusted_key(MAKER.public, folder, {})
    policy = signature_policy(configured(signatures="required", trusted_keys=[OTHER.public.line]))
    assert policy.level == "required"
    assert {key.name for key in policy.trusted.values()} == {"Maker", "Other"}
    assert set(policy.trusted) == {MAKER.public.id, OTHER.public.id}


def test_a_wrong_line_in_the_configuration_is_told_with_its_number() -> None:
    with pytest.raises(KeyFileError, match=r"^\[model\] trusted_keys, number 2: a public key is one line"):
        trusted_keys(configured(trusted_keys=[MAKER.public.line, "ssh-ed25519 AAAA"]))


def test_an_unknown_level_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    from edge_runtime.config import load

    path = tmp_path / "config.toml"
    path.write_text('[model]\nsignatures = "always"\n')
    with pytest.raises(ConfigError, match=r"signatures in .* must be one of 'any', 'warn', 'required'"):
        load(path)


# --- trusting and no longer ---------------------------------------------------------------------------------


def test_a_key_is_trusted_until_it_is_removed_by_name_by_id_or_by_file(home: Path, tmp_path: Path) -> None:
    folder = trusted_keys_folder()
    file = tmp_path / "maker.pub"
    file.write_text(MAKER.public.line)
    for named in ("Maker", MAKER.public.id, MAKER.public.id[:8].upper(), str(file), MAKER.public.line):
        add_trusted_key(read_key(str(file)), folder, trusted_keys(defaults()))
        assert set(trusted_keys(defaults())) == {MAKER.public.id}
        assert remove_trusted_key(named, folder) == MAKER.public
        assert trusted_keys(defaults()) == {}
        assert list(folder.iterdir()) == []


def test_trusting_again_changes_the_name_and_a_file_put_there_by_hand_counts(home: Path) -> None:
    folder = trusted_keys_folder()
    folder.mkdir(parents=True)
    (folder / "by-hand.pub").write_text(MAKER.public.line)
    assert [key.name for key in trusted_keys(defaults()).values()] == ["Maker"]
    add_trusted_key(read_key(MAKER.public.line, "Renamed"), folder, trusted_keys(defaults()))
    assert [key.name for key in trusted_keys(defaults()).values()] == ["Renamed"]
    assert [path.name for path in folder.iterdir()] == [f"{MAKER.public.id}.pub"]


def test_two_keys_of_one_name_are_refused(home: Path) -> None:
    folder = trusted_keys_folder()
    add_trusted_key(MAKER.public, folder, {})
    with pytest.raises(KeyFileError) as caught:
        add_trusted_key(read_key(OTHER.public.line, "Maker"), folder, trusted_keys(defaults()))
    assert MAKER.public.id[:16] in str(caught.value)
    assert OTHER.public.id[:16] in str(caught.value)
    assert "Give this one another name (--name)" in str(caught.value)


def test_what_names_no_single_key_is_refused_with_what_there_is(home: Path) -> None:
    folder = trusted_keys_folder()
    add_trusted_key(MAKER.public, folder, {})
    for text in ("Nobody", MAKER.public.id[:7], OTHER.public.line):
        with pytest.raises(
            KeyFileError, match=rf"no key is meant by that; .*Maker \({MAKER.public.id[:16]}\)"
        ):
            remove_trusted_key(text, folder)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file")
    with pytest.raises(StoreError, match=r"\.pub: cannot write it"):
        add_trusted_key(MAKER.public, tmp_path / "config" / "trusted-keys", {})


# --- running ------------------------------------------------------------------------------------------------


def test_an_unsigned_package_runs_and_says_so_unless_a_signature_is_required(
    package: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        with Runtime.open(package, config=configured(signatures="any")):
            assert caplog.messages == []
        with Runtime.open(package) as runtime:
            assert caplog.messages == ["tiny: not signed; who made it cannot be told"]
            assert runtime.model.signature is not None
            assert runtime.model.signature.status == "unsigned"
    with pytest.raises(SignatureError, match='not signed, and signatures = "required" allows only'):
        Runtime.open(package, config=configured(signatures="required"))


def test_a_package_of_a_trusted_maker_runs_without_a_word(
    signed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    required = {"signatures": "required"}
    with pytest.raises(SignatureError, match="signed by a key that is not trusted"):
        Runtime.open(signed, config=configured(**required))
    trusting = configured(**required, trusted_keys=[MAKER.public.line])
    with caplog.at_level(logging.WARNING), Runtime.open(signed, config=trusting) as runtime:
        assert runtime.answer("turn off the lights", max_tokens=2).model_id == "tiny"
    assert caplog.messages == []


def test_a_bad_signature_is_refused_before_any_other_file_is_read(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "tiny")
    sign_package(folder, MAKER)
    content = (folder / "manifest.sig").read_text()
    (folder / "manifest.sig").write_text(content.replace(MAKER.public.id, OTHER.public.id))
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelZooError, match="its signature is bad: its key id is not that of its key"):
        LoadedModel.open(folder)


def test_the_command_line_says_it_on_stderr_and_obeys_the_configuration(
    package: Path, tmp_path: Path
) -> None:
    def run(*args: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(
            cli, [*args, "run", "-m", str(package), "--max-tokens", "2", "hi"], prog_name="edge-runtime"
        )
        return result.exit_code, result.stdout, result.stderr

    code, _, err = run()
    assert code == 0
    assert "tiny: not signed; who made it cannot be told" in err
    config = tmp_path / "config.toml"
    config.write_text('[model]\nsignatures = "required"\n')
    code, out, err = run("--config", str(config))
    assert (code, out) == (4, "")
    assert "not signed, and signatures" in err


def test_a_loaded_model_is_in_use_until_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "models"
    monkeypatch.setenv("EDGE_MODELS_DIR", str(models))
    folder = make_package(models / "tiny")
    with LoadedModel.open("tiny", threads=1):
        assert last_used(folder) is not None
        result = prune(unused_for_s=0, clock=lambda: 4e9)
        assert [item.why for item in result.kept] == ["in use by a running process"]
    assert [item.path for item in prune(unused_for_s=0, clock=lambda: 4e9).removed] == [folder]
