"""Which proxy leads where, as settings and environment say."""

from __future__ import annotations

import pytest

from llmgateway.pipeline.proxies import Proxies, Proxy

ENVIRONMENT = {
    "HTTP_PROXY": "http://plain.test:3128",
    "https_proxy": "secure.test",
    "NO_PROXY": "example.com,10.0.0.0/8",
}


def proxy_of(proxies: Proxies, host: str, *, port: int = 443, uses_tls: bool = True) -> str:
    found = proxies.to(host, port, uses_tls=uses_tls)
    return f"{found.host}:{found.port}" if found else ""


def test_the_environment_names_a_proxy_for_each_scheme() -> None:
    proxies = Proxies.of("environment", ENVIRONMENT)

    assert proxy_of(proxies, "api.test") == "secure.test:80"
    assert proxy_of(proxies, "api.test", uses_tls=False) == "plain.test:3128"


def test_without_a_word_in_the_environment_there_is_no_proxy() -> None:
    assert proxy_of(Proxies.of("environment", {}), "api.test") == ""


def test_all_proxy_counts_where_nothing_else_is_said() -> None:
    proxies = Proxies.of("environment", {"ALL_PROXY": "http://all.test:1", "HTTPS_PROXY": "http://tls.test:2"})

    assert proxy_of(proxies, "api.test") == "tls.test:2"
    assert proxy_of(proxies, "api.test", uses_tls=False) == "all.test:1"


def test_none_is_none_whatever_the_environment_says() -> None:
    assert proxy_of(Proxies.of("none", ENVIRONMENT), "api.test") == ""


def test_a_proxy_that_is_set_serves_every_upstream_but_the_exceptions() -> None:
    proxies = Proxies.of("https://user:p%20w@own.test", ENVIRONMENT)

    assert proxy_of(proxies, "api.test") == proxy_of(proxies, "127.0.0.1", uses_tls=False) == "own.test:443"
    assert proxy_of(proxies, "example.com") == ""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_the_environment_never_sends_loopback_to_a_proxy(host: str) -> None:
    assert proxy_of(Proxies.of("environment", ENVIRONMENT), host, port=11434, uses_tls=False) == ""


@pytest.mark.parametrize(
    ("exceptions", "host", "direct"),
    [
        ("example.com", "example.com", True),
        ("example.com", "api.EXAMPLE.com.", True),
        ("example.com", "notexample.com", False),
        (".example.com", "api.example.com", True),
        ("*.example.com", "api.example.com", True),
        ("example.com:8443", "example.com", False),
        ("example.com:443", "example.com", True),
        ("10.0.0.0/8, fd00::/8", "10.1.2.3", True),
        ("10.0.0.0/8, fd00::/8", "fd00::1", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("*", "anything.test", True),
        ("", "anything.test", False),
        (" , ,", "anything.test", False),
    ],
)
def test_exceptions(exceptions: str, host: str, direct: bool) -> None:
    proxies = Proxies.of("http://p.test:1", {"NO_PROXY": exceptions})

    assert (proxy_of(proxies, host) == "") is direct


@pytest.mark.parametrize("url", ["socks5://p.test", "http://", "http://user:secret@:1", "http://p.test:port"])
def test_what_is_no_proxy_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected the address|Port") as raised:
        Proxies.of(url, {})

    assert "secret" not in str(raised.value)


def test_passwords_are_not_shown() -> None:
    assert repr(Proxy.of("http://user:secret@p.test:1")) == "Proxy(p.test:1)"
