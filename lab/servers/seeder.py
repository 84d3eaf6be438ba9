"""BitTorrent on libtorrent: make torrents, seed them, fetch one.

``python -m lab.servers.seeder make FOLDER``
``python -m lab.servers.seeder seed FOLDER IPV4 IPV6 PORT``
``python -m lab.servers.seeder fetch FOLDER NAME OWN_ADDRESS PEER PORT SECONDS MODE``
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import libtorrent

__all__ = ["main"]

_QUIET = {
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_lsd": False,
    "alert_mask": 0,
    "dht_bootstrap_nodes": "",
    "allow_multiple_connections_per_ip": True,
}


def _make(folder: Path) -> None:
    rng = random.Random(9)
    folder.mkdir()
    for index, size in enumerate((40_000, 120_000, 300_000, 800_000, 2_000_000)):
        path = folder / f"t{index}.dat"
        path.write_bytes(rng.randbytes(size))
        storage = libtorrent.file_storage()
        libtorrent.add_files(storage, str(path))
        torrent = libtorrent.create_torrent(storage, piece_size=16384 << (index // 2))
        libtorrent.set_piece_hashes(torrent, str(folder))
        (folder / f"t{index}.torrent").write_bytes(libtorrent.bencode(torrent.generate()))


def _session(listen: str, settings: dict[str, Any]) -> Any:
    return libtorrent.session({**_QUIET, "listen_interfaces": listen, **settings})


def _seed(folder: Path, ipv4: str, ipv6: str, port: int) -> None:
    listen = f"{ipv4}:{port},[{ipv6}]:{port}"
    session = _session(listen, {"enable_dht": True, "connections_limit": 200})
    for path in sorted(folder.glob("*.torrent")):
        flags = libtorrent.torrent_flags.seed_mode | libtorrent.torrent_flags.upload_mode
        session.add_torrent(
            {"ti": libtorrent.torrent_info(str(path)), "save_path": str(folder), "flags": flags}
        )
    while True:
        time.sleep(1)


def _fetch(
    folder: Path, name: str, own: str, peer: str, port: int, limit: float, mode: str
) -> None:
    settings: dict[str, Any] = {"enable_dht": mode == "dht"}
    # Transport and encryption are what differs between BitTorrent programs on the wire.
    settings["enable_outgoing_utp"] = mode in ("utp", "dht")
    settings["enable_outgoing_tcp"] = mode not in ("utp",)
    if mode == "encrypted":
        settings["out_enc_policy"] = 0
    shown = f"[{own}]" if ":" in own else own
    session = _session(f"{shown}:0", settings)
    if mode == "dht":
        session.add_dht_node((peer, port))
    with tempfile.TemporaryDirectory(prefix="sfl-bt-") as place:
        handle = session.add_torrent(
            {"ti": libtorrent.torrent_info(str(folder / f"{name}.torrent")), "save_path": place}
        )
        handle.connect_peer((peer, port))
        until = time.monotonic() + limit
        while time.monotonic() < until and not handle.status().is_seeding:
            time.sleep(0.1)
        session.remove_torrent(handle)
        time.sleep(0.3)


def main(argv: list[str]) -> int:
    """Do what the first argument says."""
    what, folder, *rest = argv
    if what == "make":
        _make(Path(folder))
    elif what == "seed":
        _seed(Path(folder), rest[0], rest[1], int(rest[2]))
    else:
        _fetch(Path(folder), rest[0], rest[1], rest[2], int(rest[3]), float(rest[4]), rest[5])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
