"""Header fields that tracing systems and proxies add to requests.

They differ from request to request and never affect the response. The poll path ignores them, and
scripts of other origins may send them.
"""

FIELDS = (
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-request-id",
    "x-correlation-id",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "uber-trace-id",
    "sentry-trace",
)
"""In lower case."""
