"""The sandbox's contract over HTTP: a client, and a server that wraps a local sandbox."""
