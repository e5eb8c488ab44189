"""The configuration file: what it may say, what wins, and how a mistake is told."""

from pathlib import Path

import pytest

from edge_runtime import config, config_schema
from edge_runtime.config_schema import SCHEMA
from edge_runtime.errors import ConfigError


def parse(text: str) -> config.Config:
    return config.parse(text.encode(), Path("c.toml"))


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    found = config.load(environment={"HOME": str(tmp_path)})
    assert found.path is None
    assert found.get("model", "name") == "pocket"
    assert found.origin("model", "name") == "default"
    assert found.default_map() == {}


def test_the_file_lies_in_the_xdg_folder(tmp_path: Path) -> None:
    assert config.default_path({"HOME": "/home/a"}) == Path("/home/a/.config/edge-runtime/config.toml")
    assert config.default_path({"HOME": "/home/a", "XDG_CONFIG_HOME": str(tmp_path)}).is_relative_to(tmp_path)
    # The XDG specification says: a path that is not absolute counts as not set.
    assert config.default_path({"HOME": "/home/a", "XDG_CONFIG_HOME": "rel"}).is_relative_to("/home/a")


def test_a_value_of_the_file_wins_over_the_default_and_becomes_the_flags_default(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[runtime]\nthreads = 3\n[model]\nname = "other"\ntemperature = 1\n')
    found = config.load(file)
    assert (found.get("runtime", "threads"), found.get("model", "name")) == (3, "other")
    assert found.origin("model", "name") == str(file)
    assert found.default_map()["run"] == {"threads": 3, "model": "other", "temperature": 1}
    assert found.default_map()["bench"] == {"threads": 3, "model": "other"}


def test_an_engine_variable_wins_over_the_file() -> None:
    found = parse("[runtime]\nthreads = 3\nspin = false\n")
    assert found.engine_options({}) == {"threads": 3, "spin": False}
    assert found.default_map({})["run"] == {"threads": 3}
    assert found.engine_options({"EDGE_ENGINE_THREADS": "1"}) == {"spin": False}
    assert found.default_map({"EDGE_ENGINE_THREADS": "1"}) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[modle]\n", "c.toml: unknown section 'modle'. Did you mean [model]?"),
        (
            "[zzz]\n",
            "c.toml: unknown section 'zzz'. Known: [runtime], [model], [router], [budget], "
            "[residency], [[endpoint]], [[rule]].",
        ),
        (
            "[model]\ntemprature = 1\n",
            "c.toml: unknown key 'temprature' in [model]. Did you mean temperature?",
        ),
        ("[model]\nthreads = 1\n", "c.toml: unknown key 'threads' in [model]. It belongs under [runtime]."),
        ("threads = 1\n", "c.toml: the key 'threads' stands outside a section; put it under [runtime]."),
        ("model = 1\n", "c.toml: model must be one table: [model]."),
        (
            '[runtime]\nthreads = "two"\n',
            "threads in [runtime] must be a whole number, but it is 'two' (str).",
        ),
        (
            "[runtime]\nthreads = true\n",
            "threads in [runtime] must be a whole number, but it is True (bool).",
        ),
        ("[runtime]\nthreads = 0\n", "threads in [runtime] must be from 1 to 1,024, but it is 0 (int)."),
        ("[model]\ntop_p = nan\n", "top_p in [model] must be from 0 to 1, but it is nan (float)."),
        ("[model\n", "c.toml is not valid TOML: "),
    ],
)
def test_a_mistake_names_the_file_the_key_and_the_way_out(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert expected in str(caught.value)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist\. Write one with: .* config init"):
        config.load(tmp_path / "nowhere.toml")


def test_a_file_that_is_not_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not UTF-8 text: byte 1 "):
        config.parse(b"a\xff", Path("c.toml"))


def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path)


def test_the_template_is_a_valid_file_and_so_is_every_line_of_it() -> None:
    assert parse(config.template()).default_map() == {}
    bare = [
        line[2:] if " = " in line or line.startswith("# [[") else line
        for line in config.template().splitlines()
    ]
    found = parse("\n".join(bare))
    assert set(found.given) == {section.name for section in SCHEMA if not section.repeated}


def test_defaults_keep_to_their_own_limits() -> None:
    for section in SCHEMA:
        for key in section.keys:
            assert key.default is not None or key.unset, (
                f"{section.name}.{key.name} has no default and no reason"
            )
            if key.default is not None:
                assert config_schema.problem_with(key, key.default) is None


def test_the_documentation_is_printed_from_the_schema(repository: Path) -> None:
    page = (repository / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == config_schema.render_markdown(), "run: make docs"


def test_the_engine_keys_are_the_engines_options_and_tell_its_defaults() -> None:
    from edge_runtime.engines.tuning import SessionTuning

    keys = {key.name: key for key in SCHEMA[0].keys}
    assert set(keys) == set(SessionTuning.__dataclass_fields__)
    for name in ("spin_us", "dynamic_block", "prefill_chunk", "kv_step"):
        assert keys[name].unset == str(SessionTuning.__dataclass_fields__[name].default)
