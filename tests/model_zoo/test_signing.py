"""Signatures: whose they are, what a policy makes of them, and that no byte can be changed unnoticed."""

import base64
import hashlib
import json
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_zoo import (
    KeyFileError,
    ModelZooError,
    PrivateKey,
    PublicKey,
    SignatureError,
    SignaturePolicy,
    StoreError,
    check_package,
    check_registry,
    inspect_package,
    open_package,
    pack,
    read_public_keys,
    sign_file,
    sign_package,
    signing,
    unpack,
)

Make = Callable[..., Path]

# RFC 8032 section 7.1, TEST 2: secret key, public key, message, signature.
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
MESSAGE = b"\x72"
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def key_of(secret: bytes = SECRET, name: str = "Maker") -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return PrivateKey(Ed25519PrivateKey.from_private_bytes(secret), name)


MAKER = key_of()
STRANGER = key_of(bytes(range(32)), "Stranger")
TRUSTING = SignaturePolicy("required", {MAKER.public.id: MAKER.public})


KEYS = st.sampled_from(["format", "algorithm", "key_id", "public_key", "signature", "more"])
JSON = (
    st.none()
    | st.booleans()
    | st.integers(0, 2)
    | st.text()
    | st.sampled_from(["ed25519", MAKER.public.id, "AAAA"])
)


def as_json(value: object) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True).encode()


@pytest.fixture
def signed(models: Path, make: Make) -> Path:
    folder = make(models / "tiny", weights=b"weights")
    sign_package(folder, MAKER)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# --- the algorithm and the format ---------------------------------------------------------------------------


def test_the_signature_is_that_of_rfc_8032() -> None:
    assert MAKER.public.raw == PUBLIC
    assert MAKER.sign(MESSAGE) == SIGNATURE
    assert PublicKey(PUBLIC).verify(SIGNATURE, MESSAGE)
    assert not PublicKey(PUBLIC).verify(SIGNATURE, MESSAGE + b" ")
    assert not PublicKey(bytes(31) + b"\xff").verify(SIGNATURE, MESSAGE), "not the encoding of a point"


def test_the_signature_file_is_the_documented_one() -> None:
    content = signing.make_signature(MESSAGE, MAKER)
    assert json.loads(content) == {
        "format": 1,
        "algorithm": "ed25519",
        "key_id": hashlib.sha256(PUBLIC).hexdigest(),
        "public_key": base64.b64encode(PUBLIC).decode(),
        "signature": base64.b64encode(SIGNATURE).decode(),
    }
    assert content == (json.dumps(json.loads(content), indent=2, sort_keys=True) + "\n").encode()


def test_what_is_known_of_a_signature() -> None:
    content = signing.make_signature(b"manifest", MAKER)
    states = [
        signing.signature_state(b"manifest", None, {}),
        signing.signature_state(b"manifest", content, {}),
        signing.signature_state(b"manifest", content, TRUSTING.trusted),
        signing.signature_state(b"manifes", content, TRUSTING.trusted),
    ]
    assert [state.status for state in states] == ["unsigned", "unknown", "trusted", "bad"]
    assert [state.signer for state in states] == [None, None, "Maker", None]
    assert states[2].text == f"signed by Maker (key {MAKER.public.id[:16]})"
    assert states[2].to_json() == {
        "status": "trusted",
        "key_id": MAKER.public.id,
        "signer": "Maker",
        "problem": None,
    }


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON"),
        (b"[" * 3000, "is not JSON"),
        (b"7", "is not a table of values"),
        (b"{}", "is of format None and algorithm None; this release knows 1 and 'ed25519'"),
        (b'{"format": 1, "algorithm": "rsa"}', "algorithm 'rsa'"),
        (
            b'{"format": 1, "algorithm": "ed25519"}',
            "public_key in the signature file is missing or not base64",
        ),
        (bytes(5000), "has more than 4096 bytes"),
    ],
)
def test_a_file_that_is_no_signature_is_bad_and_says_why(content: bytes, problem: str) -> None:
    state = signing.signature_state(b"manifest", content, {})
    assert state.status == "bad"
    assert problem in (state.problem or "")


