"""What a child process leaves behind is ended, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from serveflow_app.processes import end_session

LEAVES_ONE_BEHIND = """
import subprocess
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, preexec_fn={ignore})
print(child.pid)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    "ignore",
    ["None", "lambda: __import__('signal').signal(15, __import__('signal').SIG_IGN)"],
    ids=["ends on SIGTERM", "ignores SIGTERM"],
)
def test_orphans_of_a_session_are_ended(ignore: str) -> None:
    script = LEAVES_ONE_BEHIND.replace("{ignore}", ignore)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        leader = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        out, _ = leader.communicate()
        orphan = int(out)
        assert alive(orphan)
        end_session(leader.pid, grace_s=0.2)
        for _ in range(100):
            if not alive(orphan):
                break
            time.sleep(0.02)
        assert not alive(orphan)
        assert alive(bystander.pid)
        bystander.kill()
