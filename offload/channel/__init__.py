"""The sealed channel: one gateway, in the region of its key, opens what leaves the device; nobody else does.

Binary HTTP (`bhttp`, `bhttp_decoder`: RFC 9292) inside Oblivious HTTP, in one piece (`ohttp`: RFC 9458) or in
chunks that stream (`chunked`: draft-ietf-ohai-chunked-ohttp-08), over HPKE (`hpke`, `kem`: RFC 9180, X-Wing).
Key configurations (`keyconfig`) are signed by a pinned root together with the region they belong to
(`regional`), and `pinning` says which of them a device takes. Private keys lie in encrypted files
(`keyfiles`).

Knows: bytes in, bytes out, and which bytes to refuse. Does not know: sockets, relays, retries, which query
may leave and where to. Only `keyfiles` touches the file system.
"""

from offload.channel.bhttp import (
    Request,
    RequestHead,
    Response,
    ResponseHead,
    encode_content,
    encode_end,
    encode_head,
    encode_request,
    encode_response,
)
from offload.channel.bhttp_decoder import Content, Decoder, End, Limits, decode_request, decode_response
from offload.channel.chunked import (
    ChunkLimits,
    RequestOpener,
    RequestSealer,
    ResponseOpener,
    ResponseSealer,
)
from offload.channel.errors import (
    ChannelError,
    ExpiredError,
    KeyFileError,
    LimitError,
    MessageError,
    MismatchError,
    OpenError,
    RolledBackError,
    SignatureError,
    StreamStateError,
    SuiteError,
    TruncatedError,
    TrustError,
    UnknownKeyError,
)
from offload.channel.hpke import AeadId, Suite
from offload.channel.kem import KemId
from offload.channel.keyconfig import GatewayKey, KeyConfig, choose, decode_keys, encode_keys
from offload.channel.ohttp import (
    OpenedRequest,
    ReplyKey,
    open_request,
    open_response,
    replay_id,
    seal_request,
    seal_response,
)
from offload.channel.padding import Coalescer, pad_line, pad_message
from offload.channel.pinning import Expected, Pin, Verified, check_time, verify
from offload.channel.regional import RegionalKeys, RootKey, sign

__all__ = [
    "AeadId",
    "ChannelError",
    "ChunkLimits",
    "Coalescer",
    "Content",
    "Decoder",
    "End",
    "Expected",
    "ExpiredError",
    "GatewayKey",
    "KemId",
    "KeyConfig",
    "KeyFileError",
    "LimitError",
    "Limits",
    "MessageError",
    "MismatchError",
    "OpenError",
    "OpenedRequest",
    "Pin",
    "RegionalKeys",
    "ReplyKey",
    "Request",
    "RequestHead",
    "RequestOpener",
    "RequestSealer",
    "Response",
    "ResponseHead",
    "ResponseOpener",
    "ResponseSealer",
    "RolledBackError",
    "RootKey",
    "SignatureError",
    "StreamStateError",
    "Suite",
    "SuiteError",
    "TruncatedError",
    "TrustError",
    "UnknownKeyError",
    "Verified",
    "check_time",
    "choose",
    "decode_keys",
    "decode_request",
    "decode_response",
    "encode_content",
    "encode_end",
    "encode_head",
    "encode_keys",
    "encode_request",
    "encode_response",
    "open_request",
    "open_response",
    "pad_line",
    "pad_message",
    "replay_id",
    "seal_request",
    "seal_response",
    "sign",
    "verify",
]
