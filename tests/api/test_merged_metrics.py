"""The metrics of several workers as one page."""

from __future__ import annotations

from llmgateway.api.merged_metrics import merged

ONE = b"""# HELP llmproxy_requests_total Requests answered.
# TYPE llmproxy_requests_total counter
llmproxy_requests_total{path="/v1/chat/completions",status="200"} 5.0
# HELP llmproxy_latency_ms Milliseconds.
# TYPE llmproxy_latency_ms histogram
llmproxy_latency_ms_bucket{le="10.0"} 1.0
llmproxy_latency_ms_bucket{le="+Inf"} 2.0
llmproxy_latency_ms_count 2.0
llmproxy_latency_ms_sum 30.5
# HELP llmgateway_config_revision Revision.
# TYPE llmgateway_config_revision gauge
llmgateway_config_revision 3.0
"""
OTHER = ONE.replace(b'"200"} 5.0', b'"500"} 1.0').replace(b"revision 3.0", b"revision 4.0")


def test_one_worker_s_page_stays_as_it_is() -> None:
    assert merged([ONE]) is ONE


def test_counters_and_histograms_add_up_and_revisions_do_not() -> None:
    lines = merged([ONE, OTHER]).decode().splitlines()

    assert 'llmproxy_requests_total{path="/v1/chat/completions",status="200"} 5.0' in lines
    assert 'llmproxy_requests_total{path="/v1/chat/completions",status="500"} 1.0' in lines
    assert 'llmproxy_latency_ms_bucket{le="10.0"} 2.0' in lines
    assert 'llmproxy_latency_ms_bucket{le="+Inf"} 4.0' in lines
    assert "llmproxy_latency_ms_sum 61.0" in lines
    assert "llmgateway_config_revision 4.0" in lines