@given(st.binary(max_size=300) | st.recursive(JSON, lambda inner: st.dictionaries(KEYS, inner)).map(as_json))
def test_whatever_stands_in_a_signature_file_is_judged_and_never_an_accident(content: bytes) -> None:
    assert signing.signature_state(b"manifest", content, TRUSTING.trusted).status == "bad"


# --- policies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", signing.LEVELS)
def test_a_bad_signature_is_refused_whatever_the_policy(level: signing.Level) -> None:
    content = signing.make_signature(b"manifest", MAKER)
    policy = SignaturePolicy(level, TRUSTING.trusted)
    with pytest.raises(SignatureError) as caught:
        check_package(b"another", content, policy, "tiny")
    assert str(caught.value) == (
        "tiny: its signature is bad: it does not fit what was signed. Something was changed after it was "
        "signed: fetch it again from its maker"
    )
    with pytest.raises(SignatureError, match=r"registry\.toml: its signature is bad"):
        check_registry(b"another", content, policy, "registry.toml")


@pytest.mark.parametrize("level", ["any", "warn"])
def test_less_strict_policies_take_what_nobody_signed(level: signing.Level) -> None:
    policy = SignaturePolicy(level)
    unsigned = check_package(b"manifest", None, policy)
    unknown = check_package(b"manifest", signing.make_signature(b"manifest", MAKER), policy)
    warnings = [policy.warning(state, "tiny") for state in (unsigned, unknown)]
    if level == "any":
        assert warnings == [None, None]
    else:
        assert warnings[0] == "tiny: not signed; who made it cannot be told"
        assert f"tiny: signed by a key that is not trusted ({MAKER.public.id}); trust it" in str(warnings[1])


def test_required_takes_what_a_trusted_key_signed_and_nothing_else() -> None:
    assert check_package(b"m", signing.make_signature(b"m", MAKER), TRUSTING).status == "trusted"
    with pytest.raises(SignatureError) as caught:
        check_package(b"m", None, TRUSTING, "tiny")
    assert str(caught.value) == (
        'tiny: not signed, and signatures = "required" allows only what a trusted key signed. Have its maker '
        "sign it, or sign it yourself: edge-runtime models sign NAME --key FILE"
    )
    with pytest.raises(SignatureError) as caught:
        check_package(b"m", signing.make_signature(b"m", STRANGER), TRUSTING, "tiny")
    assert STRANGER.public.id in str(caught.value)
    assert f"edge-runtime models trust '{PublicKey(STRANGER.public.raw).line} NAME'" in str(caught.value)


# --- packages -----------------------------------------------------------------------------------------------


def test_a_signed_package_opens_and_says_whose_it_is(signed: Path) -> None:
    package = open_package("tiny", policy=TRUSTING)
    assert (package.signature.status, package.signature.signer) == ("trusted", "Maker")
    assert open_package("tiny").signature.status == "unknown"
    assert inspect_package("tiny").verify(TRUSTING).signer == "Maker"


def test_an_unsigned_package_runs_as_the_policy_allows(models: Path, make: Make) -> None:
    make(models / "tiny")
    assert open_package("tiny").signature.status == "unsigned"
    assert open_package("tiny", policy=SignaturePolicy("warn")).signature.status == "unsigned"
    with pytest.raises(SignatureError, match=r"^tiny: not signed, and signatures = \"required\""):
        open_package("tiny", policy=TRUSTING)
    with pytest.raises(SignatureError):
        inspect_package("tiny").verify(TRUSTING)


def test_a_shipped_package_is_part_of_the_installation(models: Path, tmp_path: Path, make: Make) -> None:
    folder = make(tmp_path / "shipped" / "pocket")
    assert open_package("pocket", policy=TRUSTING).signature.status == "shipped"
    assert inspect_package("pocket").verify(TRUSTING).text == "part of the installation, not signed by itself"
    sign_package(folder, STRANGER)
    (folder / "manifest.sig").write_bytes(signing.make_signature(b"another", STRANGER))
    with pytest.raises(SignatureError, match="its signature is bad"):
        open_package("pocket")


def test_signing_again_replaces_the_signature_and_leaves_nothing_else(signed: Path) -> None:
    before = sorted(path.name for path in signed.iterdir())
    sign_package(signed, STRANGER)
    assert sorted(path.name for path in signed.iterdir()) == before
    assert not [path for path in signed.parent.iterdir() if "partial" in path.name]
    assert open_package("tiny").signature.key_id == STRANGER.public.id


