"""Signed regional key configurations: what is refused, what a wrong clock does, and what is remembered."""

import base64
import json
import os
from dataclasses import replace
from typing import Any

import pytest

from offload.channel import (
    ChannelError,
    Expected,
    ExpiredError,
    GatewayKey,
    KemId,
    MessageError,
    MismatchError,
    Pin,
    RegionalKeys,
    RolledBackError,
    RootKey,
    SignatureError,
    SuiteError,
    check_time,
    sign,
    verify,
)
from offload.channel.pinning import MAX_TOLERANCE_S
from offload.channel.regional import MAX_LIFETIME_S, fingerprint, read_unverified, signers_of

DAY = 86400
NOW = 1_795_000_000
KEY = GatewayKey.generate(1, KemId.X25519)
ROOT = RootKey.generate(os.urandom)
OTHER_ROOT = RootKey.generate(os.urandom)
ROOTS = [ROOT.fingerprint]
KEYS = RegionalKeys("home-gw", "eu-central", "DE", 3, NOW - DAY, NOW + 30 * DAY, (KEY.config,))
SIGNED = sign(KEYS, [ROOT])
EXPECTED = Expected("home-gw", "eu-central", "DE")


def accept(data: bytes = SIGNED, **changes: Any) -> Any:
    settings = {"roots": ROOTS, "expected": EXPECTED, "now_s": NOW, **changes}
    return verify(data, settings.pop("roots"), settings.pop("expected"), **settings)


def test_what_a_pinned_root_signed_is_accepted_and_remembered() -> None:
    verified = accept()
    assert verified.document == KEYS
    assert verified.root == ROOT.fingerprint
    assert verified.clock_behind_s == 0
    assert (verified.pin.epoch, verified.pin.seen_at) == (3, NOW)
    assert Pin.from_json(json.loads(json.dumps(verified.pin.to_json()))) == verified.pin
    assert accept(pin=verified.pin).pin == verified.pin  # the same file again
    assert accept(expected=Expected("home-gw", "eu-central")).document == KEYS  # any jurisdiction
    assert accept(roots=[ROOT.fingerprint.upper()]).document == KEYS


def test_a_change_of_any_byte_is_refused() -> None:
    for position in range(len(SIGNED)):
        changed = bytearray(SIGNED)
        changed[position] ^= 1 << position % 8
        with pytest.raises((MessageError, SignatureError)):
            accept(bytes(changed))


def test_a_file_cut_off_anywhere_is_refused() -> None:
    for stop in range(0, len(SIGNED), 7):
        with pytest.raises(MessageError):
            accept(SIGNED[:stop])
    for added in (b" ", b"\n", b"{}", b"\x00"):
        with pytest.raises(MessageError):
            accept(SIGNED + added)


def envelope(data: bytes = SIGNED) -> dict[str, Any]:
    return json.loads(data)


