"""What programs of ours that listen on a port share: the port, and which requests come from pages of other sites."""

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from modules.errors import UsageError, reason_of

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def is_local(host: str) -> bool:
    """Whether an address to listen on, or the name in a Host header, is this machine alone."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on the port (0: any free one); a UsageError where that cannot be had."""
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: expected 1 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = reason_of(error).partition(" (while")[0]  # Python's own words repeat the address
        raise UsageError(f"{host}, port {port}: {reason}. Choose another with --port") from None


def is_of_another_site(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a page of another site sends this request, and it is no click on a link to here.

    `headers` have names in lower case.
    """
    relation = headers.get("sec-fetch-site")  # none: typed by the user. Holds behind a proxy too.
    if relation is not None:
        is_link = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        return relation not in ("same-origin", "none") and not is_link
    origin = headers.get("origin")  # browsers leave the other one out for http:// on other machines
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def host_of(header: str) -> str:
    """The name in a Host header, without its port; "" for what is none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