def test_a_signature_never_lands_on_a_package_that_came_meanwhile(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(models / "tiny", weights=b"old")
    render = signing.make_signature

    def swapped_meanwhile(message: bytes, key: PrivateKey) -> bytes:
        make(folder, weights=b"new", overwrite=True)
        return render(message, key)

    monkeypatch.setattr(signing, "make_signature", swapped_meanwhile)
    with pytest.raises(StoreError, match=r"tiny/manifest\.sig: cannot write it: No such file or directory"):
        sign_package(folder, MAKER)
    assert (open_package("tiny").path / "model.onnx").read_bytes() == b"new"
    assert open_package("tiny").signature.status == "unsigned"
    assert not [path for path in models.iterdir() if "partial" in path.name]


def test_a_swap_of_a_signed_for_another_signed_package_is_never_seen_as_tampering(
    models: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(models / "tiny", weights=b"old")
    sign_package(folder, MAKER)
    newer = make(models / "newer", weights=b"new", id="tiny")
    sign_package(newer, MAKER)
    read = signing.read_signature
    swaps = iter([True, False, False])

    def swapped_meanwhile(path: Path) -> bytes | None:
        if next(swaps):
            folder.rename(models / "aside")
            newer.rename(folder)
        return read(path)

    monkeypatch.setattr("model_zoo.package.read_signature", swapped_meanwhile)
    package = open_package("tiny", policy=TRUSTING)
    assert (package.path / "model.onnx").read_bytes() == b"new"
    assert package.signature.status == "trusted"


# --- every byte ---------------------------------------------------------------------------------------------


@contextmanager
def flipped(path: Path, position: int) -> Iterator[None]:
    """One bit changed in place (a file written anew is flushed by some file systems, which takes long)."""
    with path.open("r+b", buffering=0) as file:

        def flip() -> None:
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1 << position % 8]))

        flip()
        yield
        flip()


def places(folder: Path) -> list[tuple[str, int]]:
    return [
        (path.relative_to(folder).as_posix(), position)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for position in range(path.stat().st_size)
    ]


def test_a_change_of_any_byte_of_a_signed_package_is_refused(signed: Path) -> None:
    manifest, signature = (signed / name for name in ("manifest.json", "manifest.sig"))
    raw = {path: path.read_bytes() for path in (manifest, signature)}
    tried = 0
    for name, position in places(signed):
        path = signed / name
        with flipped(path, position):
            if path in raw:  # what an opening looks at first, without the rest of it
                now = {**raw, path: path.read_bytes()}
                assert (
                    signing.signature_state(now[manifest], now[signature], TRUSTING.trusted).status == "bad"
                )
            else:
                with pytest.raises(ModelZooError):
                    open_package("tiny", policy=SignaturePolicy("any"))
        tried += 1
    assert tried == sum(path.stat().st_size for path in signed.rglob("*") if path.is_file()) > 1500
    inspect_package("tiny").verify(TRUSTING)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_other_changes_of_a_signed_package_are_refused_when_it_is_opened(
    signed: Path, data: st.DataObject
) -> None:
    """Bytes changed to any value, cut out or put in, anywhere; a package is refused by whoever opens it."""
    name, position = data.draw(st.sampled_from(places(signed)))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.binary(min_size=0 if cut else 1, max_size=3))
    path = signed / name
    whole = path.read_bytes()
    changed = whole[:position] + put + whole[position + cut :]
    if changed == whole:
        return
    path.write_bytes(changed)
    try:
        with pytest.raises(ModelZooError):
            open_package("tiny", policy=SignaturePolicy("any"))
    finally:
        path.write_bytes(whole)
    assert open_package("tiny", policy=TRUSTING).signature.status == "trusted"


