"""What is registered of a store path, on its way between the ends."""

from __future__ import annotations

from reconciler.core.agent.messages import PathMessage
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo


def to_message(info: PathInfo) -> PathMessage:
    """What is said of a path; the time of registering and who built it stay where they are."""
    return PathMessage(
        path=str(info.path),
        nar_hash=info.nar_hash.nix,
        nar_size=info.nar_size,
        references=tuple(map(str, info.references)),
        deriver=str(info.deriver) if info.deriver else "",
        signatures=info.signatures,
        ca=info.ca,
    )


def from_message(message: PathMessage) -> PathInfo:
    """The path that was spoken of; FormatError when a part of it is none."""
    return PathInfo(
        path=StorePath.parse(message.path),
        nar_hash=Hash.parse(message.nar_hash),
        nar_size=message.nar_size,
        references=tuple(map(StorePath.parse, message.references)),
        deriver=StorePath.parse(message.deriver) if message.deriver else None,
        signatures=message.signatures,
        ca=message.ca,
    )
