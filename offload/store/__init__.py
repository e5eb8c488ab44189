"""The store: what a device keeps on its disk, in one SQLite file that one process owns.

Migrations (`migrations`), settings that are read back (`connection`), one writing thread with group commit
(`store`), sealed contents (`keys`), a clock that does not jump (`clock`), and what becomes of a damaged file
(`salvage`).

Knows: how a change becomes durable, and how content is kept from whoever finds the disk. Does not know: what
a job is for (`offload.queue`), who may be asked, or the network.
"""

from offload.store.clock import DeviceClock, Times, read_times
from offload.store.errors import (
    KeyLostError,
    SealError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreKeyError,
    StoreReadOnlyError,
    StoreSettingsError,
    StoreVersionError,
)
from offload.store.keys import (
    Keyring,
    KeySource,
    add_key,
    drop_old_keys,
    from_command,
    from_credential,
    from_file,
)
from offload.store.salvage import Salvage
from offload.store.store import Store

__all__ = [
    "DeviceClock",
    "KeyLostError",
    "KeySource",
    "Keyring",
    "Salvage",
    "SealError",
    "Store",
    "StoreBusyError",
    "StoreClosedError",
    "StoreError",
    "StoreFullError",
    "StoreKeyError",
    "StoreReadOnlyError",
    "StoreSettingsError",
    "StoreVersionError",
    "Times",
    "add_key",
    "drop_old_keys",
    "from_command",
    "from_credential",
    "from_file",
    "read_times",
]