def test_a_change_of_any_byte_of_an_edge_file_is_refused_or_changes_nothing(
    signed: Path, tmp_path: Path, cache: None
) -> None:
    """A zip holds bytes without a meaning for us (times, names said twice): then the content is the same.

    Of the manifest's bytes, which the test above has tried, every fortieth."""
    path = pack(signed, tmp_path / "tiny.edge")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
        inside = [
            range(start, start + info.file_size)
            for info in archive.infolist()
            for start in [info.header_offset + 30 + len(info.filename)]
        ]
    meaningful = {position for part in inside for position in part}
    manifest = inside[0]
    accepted = []
    for position in {*range(len(whole))} - {*manifest} | {*manifest[::40]}:
        with flipped(path, position):
            try:
                inspect_package(path).verify(TRUSTING)
            except ModelZooError:
                continue
            accepted.append(position)
            with zipfile.ZipFile(path) as archive:
                assert {info.filename: archive.read(info) for info in archive.infolist()} == content
    assert not meaningful.intersection(accepted), "bytes of the manifest, the signature and the files"


def test_an_edge_file_without_its_signature_is_not_helped_by_an_earlier_copy(
    signed: Path, tmp_path: Path, cache: None
) -> None:
    with_signature = pack(signed, tmp_path / "signed.edge")
    (signed / "manifest.sig").unlink()
    without = pack(signed, tmp_path / "unsigned.edge")
    assert open_package(with_signature, policy=TRUSTING).signature.status == "trusted"
    with pytest.raises(SignatureError, match=r"unsigned\.edge: not signed"):
        open_package(without, policy=TRUSTING)


