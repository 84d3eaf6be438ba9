"""BitTorrent on libtorrent: make torrents, seed them, fetch one.

``python -m lab.servers.seeder make FOLDER``
``python -m lab.servers.seeder seed FOLDER IPV4 IPV6 PORT TRACKER_PORT``
``python -m lab.servers.seeder fetch FOLDER NAME OWN_ADDRESS PEER PORT TRACKER_PORT SECONDS MODE``
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
_PIECE = 16384


def _make(folder: Path) -> None:
    rng = random.Random(9)
    folder.mkdir()
    hashes: list[str] = []
    for index, size in enumerate((40_000, 120_000, 300_000, 800_000, 2_000_000)):
        path = folder / f"t{index}.dat"
        path.write_bytes(rng.randbytes(size))
        # Not every client reads torrents of version 2 beside those of version 1.
        torrent = libtorrent.create_torrent(
            libtorrent.list_files(str(path)),
            piece_size=_PIECE << (index // 2),
            flags=libtorrent.create_torrent.v1_only,
        )
        libtorrent.set_piece_hashes(torrent, str(folder))
        made = folder / f"t{index}.torrent"
        made.write_bytes(libtorrent.bencode(torrent.generate()))
        hashes.append(str(libtorrent.load_torrent_file(str(made)).info_hashes.v1))
    (folder / "whitelist.txt").write_text("\n".join(hashes) + "\n", encoding="ascii")


def _session(listen: str, settings: dict[str, bool | int]) -> Any:
    # libtorrent types its settings as a class, and takes them as a dictionary.
    pack: Any = {**_QUIET, "listen_interfaces": listen, **settings}
    return libtorrent.session(pack)


def _load(torrent: Path, place: str, tracker: str) -> Any:
    params = libtorrent.load_torrent_file(str(torrent))
    params.save_path = place
    if tracker:
        params.trackers = [tracker]
    return params


def _seed(folder: Path, ipv4: str, ipv6: str, port: int, tracker_port: int) -> None:
    listen = f"{ipv4}:{port},[{ipv6}]:{port}"
    session = _session(listen, {"enable_dht": True, "connections_limit": 200})
    for path in sorted(folder.glob("*.torrent")):
        params = _load(path, str(folder), f"udp://{ipv4}:{tracker_port}/announce")
        params.flags |= libtorrent.torrent_flags.seed_mode | libtorrent.torrent_flags.upload_mode
        session.add_torrent(params)
    while True:
        time.sleep(1)


def _fetch(
    torrent: Path, own: str, peer: str, port: int, tracker_port: int, limit: float, mode: str
) -> None:
    settings: dict[str, bool | int] = {"enable_dht": mode == "dht"}
    # Transport and encryption are what differs between BitTorrent programs on the wire.
    settings["enable_outgoing_utp"] = mode in ("utp", "dht")
    settings["enable_outgoing_tcp"] = mode != "utp"
    if mode == "encrypted":
        settings["out_enc_policy"] = 0
    shown = f"[{own}]" if ":" in own else own
    session = _session(f"{shown}:0", settings)
    if mode == "dht":
        session.add_dht_node((peer, port))
    # Only the IPv4 address has a tracker; the folder is gone with the session that asked.
    tracker = f"udp://{peer}:{tracker_port}/announce" if mode == "tracker" else ""
    with tempfile.TemporaryDirectory(dir=".") as place:
        handle = session.add_torrent(_load(torrent, place, tracker))
        if not tracker:
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
        ipv4, ipv6, port, tracker_port = rest
        _seed(Path(folder), ipv4, ipv6, int(port), int(tracker_port))
    else:
        name, own, peer, port, tracker_port, limit, mode = rest
        torrent = Path(folder, f"{name}.torrent")
        _fetch(torrent, own, peer, int(port), int(tracker_port), float(limit), mode)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
