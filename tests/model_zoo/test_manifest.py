"""The manifest: one text for one content, fixed keys, and errors that say which key and what was expected."""

import copy
import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_zoo import Manifest, ManifestError
from model_zoo.manifest import FORMAT, check_member_name, read_exact

COMPLETE: dict[str, Any] = {
    "format": 1,
    "id": "smollm2:135m",
    "revision": "0123456789abcdef",
    "architecture": "llama",
    "quantization": {
        "scheme": "int4",
        "method": "hqq",
        "bits": 4,
        "block_size": 64,
        "head_bits": 8,
        "head_block_size": 32,
        "accuracy_level": 4,
    },
    "context_length": 2048,
    "vocab_size": 49_152,
    "parameters": 135_000_000,
    "engine": "onnx",
    "engine_options": {"graph": "fused", "kv_shapes": [[3, 64], None]},
    "files": {"model.onnx": {"size": 3, "sha256": "a" * 64}, "docs/LICENSE": {"size": 0, "sha256": "b" * 64}},
    "memory": {"weights_bytes": 1, "kv_bytes_per_token": 2, "runtime_bytes": 3},
    "licence": {
        "id": "Apache-2.0",
        "name": "Apache",
        "url": "https://example.org",
        "attribution": ["Someone"],
    },
    "source": {
        "repository": "example/model",
        "revision": "main",
        "sha256": "c" * 64,
        "exporter": "quantize",
        "exporter_version": "0.1.0",
        "created": "2026-01-31T12:00:00Z",
    },
    "generation": {
        "eos_token_ids": [2, 3],
        "bos_token_id": 1,
        "pad_token_id": 0,
        "defaults": {
            "temperature": 0.7,
            "top_k": 40,
            "top_p": 0.9,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "presence_penalty": 0.0,
            "frequency_penalty": -0.5,
            "max_tokens": 64,
            "stop": ["\n"],
        },
    },
    "evaluation": {"frames": {"accuracy": 0.5}, "note": "é"},
}


def changed(path: str, value: Any = None, *, delete: bool = False) -> dict[str, Any]:
    """COMPLETE with one key, named by a path with slashes, set or deleted."""
    data = copy.deepcopy(COMPLETE)
    *parents, last = path.split("|")
    table = data
    for parent in parents:
        table = table[parent]
    if delete:
        del table[last]
    else:
        table[last] = value
    return data


def refusal(data: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        Manifest.from_json(json.dumps(data))
    return str(caught.value)


def test_a_complete_manifest_survives_a_round_trip() -> None:
    manifest = Manifest.from_dict(COMPLETE)
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert json.loads(manifest.to_json()) == COMPLETE
    assert manifest.generation.eos_token_ids == (2, 3)
    assert manifest.files["docs/LICENSE"].size == 0


def test_the_text_is_the_same_whatever_the_order_of_the_keys_was() -> None:
    backwards = json.loads(json.dumps(COMPLETE), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert Manifest.from_dict(backwards).to_json() == Manifest.from_dict(COMPLETE).to_json()
    text = Manifest.from_dict(COMPLETE).to_json()
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")
    assert "é" in text, "UTF-8, not escapes"
    assert text == json.dumps(COMPLETE, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    # lone surrogates have no UTF-8
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.printable), inner, max_size=3),
    max_leaves=8,
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
COUNTS = st.integers(0, 2**50)
NAMES = st.from_regex(r"\A[a-z]{1,8}(\.[a-z]{1,4}){0,2}(/[a-z]{1,8})?\Z")


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    data = copy.deepcopy(COMPLETE)
    data["architecture"] = draw(TEXTS)
    data["parameters"] = draw(COUNTS)
    data["engine_options"] = draw(st.dictionaries(TEXTS, JSON_VALUES, max_size=3))
    data["evaluation"] = draw(st.dictionaries(TEXTS, JSON_VALUES, max_size=3))
    data["licence"]["attribution"] = draw(st.lists(TEXTS, max_size=3))
    data["generation"]["eos_token_ids"] = draw(st.lists(COUNTS, max_size=3))
    entry = st.fixed_dictionaries({"size": COUNTS, "sha256": st.from_regex(r"\A[0-9a-f]{64}\Z")})
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    kept = [name for name in names if not any(other.startswith(name + "/") for other in names)]
    data["files"] = {name: draw(entry) for name in kept}
    for section, key in (
        ("quantization", "block_size"),
        ("source", "sha256"),
        ("generation", "bos_token_id"),
    ):
        if draw(st.booleans()):
            del data[section][key]
    return data


@given(manifests())
def test_any_manifest_survives_a_round_trip(data: dict[str, Any]) -> None:
    manifest = Manifest.from_dict(data).with_revision()
    raw = manifest.to_json().encode("utf-8")
    again = read_exact(raw, "manifest.json")
    assert again == manifest
    assert again.to_json().encode("utf-8") == raw
    assert {**json.loads(raw), "revision": ""} == {**data, "revision": ""}


@given(st.data())
def test_any_flipped_bit_of_a_manifest_is_noticed(data: st.DataObject) -> None:
    raw = bytearray(Manifest.from_dict(COMPLETE).with_revision().to_json().encode("utf-8"))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ManifestError):
        read_exact(bytes(raw), "manifest.json")