def rendered(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def test_unsigned_or_signed_by_a_stranger_is_refused() -> None:
    with pytest.raises(MessageError, match="1 to 4 signers"):
        accept(rendered({**envelope(), "signers": []}))
    stranger = sign(KEYS, [OTHER_ROOT])
    with pytest.raises(
        SignatureError, match=f"signed by {OTHER_ROOT.fingerprint[:16]}, which this device does"
    ):
        accept(stranger)
    with pytest.raises(SignatureError):
        accept(roots=[])


@pytest.mark.parametrize("name", ["ed25519", "ml-dsa-65"])
def test_both_signatures_must_hold(name: str) -> None:
    value = envelope()
    value["signers"][0][name] = envelope(sign(KEYS, [OTHER_ROOT]))["signers"][0][name]
    with pytest.raises(SignatureError, match="does not fit the key configuration: it was changed"):
        accept(rendered(value))


def test_a_strangers_signatures_under_the_roots_name_are_refused() -> None:
    value = envelope(sign(KEYS, [OTHER_ROOT]))
    value["signers"][0]["public"] = base64.b64encode(ROOT.public).decode()
    with pytest.raises(SignatureError, match="does not fit"):
        accept(rendered(value))


def test_a_signature_over_another_document_is_refused() -> None:
    value = envelope()
    value["payload"] = base64.b64encode(replace(KEYS, region="us-east").encode()).decode()
    with pytest.raises(SignatureError):
        accept(rendered(value), expected=Expected("home-gw", "us-east"))


def test_two_roots_sign_while_devices_move_from_one_to_the_other() -> None:
    both = sign(KEYS, [OTHER_ROOT, ROOT])
    assert signers_of(both) == [OTHER_ROOT.fingerprint, ROOT.fingerprint]
    for root in (ROOT, OTHER_ROOT):
        assert accept(both, roots=[root.fingerprint]).root == root.fingerprint
    damaged = json.loads(both)
    damaged["signers"][1]["ed25519"] = damaged["signers"][0]["ed25519"]
    assert signers_of(rendered(damaged)) == [OTHER_ROOT.fingerprint]
    with pytest.raises(SignatureError):  # a wrong signature of a pinned root is never passed over
        accept(rendered(damaged), roots=[ROOT.fingerprint, OTHER_ROOT.fingerprint])


@pytest.mark.parametrize(
    ("expected", "error"),
    [
        (
            Expected("other-gw", "eu-central"),
            "of gateway 'home-gw', but this endpoint is configured with 'other-gw'",
        ),
        (
            Expected("home-gw", "us-east"),
            "of region 'eu-central', but this endpoint .* 'us-east'. Nothing was sent",
        ),
        (Expected("home-gw", "eu-central", "US"), "of jurisdiction 'DE'"),
    ],
)
def test_the_keys_of_another_gateway_or_region_are_refused(expected: Expected, error: str) -> None:
    with pytest.raises(MismatchError, match=error):
        accept(expected=expected)


def test_an_older_file_is_refused_and_so_is_another_of_the_same_epoch() -> None:
    pin = accept().pin
    with pytest.raises(RolledBackError, match="have epoch 2, but epoch 3 was seen"):
        accept(sign(replace(KEYS, epoch=2), [ROOT]), pin=pin)
    with pytest.raises(RolledBackError, match="two different files of 'home-gw' have epoch 3"):
        accept(sign(replace(KEYS, not_after=NOW + 31 * DAY), [ROOT]), pin=pin)
    newer = accept(sign(replace(KEYS, epoch=4), [ROOT]), pin=pin)
    assert newer.pin.epoch == 4
    with pytest.raises(RolledBackError):
        accept(pin=newer.pin)


def test_an_expired_file_is_refused_after_the_tolerance() -> None:
    assert accept(now_s=KEYS.not_after + DAY).document == KEYS
    with pytest.raises(
        ExpiredError, match=r"valid until 2026-12-18T\S+Z, and it is 2026-12-19T\S+Z on this device"
    ):
        accept(now_s=KEYS.not_after + DAY + 1)
    with pytest.raises(ExpiredError):
        accept(now_s=KEYS.not_after + 1, tolerance_s=0)
    for wrong in (-1, MAX_TOLERANCE_S + 1, float("nan")):
        with pytest.raises(ValueError, match="tolerance_s must be from 0"):
            accept(tolerance_s=wrong)


def test_a_clock_ten_years_ahead_seals_nothing_and_says_what_to_do() -> None:
    with pytest.raises(ExpiredError, match="if the clock is wrong, set it"):
        accept(now_s=NOW + 3652 * DAY)


def test_a_clock_ten_years_behind_works_and_is_told() -> None:
    verified = accept(now_s=NOW - 3652 * DAY)
    assert verified.document == KEYS
    assert verified.clock_behind_s == pytest.approx(3651 * DAY)  # the file was signed a day ago
    assert accept(now_s=0.0).clock_behind_s == KEYS.issued_at


def test_a_clock_that_falls_back_does_not_bring_an_expired_file_to_life() -> None:
    pin = accept(now_s=NOW + 20 * DAY).pin
    next_keys = replace(KEYS, epoch=4, issued_at=NOW - 2 * DAY, not_after=NOW + 15 * DAY)
    with pytest.raises(ExpiredError):
        accept(sign(next_keys, [ROOT]), pin=pin, now_s=0)
    with pytest.raises(ExpiredError):
        check_time(next_keys, now_s=0, pin=pin)


def test_a_clock_that_once_ran_ahead_spoils_no_more_than_one_files_life() -> None:
    with pytest.raises(ExpiredError):
        accept(now_s=NOW + 3652 * DAY)  # refused, so nothing is remembered
    ahead = accept(now_s=KEYS.not_after + DAY)  # the furthest that is accepted
    assert ahead.pin.seen_at <= KEYS.not_after + MAX_TOLERANCE_S
    following = replace(KEYS, epoch=4, not_after=KEYS.issued_at + MAX_LIFETIME_S)
    assert accept(sign(following, [ROOT]), pin=ahead.pin, now_s=NOW).clock_behind_s > 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"gateway": ""}, "the gateway '' is not valid"),
        ({"region": "eu central"}, "the region 'eu central' is not valid"),
        ({"jurisdiction": "D" * 64}, "the jurisdiction"),
        ({"epoch": 0}, r"the epoch must be from 1 to 2\*\*53 - 1, but it is 0"),
        ({"epoch": 1 << 53}, "the epoch"),
        ({"not_after": NOW - DAY}, "more than 0 and at most 92 days, but these would be for 0.0"),
        ({"not_after": NOW + 92 * DAY}, "would be for 93.0"),
    ],
)
def test_what_cannot_be_a_document_is_not_signed(change: dict[str, Any], error: str) -> None:
    with pytest.raises(MessageError, match=error):
        sign(replace(KEYS, **change), [ROOT])


