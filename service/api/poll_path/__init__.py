"""The poll path: the protocol of a connection, which responds to heads that it has seen before."""