def test_a_manifest_that_was_edited_says_so() -> None:
    text = Manifest.from_dict(COMPLETE).with_revision().to_json()
    with pytest.raises(
        ManifestError, match=r"m\.json: was changed after it was written: its content gives the"
    ) as caught:
        read_exact(text.replace("2048", "4096").encode(), "m.json")
    assert "Install the package again; to change a manifest on purpose use model_zoo.amend" in str(
        caught.value
    )
    with pytest.raises(ManifestError, match="it is not laid out as manifests are written"):
        read_exact(text.rstrip("\n").encode(), "m.json")


def test_the_revision_follows_everything_but_itself() -> None:
    manifest = Manifest.from_dict(COMPLETE)
    revision = manifest.with_revision().revision
    assert re.fullmatch("[0-9a-f]{16}", revision)
    assert Manifest.from_dict(changed("revision", "f" * 16)).with_revision().revision == revision
    assert Manifest.from_dict(changed("evaluation|note", "e")).with_revision().revision != revision
    assert Manifest.from_dict(changed("files|model.onnx|size", 4)).with_revision().revision != revision


@pytest.mark.parametrize(
    "path",
    ["id", "revision", "files", "memory|weights_bytes", "quantization|scheme", "licence|attribution",
     "source|created", "generation|eos_token_ids", "files|model.onnx|sha256", "format"],
)  # fmt: skip
def test_a_missing_key_is_named_with_what_it_must_be(path: str) -> None:
    message = refusal(changed(path, delete=True))
    shown = path.replace("files|model.onnx|", 'files["model.onnx"].').replace("|", ".")
    assert message.startswith(f"manifest.json: {shown}: is missing; it must be ")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("id", "a/b", 'id: is "a/b" but must be a name of letters, digits'),
        ("id", "x\n", 'id: is "x\\n" but must be a name of letters'),
        ("revision", "main", 'revision: is "main" but must be 16 lower-case hexadecimal digits'),
        ("context_length", 0, "context_length: is 0 but must be a whole number, 1 or more"),
        ("context_length", "2048", 'context_length: is "2048" but must be a whole number'),
        ("parameters", True, "parameters: is true but must be a whole number, 0 or more"),
        ("engine", "tvm", 'engine: is "tvm" but must be "onnx" or "mlc"'),
        ("quantization|bits", 64, "quantization.bits: is 64 but must be a whole number of bits from 1 to 32"),
        ("quantization|blocksize", 1,
         "quantization.blocksize: is an unknown key; did you mean 'block_size'?"),
        ("zzz", 1, "zzz: is an unknown key; known keys are architecture, context_length, engine,"),
        ("files", {}, "files: is {} but must be a table of path to size and SHA-256, with at least one file"),
        ("files|model.onnx|size", -1,
         'files["model.onnx"].size: is -1 but must be a whole number, 0 or more'),
        ("files|model.onnx|sha256", "A" * 64, 'files["model.onnx"].sha256: is "AAAA'),
        ("files|model.onnx", 3, 'files["model.onnx"]: is 3 but must be a table with size and sha256'),
        ("licence|attribution", "x", 'licence.attribution: is "x" but must be a list of texts'),
        ("licence|url", "javascript:1",
         "licence.url: is \"javascript:1\" but must be an address that starts with"),
        ("source|created", "today",
         'source.created: is "today" but must be a time in UTC such as 2026-01-31T'),
        ("source|sha256", None, "source.sha256: is null but must be 64 lower-case hexadecimal digits"),
        ("generation|eos_token_ids", [2,
         "x"], 'generation.eos_token_ids[1]: is "x" but must be a whole number'),
        ("generation|defaults|temprature", 1, "temprature: is an unknown key; did you mean 'temperature'?"),
        ("generation|defaults|top_p", 1.5,
         "generation.defaults.top_p: is 1.5 but must be a number from 0 to 1"),
        ("evaluation", [], "evaluation: is [] but must be a table of figures"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_key_and_what_was_expected(
    path: str, value: Any, expected: str
) -> None:
    message = refusal(changed(path, value))
    assert message.startswith("manifest.json: ")
    assert expected in message


def test_a_newer_format_says_to_upgrade() -> None:
    data = {"format": FORMAT + 1, "whatever": "is new"}
    assert refusal(data) == (
        f"manifest.json: format is {FORMAT + 1} but this release reads formats up to {FORMAT}. "
        "Upgrade it with: pip install --upgrade edge-runtime"
    )
    assert "format: is 0 but must be the format version, 1" in refusal(changed("format", 0))


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b'{"a": 1, "a": 2}', b'{"a": NaN}', b"[" * 100_000, b'{"a": Infinity}'],
)
def test_what_is_not_json_is_refused_with_the_way_out(text: bytes) -> None:
    with pytest.raises(
        ManifestError, match=r"(?s)x\.json: is not valid JSON: .*the package is damaged: install it again"
    ):
        Manifest.from_json(text, where="x.json")


