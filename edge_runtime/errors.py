"""The whole picture of errors. Each package has one base; the command line catches exactly these.

EdgeRuntimeError
├── ConfigError          a configuration file, flag or environment variable is wrong
├── EngineError          the inference engine cannot load or run a model
│   └── RuntimeVersionError   an onnxruntime release that is known to fail here
├── ContextOverflowError prompt + wanted tokens exceed the context (names both numbers)
├── ChatTemplateError    no chat template, or it refuses the messages
├── TokenizerError       tokenizer.json is missing or unreadable
├── SamplingError        a sampling parameter out of range
├── GrammarError         a JSON schema, regex or grammar that cannot be compiled or followed
├── GenerationCancelled  the caller cancelled between tokens
├── DataError            a file of evaluation rows is missing or wrong (names file and line)
└── MissingExtraError    an optional dependency is not installed (names the extra)
model_zoo.ModelZooError  (model_zoo/errors.py)
offload.OffloadError     (offload/errors.py)
├── ChannelError         the encrypted channel (offload/channel/errors.py draws its own tree)
├── GuaranteeError       a promise about wrong answers that cannot be tested
├── PolicyError          a routing policy, budget or price that cannot be followed
├── ResidencyError       a residency policy that contradicts itself (names the rule)
├── RouterFileError      a saved router is missing, damaged or of another format
├── QueueError           the queue refuses (offload/queue/errors.py draws its own tree)
├── StoreError           the device's store (offload/store/errors.py draws its own tree)
└── OutcomesError        a file of recorded outcomes is missing, wrong or too small
quantize.QuantizeError   (quantize/errors.py; `quantize` imports us, never the other way round)
"""

from model_zoo.errors import ModelZooError
from offload.errors import OffloadError

__all__ = [
    "ChatTemplateError",
    "ConfigError",
    "ContextOverflowError",
    "DataError",
    "EdgeRuntimeError",
    "EngineError",
    "GenerationCancelled",
    "GrammarError",
    "MissingExtraError",
    "ModelZooError",
    "OffloadError",
    "RuntimeVersionError",
    "SamplingError",
    "TokenizerError",
    "first_line",
]


class EdgeRuntimeError(Exception):
    """Base of every error that `edge_runtime` raises on purpose."""


class ConfigError(EdgeRuntimeError):
    """A configuration file, flag or environment variable is wrong."""


class EngineError(EdgeRuntimeError):
    """The inference engine cannot load or run a model."""


class RuntimeVersionError(EngineError):
    """An onnxruntime release that is known to fail."""


class ContextOverflowError(EdgeRuntimeError):
    """The prompt and the wanted tokens exceed the context length."""


class ChatTemplateError(EdgeRuntimeError):
    """No chat template, or the template refuses the messages."""


class TokenizerError(EdgeRuntimeError):
    """`tokenizer.json` is missing or unreadable."""


class SamplingError(EdgeRuntimeError):
    """A sampling parameter is out of range."""


class GrammarError(EdgeRuntimeError):
    """A JSON schema, regex or grammar cannot be compiled or followed."""


class GenerationCancelled(EdgeRuntimeError):  # noqa: N818 - an outcome, not a fault; the name says which
    """The caller cancelled a generation between tokens."""


class MissingExtraError(EdgeRuntimeError):
    """An optional dependency is not installed; the message names the extra to install."""

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the Python package '{module}', which is not installed. "
            f"Install it with: pip install 'edge-runtime[{extra}]'"
        )
        self.module, self.extra = module, extra


class DataError(EdgeRuntimeError):
    """A file of evaluation rows is missing or has a wrong row; the message names file and line."""


def first_line(error: BaseException) -> str:
    """What a library's error says in its first line; its class where it says nothing."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