def test_what_was_unpacked_is_held_against_the_edge_file_itself(
    signed: Path, tmp_path: Path, make: Make, cache: None
) -> None:
    path = pack(signed, tmp_path / "tiny.edge")
    folder = open_package(path, policy=TRUSTING).path
    other = make(tmp_path / "other", id="tiny")
    (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    with pytest.raises(ModelZooError, match=r"its manifest\.json is not that of .*tiny\.edge"):
        open_package(path, policy=TRUSTING)


def test_a_bad_signature_is_neither_packed_nor_unpacked(signed: Path, tmp_path: Path) -> None:
    path = pack(signed, tmp_path / "tiny.edge")
    bad = tmp_path / "bad.edge"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bad, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename == "manifest.sig":
                content = signing.make_signature(b"another", MAKER)
            new.writestr(info.filename, content)
    with pytest.raises(SignatureError, match="its signature is bad"):
        unpack(bad, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    (signed / "manifest.sig").write_bytes(signing.make_signature(b"another", MAKER))
    with pytest.raises(SignatureError, match="its signature is bad"):
        pack(signed, tmp_path / "again.edge")


def test_a_forged_stamp_does_not_help_where_a_signature_is_required(signed: Path) -> None:
    open_package("tiny", clock=lambda: 4e9)
    stamp = signed.parent / ".verified" / "tiny.json"
    (signed / "model.onnx").write_bytes(b"tricked")  # as long as it was
    info = (signed / "model.onnx").stat()
    forged = json.loads(stamp.read_text())
    forged["files"]["model.onnx"] = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
    stamp.write_text(json.dumps(forged))
    open_package("tiny")  # the stamp is believed: it saves work and is no protection
    with pytest.raises(ModelZooError, match=r"model\.onnx: SHA-256 is"):
        open_package("tiny", policy=TRUSTING)


# --- registries ---------------------------------------------------------------------------------------------


def test_a_registry_is_signed_beside_its_file(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("[models]\n")
    signature = signing.read_signature(sign_file(path, MAKER))
    assert check_registry(path.read_bytes(), signature, TRUSTING, str(path)).signer == "Maker"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["registry.toml", "registry.toml.sig"]
    for position in range(len(path.read_bytes())):
        changed = bytearray(path.read_bytes())
        changed[position] ^= 4
        with pytest.raises(SignatureError, match="its signature is bad"):
            check_registry(bytes(changed), signature, TRUSTING, str(path))


# --- key files ----------------------------------------------------------------------------------------------


def test_a_key_is_written_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "mine.pem"
    public = MAKER.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public.read_text() == f"edge-ed25519 {base64.b64encode(PUBLIC).decode()} Maker\n"
    loaded = PrivateKey.load(path)
    assert (loaded.public, loaded.public.name) == (MAKER.public, "Maker")
    assert loaded.sign(MESSAGE) == SIGNATURE
    assert "4ccd" not in repr(loaded)
    public.write_text(STRANGER.public.line)
    assert PrivateKey.load(path).public == PublicKey(PUBLIC), "another key's name is not taken"


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    MAKER.save(tmp_path / "mine.pem")
    with pytest.raises(StoreError, match=r"mine\.pem: exists already; a key is never overwritten"):
        STRANGER.save(tmp_path / "mine.pem")
    (tmp_path / "mine.pem").unlink()
    with pytest.raises(StoreError, match=r"mine\.pem\.pub: exists already"):
        STRANGER.save(tmp_path / "mine.pem")
    assert not (tmp_path / "mine.pem").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644])
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "mine.pem"
    MAKER.save(path)
    path.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        PrivateKey.load(path)
    assert str(caught.value) == (
        f"{path}: a private key that others can read (mode {mode:04o}) is not used. "
        f"Make it yours alone: chmod 600 {path}"
    )


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "mine.pem"
    MAKER.save(path, b"correct horse")
    assert PrivateKey.is_encrypted(path)
    assert PrivateKey.load(path, b"correct horse").sign(MESSAGE) == SIGNATURE
    with pytest.raises(KeyFileError, match="is encrypted: give its passphrase"):
        PrivateKey.load(path)
    with pytest.raises(KeyFileError, match="cannot be decrypted with this passphrase"):
        PrivateKey.load(path, b"wrong")
    STRANGER.save(tmp_path / "open.pem")
    with pytest.raises(KeyFileError, match="is not encrypted: leave the passphrase out"):
        PrivateKey.load(tmp_path / "open.pem", b"any")


def test_a_key_made_by_openssl_signs(tmp_path: Path) -> None:
    path = tmp_path / "mine.pem"
    try:
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("the program openssl is not installed")
    path.chmod(0o600)
    key = PrivateKey.load(path)
    assert key.public.verify(key.sign(MESSAGE), MESSAGE)


def test_what_is_no_key_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mine.pem"
    with pytest.raises(KeyFileError, match=r"mine\.pem: cannot be read: No such file .* --new-key"):
        PrivateKey.load(path)
    path.touch(0o600)
    with pytest.raises(KeyFileError, match="holds no private key in PEM"):
        PrivateKey.load(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    path = tmp_path / "mine.pem"
    path.touch(0o600)
    path.write_bytes(
        X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(KeyFileError, match="holds a key of another kind; packages are signed with Ed25519"):
        PrivateKey.load(path)


@given(st.binary(min_size=32, max_size=32), st.text(max_size=100))
def test_a_public_key_survives_its_line(raw: bytes, name: str) -> None:
    name = "".join(c for c in name if c.isprintable()).strip()
    key = PublicKey(raw, name)
    assert PublicKey.parse(key.line + "\n") == key


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", "is one line 'edge-ed25519 BASE64 NAME', but this is ''"),
        ("ssh-ed25519 AAAA me", "but this is 'ssh-ed25519 AAAA me'"),
        ("-----BEGIN PRIVATE KEY-----\nMC4C", "but this is a private key, which must stay secret"),
        ("edge-ed25519 !!!!", "'!!!!' is not base64"),
        ("edge-ed25519 AAAA me", "the key has 3 bytes but an Ed25519 key has 32"),
        (f"edge-ed25519 {base64.b64encode(PUBLIC).decode()} a\x1b[2Jb", "is one line of printable text"),
    ],
)
def test_a_line_that_is_no_public_key_is_said(line: str, problem: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        PublicKey.parse(line, "mine.pub")
    assert str(caught.value).startswith("mine.pub: ")
    assert problem in str(caught.value)


def test_trusted_keys_are_read_from_a_folder_and_named_after_their_file(tmp_path: Path) -> None:
    assert read_public_keys(tmp_path / "none") == {}
    (tmp_path / "maker.pub").write_text(MAKER.public.line + "\n")
    (tmp_path / "nameless.pub").write_text(PublicKey(STRANGER.public.raw).line)
    (tmp_path / "README").write_text("not a key")
    keys = read_public_keys(tmp_path)
    assert {key.name for key in keys.values()} == {"Maker", "nameless"}
    (tmp_path / "broken.pub").write_bytes(b"\xff")
    with pytest.raises(KeyFileError, match=r"broken\.pub: cannot be read as a public key"):
        read_public_keys(tmp_path)
