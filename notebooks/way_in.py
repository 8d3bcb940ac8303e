"""How a browser reaches the web page on each platform: the flags that webUI.py needs there, and the link to it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from cells import platform, server_path
from IPython.display import HTML, display
from scripts import Stop

_READY = "open http"  # how the line begins that webUI.py prints when it can be reached


@dataclass(frozen=True)
class WayIn:
    """What to start webUI.py with, and what to show then."""

    port: int
    link: str  # address of the page; begins with / where it is relative to the address of the notebook's server
    flags: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)  # of the environment

    def show(self, line: str) -> None:
        """Shows the link, and name and password where they are asked for, once webUI.py says that it is ready."""
        if not line.startswith(_READY):
            return
        for user_and_password in self.variables.values():
            user, _, password = user_and_password.partition(":")
            print(f"Name · 用户名: {user}\nPassword · 密码: {password}")
        if platform() == "Colab":
            from google.colab import output

            output.serve_kernel_port_as_window(self.port)
        else:
            display(HTML(f'<a href="{self.link}" target="_blank">Open the page · 打开网页: {self.link}</a>'))


def way_in(port: int) -> WayIn:
    """The way to the page from the browser that shows this notebook.

    Raises:
        Stop: there is none.
    """
    where = platform()
    if where == "Jupyter":
        return WayIn(port, f"http://127.0.0.1:{port}")
    if where == "Kaggle":
        text = "Kaggle lets no browser reach a port of its machines. Use train_and_sing.ipynb there"
        raise Stop(f"{text} · Kaggle 无法从浏览器访问端口,请改用 train_and_sing.ipynb。")
    # The platform's proxy asks by the platform's name, which webUI.py takes only where it asks for a password.
    login = {"WEBUI_AUTH": f"singer:{secrets.token_urlsafe(12)}"}
    if where == "Colab":
        from google.colab.output import eval_js

        link = eval_js(f"google.colab.kernel.proxyPort({int(port)})")
    else:
        link = f"{server_path()}proxy/{port}"
    return WayIn(port, f"{link.rstrip('/')}/", ("--listen", "--root_path", link.rstrip("/")), login)
