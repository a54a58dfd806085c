"""Names of header fields, and the fields that every response has."""

from multidict import istr

STORE_UNREACHABLE = "store-unreachable"
MONITOR_SILENT = "monitor-silent"

# As `istr`, header names are not folded again at every look-up.
CONTENT_TYPE, CONTENT_LENGTH, CACHE_CONTROL = (
    istr("Content-Type"),
    istr("Content-Length"),
    istr("Cache-Control"),
)
ETAG, VARY, DATE, SERVER, AGE = (
    istr("ETag"),
    istr("Vary"),
    istr("Date"),
    istr("Server"),
    istr("Age"),
)
CHECKED_AT, STALE, NOSNIFF = (
    istr("Cluster-Checked-At"),
    istr("Cluster-Stale"),
    istr("X-Content-Type-Options"),
)
LINK, CONTENT_ENCODING = istr("Link"), istr("Content-Encoding")

AUTH = istr("Cluster-Auth")
"""Says `none` on the replies of a service that asks for no credential."""

COMMON_HEADERS = ((NOSNIFF, "nosniff"), (SERVER, "cluster-events"))
"""On every reply. A `Server` of our own keeps the framework from adding its version."""