@pytest.mark.parametrize("text", [b"[]", b"null", b"3", b'"x"'])
def test_json_that_is_no_table_is_refused(text: bytes) -> None:
    with pytest.raises(ManifestError, match=r"the manifest: is .* but must be a table"):
        Manifest.from_json(text)


def test_an_endless_manifest_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ManifestError, match="more than 8388608 is refused"):
        Manifest.from_json(b" " * (8 * 1024 * 1024 + 1))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "must not be empty"),
        ("/etc/passwd", "must be relative"),
        ("../x", "must not contain '..'"),
        ("a/../../x", "must not contain '..'"),
        ("a//b", "an empty part"),
        ("a/", "an empty part"),
        ("./a", "must not contain"),
        ("a\\b", "a backslash"),
        ("C:x", "a colon"),
        ("a\nb", "a control character"),
        ("a" * 256, "longer than 255 bytes"),
        ("manifest.json", "must not be the manifest"),
        ("manifest.sig", "must not be the manifest or its signature"),
    ],
)
def test_a_path_that_could_leave_the_package_is_refused(name: str, problem: str) -> None:
    assert problem in (check_member_name(name) or "")
    data = changed(f"files|{name}", {"size": 0, "sha256": "a" * 64})
    assert refusal(data) == f"manifest.json: files[{json.dumps(name)}]: the path {check_member_name(name)}"


def test_a_file_below_another_file_is_refused() -> None:
    data = changed("files|model.onnx/x", {"size": 0, "sha256": "a" * 64})
    assert 'files["model.onnx/x"]: the path lies below a path that is itself listed' in refusal(data)


def test_values_that_are_not_json_cannot_be_written() -> None:
    manifest = Manifest.from_dict(changed("evaluation", {"loss": float("nan")}))
    with pytest.raises(ManifestError, match="a value cannot be written as JSON"):
        manifest.to_json()


def test_memory_adds_up() -> None:
    assert Manifest.from_dict(COMPLETE).memory.total(10) == 1 + 2 * 10 + 3


def test_the_schema_fixes_every_key_and_describes_what_it_expects() -> None:
    import model_zoo

    schema = json.loads(
        Path(model_zoo.__file__).with_name("manifest.schema.json").read_text(encoding="utf-8")
    )
    free = {"engine_options", "evaluation"}

    def walk(node: dict[str, Any], where: str) -> None:
        node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        assert where == "manifest" or node.get("description"), where
        if node.get("type") == "object" and where not in free:
            assert "additionalProperties" in node, where
            for key, child in node.get("properties", {}).items():
                walk(child, key)

    walk(schema, "manifest")
