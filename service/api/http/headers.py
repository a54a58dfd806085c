"""Names of header fields, and the header fields of every response."""

from multidict import istr

STORE_UNREACHABLE = "store-unreachable"
MONITOR_SILENT = "monitor-silent"
"""The values of `Cluster-Stale`."""

# With `istr`, aiohttp does not change the case of a name again at every look-up.
CONTENT_TYPE = istr("Content-Type")
CONTENT_LENGTH = istr("Content-Length")
CONTENT_ENCODING = istr("Content-Encoding")
CACHE_CONTROL = istr("Cache-Control")
ETAG = istr("ETag")
VARY = istr("Vary")
DATE = istr("Date")
SERVER = istr("Server")
AGE = istr("Age")
LINK = istr("Link")
NOSNIFF = istr("X-Content-Type-Options")
CHECKED_AT = istr("Cluster-Checked-At")
STALE = istr("Cluster-Stale")
AUTH = istr("Cluster-Auth")
"""On the responses of a service that needs no credential, with the value `none`."""

COMMON_HEADERS = ((NOSNIFF, "nosniff"), (SERVER, "cluster-events"))
"""On every response. Without `Server`, aiohttp would add its version."""
