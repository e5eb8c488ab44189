"""Pulling a checkpoint of the hub: fetched, checked, and made into a package by the installed converter.

It is fetched into `.downloads/NAME` of the models folder and goes when the package is there; or taken from
the hub's own cache when it is there already, or shall stay there.

Does not know: quantizing (`converters`), the hub's API (`hub`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_zoo import files as fs
from model_zoo.converters import Needs
from model_zoo.errors import HubError, PullError
from model_zoo.hub import Hub, HubFile, HubId, HubUnreachableError, ModelInfo, select
from model_zoo.manifest import Manifest
from model_zoo.pulling import (
    Options,
    Place,
    Pulled,
    Received,
    claimed,
    folder_bytes,
    installed_manifest,
    refuse_stranger,
)
from model_zoo.registry_file import RegistryEntry
from model_zoo.room import CHECKED_CONTEXT, Part, check_disk, check_memory
from model_zoo.signing import SignatureState
from model_zoo.store import DOWNLOADS, folder_name

__all__ = ["pull_checkpoint"]


def pull_checkpoint(
    model_id: str, hub_id: HubId, entry: RegistryEntry | None, options: Options, place: Place
) -> Pulled:
    """Install the package `model_id` made from a repository; see `pull.pull`."""
    return _Checkpoint(model_id, hub_id, entry, options, place).pull()


class _Checkpoint:
    """One pull."""

    def __init__(
        self, model_id: str, hub_id: HubId, entry: RegistryEntry | None, options: Options, place: Place
    ) -> None:
        self._id = options.name or model_id
        self._hub_id, self._entry, self._options, self._place = hub_id, entry, options, place
        self._target = place.models / folder_name(self._id)
        self._work = place.models / DOWNLOADS / folder_name(self._id)
        self._hub = Hub(place.hub, place.transport)
        self._converter = place.converter()
        self._received = Received(place.report)

    def pull(self) -> Pulled:
        scheme = self._scheme(installed_manifest(self._target))
        # 1. what can be said without asking anybody: it is there, or it will not fit
        if (there := self._present(scheme, self._hub_id.revision)) is not None:
            return there
        if self._entry is not None:
            footprint = self._entry.schemes[scheme]
            needs = Needs(footprint.package_bytes, footprint.memory, 0)
            self._check_room(needs, [], self._entry.checkpoint_bytes)
        # 2. one at a time
        with claimed(self._work, self._place):
            return self._pull_claimed(scheme)

    def _pull_claimed(self, scheme: str) -> Pulled:
        try:
            info = self._hub.info(self._hub_id)
        except HubUnreachableError as error:
            there = self._present(scheme, None)
            if there is None:
                raise self._unreachable(error) from error
            return replace(there, notes=(f"{error}: whether there is a newer revision is not known",))
        if (there := self._present(scheme, info.commit)) is not None:
            return there
        before = installed_manifest(self._target)
        refuse_stranger(self._target, before, self._hub_id.repository, self._options)
        files = select(info.files, self._converter.patterns)
        if not any(file.name.endswith(".safetensors") for file in files):
            raise HubError(
                f"{self._hub_id.repository} has no weights in safetensors format (model*.safetensors). "
                "Choose a repository that has them"
            )
        if info.gated and not self._hub.settings.token:
            raise HubError(self._hub.gated(self._hub_id))
        # 3. the exact sums, from the model's own configuration; then everything else
        hub, folder = self._choose_cache(info, files)
        if folder is None:
            config = self._config(hub, info, files)
            needs = self._converter.needs(config, scheme, self._options.context_length)
            small = sum(file.size for file in files if not file.name.endswith(".safetensors"))
            self._check_room(
                replace(needs, package_bytes=needs.package_bytes + small), files, None, hub, info
            )
            missing = hub.missing_bytes(info, files)
            self._place.report.step(
                f"{self._hub_id.repository}@{info.commit[:12]}: {fs.human_size(missing)} to download"
            )
            folder = hub.fetch(info, files, progress=self._received)
        # 4. the package
        self._place.report.step(f"quantizing to {scheme}")
        manifest = self._converter.convert(
            folder,
            self._target,
            scheme=scheme,
            model_id=self._id,
            repository=self._hub_id.repository,
            revision=info.commit,
            context_length=self._options.context_length,
            overwrite=before is not None or self._options.force,
            progress=lambda done, total, step: self._place.report.work(step, done, total),
        )
        return Pulled(
            self._id,
            self._target,
            manifest,
            "installed" if before is None else "updated",
            self._received.bytes,
            SignatureState("unsigned"),
            self._notes(),
        )

    # --- steps ----------------------------------------------------------------------------------------------

    def _scheme(self, before: Manifest | None) -> str:
        schemes = list(self._converter.schemes)
        if self._entry is not None:
            schemes = [name for name in schemes if name in self._entry.schemes]
        ours = before is not None and before.source.repository == self._hub_id.repository
        kept = before.quantization.scheme if ours and before is not None else None
        chosen = self._options.scheme or (kept if kept in schemes else schemes[0])
        if chosen not in schemes:
            raise PullError(f"{self._id}: there is no scheme '{chosen}'; there are {', '.join(schemes)}")
        return chosen

    def _present(self, scheme: str, revision: str | None) -> Pulled | None:
        """What is installed, when it is what was asked for (`revision` `None`: whatever its revision)."""
        found = installed_manifest(self._target)
        if found is None or self._options.force or found.source.repository != self._hub_id.repository:
            return None
        context = self._options.context_length or found.context_length
        wanted = (scheme, context, revision or found.source.revision)
        if wanted != (found.quantization.scheme, found.context_length, found.source.revision):
            return None
        return Pulled(self._id, self._target, found, "present")

    def _check_room(
        self,
        needs: Needs,
        files: Sequence[HubFile],
        expected: int | None,
        hub: Hub | None = None,
        info: ModelInfo | None = None,
    ) -> None:
        """Compare with this device; `expected`: bytes of the checkpoint while the hub was not asked yet."""
        entry, context = self._entry, CHECKED_CONTEXT
        trained = None if entry is None else entry.package_context
        context = min(context, self._options.context_length or context, trained or context)
        name, device = self._id, self._place.device
        if not self._options.ignore_memory:
            way = "Smaller ones: edge-runtime models recommend. "
            check_memory(name, needs.memory, context, device, working_bytes=needs.working_bytes, way_out=way)
        if hub is None or info is None:
            # What arrived before, of this pull or in the hub's cache, is told exactly when the hub was asked.
            known = self._hub.cached(self._hub_id) is not None or self._options.keep_checkpoint
            missing, cache = 0 if known else max(0, (expected or 0) - folder_bytes(self._work)), self._work
        else:
            missing, cache = hub.missing_bytes(info, files), hub.settings.cache_dir
        parts = [Part("checkpoint", missing, cache), Part("package", needs.package_bytes, self._place.models)]
        check_disk(name, parts, device)

    def _choose_cache(self, info: ModelInfo, files: Sequence[HubFile]) -> tuple[Hub, Path | None]:
        """The hub's own cache when everything is there or it shall stay there; our own folder otherwise."""
        folder = self._hub.holds(info, files)
        if folder is not None or self._options.keep_checkpoint:
            return self._hub, folder
        ours = replace(self._place.hub, cache_dir=self._work)
        return Hub(ours, self._place.transport), None

    def _config(self, hub: Hub, info: ModelInfo, files: Sequence[HubFile]) -> dict[str, Any]:
        folder = hub.fetch(info, [file for file in files if file.name == "config.json"])
        try:
            config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
        except (OSError, ValueError) as error:
            raise HubError(f"{self._hub_id.repository}: its config.json cannot be read ({error})") from error
        return config

    def _notes(self) -> tuple[str, ...]:
        found = []
        if self._entry is not None and not self._entry.pinned and self._options.revision is None:
            found.append(
                f"the registry pins no commit of {self._hub_id.repository}; its present one was taken"
            )
        if self._place.policy.refusal(SignatureState("unsigned"), self._id) is not None:
            found.append(
                'a package made here is not signed, and signatures = "required": sign it yourself with '
                f"edge-runtime models sign {self._id} --key FILE"
            )
        return tuple(found)

    def _unreachable(self, error: HubUnreachableError) -> HubError:
        way = "unset HF_HUB_OFFLINE" if self._place.hub.offline else "connect to the network"
        return HubError(
            f"{self._id}: {error}, and it is not installed. {way[0].upper()}{way[1:]} and try again"
        )
