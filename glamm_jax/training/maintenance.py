"""Notices of Google Compute Engine that this machine is about to be taken.

The metadata server of a TPU or GPU VM announces a preemption (`instance/preempted`), usually 30
seconds ahead and together with SIGTERM, and a host maintenance that ends the VM
(`instance/maintenance-event`), 60 seconds to an hour ahead. A thread asks for both. Where there is
no metadata server, nothing is asked; a server that does not answer never disturbs the run.
"""

from __future__ import annotations

import http.client
import os
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

HOST_VARIABLE = "GCE_METADATA_HOST"  # HOST or HOST:PORT, used instead of Google's
HOST = "metadata.google.internal"
# Google's machines have this file with these words; elsewhere no name is looked up.
PRODUCT_NAME, GOOGLE = Path("/sys/class/dmi/id/product_name"), "Google"
POLL_SECONDS = 2.0
TIMEOUT = 2.0  # of a request
JOIN_TIMEOUT = 5.0  # for a thread whose request is not answered
# {name below instance/: the values that announce the end of the machine}
NOTICES = {
    "preempted": ("TRUE",),
    "maintenance-event": ("TERMINATE_ON_HOST_MAINTENANCE",),
}


class MaintenanceNotice:
    """Watches the notices from a thread, until one comes or the context ends.

    with MaintenanceNotice(stop.request): ...

    A notice that is there already when the context begins is printed only: a run that was stopped
    because of it and started again on the same machine would stop again and again.

    Args:
        on_notice: called by the thread with the name and the value of a notice, once.
        on_old_notice: called with a notice that was there before.
        seconds: between two requests; None: `POLL_SECONDS`.
    """

    def __init__(
        self,
        on_notice: Callable[[str], None],
        on_old_notice: Callable[[str], None] = lambda text: None,
        seconds: float | None = None,
    ):
        self._on_notice, self._on_old_notice = on_notice, on_old_notice
        self._seconds = POLL_SECONDS if seconds is None else seconds
        self._closed = threading.Event()
        self._host = metadata_host()
        self._thread = threading.Thread(target=self._run, name="maintenance-notice", daemon=True)

    def __enter__(self) -> MaintenanceNotice:
        if self._host:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._host:
            self._thread.join(JOIN_TIMEOUT)

    def _run(self) -> None:
        old = self._notices()
        for text in old:
            self._on_old_notice(text)
        while not self._closed.wait(self._seconds):
            new = [text for text in self._notices() if text not in old]
            if new:
                self._on_notice(new[0])
                return

    def _notices(self) -> list[str]:
        """Return what announces the end of the machine now."""
        return [
            f"{name} = {value}"
            for name, values in NOTICES.items()
            if (value := _metadata(self._host, f"instance/{name}")) in values
        ]


def metadata_host() -> str:
    """Return the address of the metadata server, "" where there is none."""
    host = os.environ.get(HOST_VARIABLE, "")
    if host:
        return host
    try:
        is_google = PRODUCT_NAME.read_text(errors="replace").startswith(GOOGLE)
    except OSError:
        return ""
    return HOST if is_google else ""


def _metadata(host: str, name: str) -> str:
    """Return a value of the metadata server, "" if it does not answer."""
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/{name}", headers={"Metadata-Flavor": "Google"}
    )
    # It is on this machine: a proxy would not reach it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            return answer.read(200).decode("ascii", "replace").strip()
    except (OSError, http.client.HTTPException, ValueError):
        return ""