def test_a_document_in_another_spelling_is_refused_though_it_is_signed() -> None:
    fields = json.loads(KEYS.encode())
    for change in (
        {"epoch": True},
        {"epoch": 3.0},
        {"epoch": "3"},
        {"region": 5},
        {"issued_at": "2026-11-17 00:00:00"},
        {"not_after": "2026-1-2T03:04:05Z"},
        {"not_after": "9999-12-31T23:59:59Z"},
        {"keys": "!"},
        {"format": 2},
        {"format": True},
        {"comment": "more"},
    ):
        payload = rendered({**fields, **change})
        data = rendered(
            {"format": 1, "payload": base64.b64encode(payload).decode(), "signers": [ROOT.sign(payload)]}
        )
        with pytest.raises(MessageError):
            accept(data)


def test_keys_that_are_of_no_use_here_are_left_out_but_stay_signed() -> None:
    unknown = bytes.fromhex("0009050011000400010001ff")[:11]  # KEM 0x0011
    fields = json.loads(KEYS.encode())
    with_unknown = base64.b64decode(fields["keys"]) + unknown
    payload = rendered({**fields, "keys": base64.b64encode(with_unknown).decode()})
    data = rendered(
        {"format": 1, "payload": base64.b64encode(payload).decode(), "signers": [ROOT.sign(payload)]}
    )
    assert accept(data).document.configs == (KEY.config,)
    payload = rendered({**fields, "keys": base64.b64encode(unknown).decode()})
    data = rendered(
        {"format": 1, "payload": base64.b64encode(payload).decode(), "signers": [ROOT.sign(payload)]}
    )
    with pytest.raises(SuiteError):
        accept(data)


def test_json_that_is_nested_without_end_is_refused() -> None:
    for depth in (500, 60_000):
        nested = b"[" * depth + b"]" * depth
        with pytest.raises(ChannelError):
            accept(nested)
        value = SIGNED.replace(b'"signers": [', b'"signers": [' + nested + b",", 1)
        with pytest.raises(ChannelError):
            accept(value)
    with pytest.raises(MessageError, match="bytes at most"):
        accept(b" " * 200_000)


def test_a_root_is_its_secret_and_shows_none_of_it() -> None:
    again = RootKey(ROOT.secret_bytes())
    assert again.public == ROOT.public
    assert fingerprint(again.public) == ROOT.fingerprint
    assert ROOT.secret_bytes().hex()[:16] not in repr(ROOT)
    with pytest.raises(MessageError, match="64 secret bytes, not 3"):
        RootKey(b"abc")
    with pytest.raises(MessageError, match="1 to 4 roots, not 0"):
        sign(KEYS, [])


def test_reading_without_trust_shows_what_is_there() -> None:
    assert read_unverified(SIGNED) == KEYS
    for wrong in ({}, {"epoch": 1}, {"epoch": "1", "digest": "a", "seen_at": 0}):
        with pytest.raises(MessageError, match="a pin needs"):
            Pin.from_json(wrong)
